"""Stages in earnest against hand-written ones: both sides for real, and what the report says."""

from pathlib import Path

import pytest
from attrs import evolve

from benchmarks.process import BenchmarkError
from benchmarks.real import COMPARISONS, MEASURES, _result, table
from benchmarks.real.by_hand import measure_by_hand
from benchmarks.real.cases import CASES, Stored
from benchmarks.real.with_stagerun import measure_with_stagerun


@pytest.mark.parametrize("name", list(MEASURES))
def test_each_side_stores_what_the_case_leaves_behind(name: str, tmp_path: Path) -> None:
    assert MEASURES[name](5, tmp_path)["seconds"] > 0


@pytest.mark.parametrize("measure", [measure_by_hand, measure_with_stagerun])
def test_what_is_not_stored_is_no_figure(measure: object, tmp_path: Path) -> None:
    assert callable(measure)
    wrong = evolve(CASES["failing"], stored=lambda _: Stored(ok=1))
    with pytest.raises(BenchmarkError, match=r"should hold .*failed=2, attempts=13.*errors=2"):
        measure(wrong, 5, tmp_path)


def test_a_ratio_is_of_seconds_or_of_items_a_second() -> None:
    against_hand, commit_first = COMPARISONS["large"], COMPARISONS["commit-first"]
    assert against_hand.judge(1.4, 1.0) == {
        "ratio": 1.4, "of": "seconds", "most": 1.3, "met": False,
    }  # fmt: skip
    assert commit_first.judge(1.25, 1.0) == {
        "ratio": 0.8, "of": "items/s", "least": 0.7, "met": True,
    }  # fmt: skip


def test_some_items_are_more_work() -> None:
    asked = {name: each.items(100) for name, each in COMPARISONS.items()}
    assert (asked["large"], asked["children"], asked["waits"]) == (20, 10, 100)
    assert COMPARISONS["children"].items(1) == 1


def test_the_table_shows_both_sides_the_ratio_and_the_goal() -> None:
    samples = {
        "large": {"stagerun": [1.0, 2.0, 3.0], "by hand": [4.0, 4.0, 4.0]},
        "commit-first": {"commit first": [4.0], "default": [2.0]},
    }
    results = {name: _result(COMPARISONS[name], 100, each) for name, each in samples.items()}
    lines = table(
        {
            "environment": {"python": "CPython"},
            "command": "python -m benchmarks real",
            "seconds": 1.0,
            "cpu_seconds_stolen": None,
            "results": results,
        }
    ).splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert (
        "results of 10 kB: stagerun 20 2.00 1.00 3.00 0.50"
        " at most 1.3 of the other's seconds: met" in told
    )
    assert "results of 10 kB: by hand 20 4.00 4.00 4.00" in told
    assert any(line.endswith("at least 0.7 of the other's items/s: MISSED") for line in told)
