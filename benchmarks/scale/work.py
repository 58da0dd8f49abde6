"""Pipelines of three stages, larger and larger in one respect: items, runs, workers, results."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

from benchmarks.baselines import DEADLINE, RUN_DEADLINE, WORKERS
from benchmarks.process import BenchmarkError
from benchmarks.scale.metering import metered
from benchmarks.scale.stored import check_stored
from stagerun import Pipeline, Run, Runtime, stage

__all__ = [
    "measure_items",
    "measure_results",
    "measure_runs",
    "measure_workers",
    "started",
    "succeeded",
]

_NAMES = ("one", "two", "three")
_STARTERS = 100
"""Tasks that start runs at the same time."""


def measure_items(size: int, _items: int, directory: Path) -> dict[str, float]:
    """Measure one run of *size* items."""

    async def pass_on(item: int) -> int:
        return item

    return _measure_one(_pipeline(pass_on), size, directory)


def measure_workers(size: int, items: int, directory: Path) -> dict[str, float]:
    """Measure stages of *size* workers that let each other run, so that many have an item."""

    async def let_others_run(item: int) -> int:
        await trio.lowlevel.checkpoint()
        return item

    return _measure_one(_pipeline(let_others_run, workers=size), items, directory)


def measure_results(size: int, items: int, directory: Path) -> dict[str, float]:
    """Measure results of *size* bytes, in every stage."""

    async def make(_item: Any) -> bytes:
        return bytes(size)

    pipeline = _pipeline(make, result_limit=2 * size + 100)
    return _measure_one(pipeline, items, directory, size)


def measure_runs(size: int, items: int, directory: Path) -> dict[str, float]:
    """Measure *size* runs that share *items*; none goes on before all have begun."""
    gate = trio.Event()

    async def pass_gate(item: int) -> int:
        await gate.wait()
        return item

    each = items // size
    pipeline = _pipeline(pass_gate, deadline=RUN_DEADLINE)  # the gate may stay closed for long

    async def program(runtime: Runtime) -> dict[str, float]:
        began = perf_counter()
        runs = await started(runtime, pipeline, range(each), size)
        opened = perf_counter()
        gate.set()
        await succeeded(runs)
        return {"start_seconds": opened - began, "work_seconds": perf_counter() - opened}

    steps = size * each * len(_NAMES)
    figures = metered(program, size * each, steps, directory)
    check_stored(directory, size, steps)
    return figures


async def started(runtime: Runtime, pipeline: Pipeline, items: range, number: int) -> list[Run]:
    """Start *number* runs of these items, by many tasks at once as a service does."""
    runs: list[Run] = []

    async def start_some(some: int) -> None:
        for _ in range(some):
            runs.append(await runtime.start(pipeline, items))  # noqa: PERF401  # one list

    async with trio.open_nursery() as nursery:
        for starter in range(_STARTERS):
            nursery.start_soon(start_some, len(range(starter, number, _STARTERS)))
    return runs


async def succeeded(runs: list[Run]) -> None:
    for run in runs:
        result = await run.wait()
        if result.status != "succeeded":
            raise BenchmarkError(f"a run did not succeed: {result}")


def _pipeline(function: Callable[[Any], Awaitable[Any]], **options: Any) -> Pipeline:
    options = {"workers": WORKERS, "deadline": DEADLINE, **options}
    declare = [stage(name=name, **options) for name in _NAMES]
    stages = [each(function) for each in declare]
    return Pipeline("scale", stages, deadline=RUN_DEADLINE)


def _measure_one(
    pipeline: Pipeline, items: int, directory: Path, result_size: int = 1
) -> dict[str, float]:
    async def program(runtime: Runtime) -> dict[str, float]:
        # From a function: the items are not stored, only what becomes of them.
        await succeeded([await runtime.start(pipeline, lambda: range(items))])
        return {}

    steps = items * len(_NAMES)
    figures = metered(program, items, steps, directory)
    check_stored(directory, 1, steps, result_size)
    return figures
