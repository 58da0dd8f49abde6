"""Small runs beside a large one: a few for real, and what the report says of them."""

from pathlib import Path

import pytest

from benchmarks.fairness import (
    MEASURES,
    _summaries,
    measure_alone,
    measure_beside,
    measure_large,
    table,
)
from benchmarks.process import BenchmarkError


@pytest.mark.parametrize("at_once", [1, 2])
def test_small_runs_alone_are_stored(at_once: int, tmp_path: Path) -> None:
    told = measure_alone(at_once, 0, tmp_path, runs=4)
    assert 0 < told["p50"] <= told["p99"] <= told["max"]


def test_a_large_run_alone_is_stored(tmp_path: Path) -> None:
    assert measure_large(50, tmp_path)["large_rate"] > 0


def test_small_runs_beside_a_large_one_are_stored(tmp_path: Path) -> None:
    told = measure_beside(1, 40_000, tmp_path, runs=1)
    assert told["n"] == 1
    assert 0 < told["p50"] == told["max"]
    assert told["large_rate"] > 0


def test_a_large_run_that_ends_first_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="ended too soon: 10 items are too few"):
        measure_beside(1, 10, tmp_path, runs=3)


def test_the_table_shows_every_wait_and_rate() -> None:
    waits = {"n": 80, "p50": 1.5, "p99": 20.5, "max": 300.5}
    rate = {"large_rate": 40_000.0}
    kinds = {"fairness-large": rate, "fairness-beside-1": waits | rate}
    results = {name: _summaries([kinds.get(name, waits)]) for name in MEASURES}
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
    assert "small runs alone, 5 at a time (n 80), p99 20.5 20.5 20.5" in told
    assert "alone 40,000 40,000 40,000" in told
    assert "small runs beside, 1 at a time 40,000 40,000 40,000" in told
    assert "2 CPU s stolen by the machine's host" in told
