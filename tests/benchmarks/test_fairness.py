"""Small runs beside a large one: a few for real, and what the report says of them."""

from pathlib import Path

import pytest

from benchmarks.fairness import _RUNS, MEASURES, _summaries, measure_alone, measure_beside, table
from benchmarks.process import BenchmarkError


@pytest.mark.parametrize("at_once", [1, 2])
def test_small_runs_alone_are_stored(at_once: int, tmp_path: Path) -> None:
    told = measure_alone(at_once, 0, tmp_path, runs=4)
    assert 0 < told["p50"] <= told["p99"] <= told["max"]


def test_small_runs_beside_a_large_one_are_stored(tmp_path: Path) -> None:
    told = measure_beside(1, 40_000, tmp_path, runs=1)
    assert 0 < told["p50"] == told["max"]
    assert told["large_with"] > 0
    assert told["large_after"] > 0


def test_a_large_run_that_ends_first_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="ended first: 10 items are too few"):
        measure_beside(1, 10, tmp_path, runs=3)


def test_the_table_shows_every_wait_and_rate() -> None:
    waits = {"p50": 1.5, "p99": 20.5, "max": 300.5}
    rates = {"large_with": 40_000.0, "large_after": 50_000.0}
    results = {name: _summaries([waits | (rates if "beside" in name else {})]) for name in MEASURES}
    lines = table(
        {
            "environment": {"python": "CPython"},
            "command": "python -m benchmarks fairness",
            "seconds": 1.0,
            "cpu_seconds_stolen": 2.0,
            "results": results,
        }
    ).splitlines()
    told = [" ".join(line.split()) for line in lines]
    assert f"{_RUNS} small runs beside, 5 at a time, p99 20.5 20.5 20.5" in told
    assert f"{_RUNS} small runs beside, 1 at a time 40,000 40,000 40,000" in told
    assert "after they have ended 50,000 50,000 50,000" in told
    assert "2 CPU s stolen by the machine's host" in told
