"""What a very large run does to small ones beside it in the same runtime, and they to it."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import trio

from benchmarks import environment
from benchmarks.baselines import DEADLINE, RUN_DEADLINE, STAGES, WORKERS
from benchmarks.latency.figure import quantile
from benchmarks.process import BenchmarkError, measure_apart
from stagerun import Pipeline, Run, Runtime, open_runtime, stage

__all__ = ["MEASURES", "run", "table"]

_LARGE = "fairness-large"
_RUNS = 100
_FEWEST = 20
"""Small runs without which there is no figure."""
_SMALL = 10
"""Items of a small run."""
_AT_ONCE = (1, 5)
_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
_FILE = "stagerun.db"
_STORED = """
    SELECT count(DISTINCT run) FILTER (WHERE pipeline = 'small'), count(*)
    FROM items JOIN runs USING (run) JOIN generations g USING (run, generation)
    WHERE outcome = 0 AND g.status = 'succeeded'
"""


def run(items: int, repeats: int, directory: Path | None = None) -> dict[str, Any]:
    """Measure in rounds: small runs alone, and beside one of *items*."""
    machine = environment.describe(directory)
    began, stolen_before = perf_counter(), environment.stolen()
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in MEASURES}
    for _ in range(repeats):
        for name, taken in samples.items():
            taken.append(measure_apart(name, items, directory))
    return {
        "benchmark": "fairness",
        "command": f"python -m benchmarks fairness --items {items} --repeats {repeats}",
        "environment": machine,
        "items": items,
        "repeats": repeats,
        "seconds": perf_counter() - began,
        "cpu_seconds_stolen": environment.stolen_since(stolen_before),
        "results": {name: _summaries(taken) for name, taken in samples.items()},
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    results = report["results"]
    lines.append(f"{'milliseconds from start() to the end on disk':<48}{_heads()}")
    for name in (name for name in results if name in _TITLES):
        title, result = f"{_TITLES[name]} (n {results[name]['n']['median']:.0f})", results[name]
        lines += [f"{title + ', ' + which:<48}{_cells(result[which])}" for which in _QUANTILES]
    lines += ["", f"{'items/s of the large run':<48}{_heads()}"]
    lines.append(f"{'alone':<48}{_cells(results[_LARGE]['large_rate'], 0)}")
    for name in (name for name in _TITLES if "large_rate" in results[name]):
        lines.append(f"{_TITLES[name]:<48}{_cells(results[name]['large_rate'], 0)}")
    lines += ["", f"{report['seconds']:.0f} s in all"]
    if report["cpu_seconds_stolen"] is not None:
        lines.append(f"{report['cpu_seconds_stolen']:.0f} CPU s stolen by the machine's host")
    return "\n".join(lines)


def _heads() -> str:
    return "".join(f"{head:>10}" for head in ("median", "min", "max"))


def _cells(summary: dict[str, float], digits: int = 1) -> str:
    return "".join(f"{summary[key]:>10,.{digits}f}" for key in ("median", "min", "max"))


def _summaries(samples: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        key: {"median": median(values), "min": min(values), "max": max(values)}
        for key in samples[0]
        for values in [[sample[key] for sample in samples]]
    }


def measure_large(items: int, directory: Path) -> dict[str, float]:
    """Measure the large run in a runtime that has nothing else to do."""

    async def program(runtime: Runtime) -> dict[str, float]:
        began = perf_counter()
        large = await runtime.start(_pipeline("large"), lambda: range(items))
        await large.wait()
        return {"large_rate": items / (perf_counter() - began)}

    return _measure(program, items, directory)


def measure_alone(
    at_once: int, _items: int, directory: Path, runs: int = _RUNS
) -> dict[str, float]:
    """Measure small runs in a runtime that has nothing else to do."""

    async def program(runtime: Runtime) -> dict[str, float]:
        return _told(await _waits(runtime, runs, at_once, lambda: True))

    return _measure(program, 0, directory)


def measure_beside(
    at_once: int, items: int, directory: Path, runs: int = _RUNS
) -> dict[str, float]:
    """Measure small runs beside one of *items*: as many as have ended before it has."""

    async def program(runtime: Runtime) -> dict[str, float]:
        large = await runtime.start(_pipeline("large"), lambda: range(items))
        while not _done(large):  # noqa: ASYNC110  # nobody announces what is committed
            await trio.sleep(0.01)
        began, before = perf_counter(), _done(large)
        waits = await _waits(runtime, runs, at_once, lambda: _done(large) < items)
        rate = (_done(large) - before) / (perf_counter() - began)
        if len(waits) < min(runs, _FEWEST):
            raise BenchmarkError(f"the large run ended too soon: {items} items are too few")
        await large.wait()
        return {**_told(waits), "large_rate": rate}

    return _measure(program, items, directory)


def _measure(
    program: Callable[[Runtime], Awaitable[dict[str, float]]], items: int, directory: Path
) -> dict[str, float]:
    path = directory / _FILE

    async def main() -> dict[str, float]:
        async with open_runtime(path) as runtime:
            return await program(runtime)

    told = trio.run(main)
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        small, stored = connection.execute(_STORED).fetchone()
    expected = (items + small * _SMALL) * len(STAGES)
    if stored != expected or small < told.get("n", 0):
        raise BenchmarkError(f"{stored} of {expected} outcomes are stored, {small} small runs")
    return told


async def _waits(
    runtime: Runtime, runs: int, at_once: int, goes_on: Callable[[], bool]
) -> list[float]:
    """Start small runs, *at_once* at any time; return how many seconds each took.

    What has ended when nothing *goes_on* beside it any more does not count.
    """
    pipeline, waits = _pipeline("small"), list[float]()

    async def one_after_the_other(number: int) -> None:
        for _ in range(number):
            began = perf_counter()
            result = await (await runtime.start(pipeline, range(_SMALL))).wait()
            result.raise_for_status()
            if not goes_on():
                return
            waits.append(perf_counter() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(one_after_the_other, runs // at_once)
    return waits


def _pipeline(name: str) -> Pipeline:
    declare = stage(workers=WORKERS, deadline=DEADLINE)
    stages = [declare(function) for function in STAGES]
    return Pipeline(name, stages, deadline=RUN_DEADLINE)


def _done(large: Run) -> int:
    return large.counts[-1].settled


def _told(waits: Sequence[float]) -> dict[str, float]:
    quantiles = {which: 1000 * quantile(waits, share) for which, share in _QUANTILES.items()}
    return {"n": len(waits), **quantiles}


_KINDS = {"alone": measure_alone, "beside": measure_beside}
_TITLES = {
    f"fairness-{kind}-{at_once}": f"small runs {kind}, {at_once} at a time"
    for at_once in _AT_ONCE
    for kind in _KINDS
}
MEASURES: dict[str, Callable[[int, Path], dict[str, float]]] = {
    _LARGE: measure_large,
    **{
        f"fairness-{kind}-{at_once}": partial(measure, at_once)
        for at_once in _AT_ONCE
        for kind, measure in _KINDS.items()
    },
}
