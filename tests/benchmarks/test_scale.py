"""How cost grows: a few of each for real, and what the report says of them."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import BenchmarkError
from benchmarks.scale import SERIES, _figure, _goals, _summary, table
from benchmarks.scale.sleepers import measure_sleepers
from benchmarks.scale.stored import check_stored

_SMALL = {"items": (5, 5), "runs": (3, 6), "workers": (2, 5), "results": (1_000, 4)}


@pytest.mark.parametrize("name", list(_SMALL))
def test_a_figure_is_of_what_is_stored(name: str, tmp_path: Path) -> None:
    size, items = _SMALL[name]
    figures = SERIES[name].measure(size, items, tmp_path)
    assert (figures["items"], figures["steps"]) == (items, 3 * items)
    assert figures["steps_per_second"] == figures["steps"] / figures["seconds"]
    assert figures["bytes_per_item"] == pytest.approx(3 * figures["bytes_per_step"])
    assert figures["peak_mb"] >= figures["start_mb"] > 1
    assert all(figures[key] >= 0 for key in SERIES[name].told)
    check_stored(tmp_path, size if name == "runs" else 1, 3 * items)


@pytest.mark.parametrize(("runs", "items"), [(1, 4), (4, 1)])
def test_nobody_wakes_before_all_have_slept(runs: int, items: int, tmp_path: Path) -> None:
    figures = measure_sleepers(runs, items, tmp_path, quiet=0.1)
    assert (figures["items"], figures["steps"]) == (4, 4)
    assert figures["asleep_after"] + 0.1 < figures["seconds"]
    assert figures["quiet_cpu_percent"] >= 0
    check_stored(tmp_path, runs, 4)


def test_what_is_not_stored_is_no_figure(tmp_path: Path) -> None:
    SERIES["results"].measure(100, 3, tmp_path)
    check_stored(tmp_path, 1, 9, 100)
    for runs, steps, size in ((2, 9, 100), (1, 12, 100), (1, 9, 200)):
        with pytest.raises(BenchmarkError, match="there are 1 with"):
            check_stored(tmp_path, runs, steps, size)


def test_sizes_end_at_the_largest_that_was_asked_for() -> None:
    assert SERIES["items"].sizes_to(10_000) == [1_000, 10_000]
    assert SERIES["items"].sizes_to(1) == [1_000]
    assert SERIES["results"].sizes_to(10**9)[-1] == 1_000_000
    assert [SERIES["results"].items(size) for size in (100, 10**5, 10**6)] == [10_000, 1_000, 100]


def test_goals_are_judged_at_the_largest_size_alone() -> None:
    few, many = ({"size": size, "peak_mb": _summary([peak])} for size, peak in _PEAKS)
    (rise,) = _goals(SERIES["items"], [few, many])
    assert (rise["figure"], rise["bound"], rise["met"]) == (61, 60, False)
    assert _goals(SERIES["items"], [few]) == []
    assert _goals(SERIES["items"], [few, {"size": 1_000_000, "not_measured": "why"}]) == []


def test_one_sample_that_is_none_makes_no_figure() -> None:
    failed = BenchmarkError("the log of the run\nit did not end")
    assert _figure(10, [{"peak_mb": 1.0}, failed])["not_measured"] == "it did not end"
    assert _figure(10, [{"peak_mb": 1.0}, {"peak_mb": 3.0}]) == {
        "size": 10,
        "peak_mb": {"median": 2.0, "min": 1.0, "max": 3.0},
    }


_PEAKS = ((1_000, 40), (1_000_000, 101))


def test_the_table_shows_every_figure_and_verdict() -> None:
    keys = ("steps_per_second", "cpu_seconds_per_1000_steps", "peak_mb", "growth_mb")
    figures: dict[str, Any] = {
        key: _summary([1_234.5])
        for key in (*keys, "bytes_per_item", "bytes_per_step", *SERIES["sleeping-runs"].told)
    }
    failed = {"size": 5_000, "not_measured": "it did not end"}
    few, many = ({"size": size, **figures} for size in (1_000, 10_000))
    results = {"sleeping-runs": [few, failed, many]}
    text = table(
        {
            "environment": {"python": "CPython"},
            "command": "python -m benchmarks scale",
            "seconds": 1.0,
            "cpu_seconds_stolen": None,
            "results": results,
            "goals": _goals(SERIES["sleeping-runs"], results["sleeping-runs"]),
        }
    )
    assert "sleeping runs of one item" in text
    assert "5,000 not measured: it did not end" in text
    assert "asleep after" in text
    assert "1,234.5000" in text
    assert "10,000 sleeping runs of one item: peak, MB" in text
    assert "1234.5    250 MISSED" in text
