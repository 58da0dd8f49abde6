"""Resume: what it costs to find what is left, against a run of that much and nothing else."""

import time
from pathlib import Path

import trio

from benchmarks.latency.figure import Figure
from benchmarks.process import BenchmarkError, measure_apart
from stagerun import Pipeline, open_runtime, stage

__all__ = ["NAME", "measure", "resume"]

NAME = "latency-resume"
_ITEMS = 100_000
_WORKERS = 4


def resume(repeats: int, directory: Path) -> list[Figure]:
    """Interrupt a run of three stages half-way; resume it; run the half alone in a new file."""
    runs = [measure_apart(NAME, _ITEMS, directory) for _ in range(repeats)]
    first = [run["first"] * 1000 for run in runs]
    ratios = [run["whole"] / run["alone"] for run in runs]
    return [
        Figure(f"resume of {_ITEMS:,} items, half final: first new item", first),
        Figure("the same, to its end: against a run of the half", ratios, unit="x"),
    ]


def measure(items: int, directory: Path) -> dict[str, float]:
    """Return seconds from the resume to the first new item and the end; and of half a run."""
    return trio.run(_measure, items, directory)


async def _measure(items: int, directory: Path) -> dict[str, float]:
    half, path = items // 2, directory / "resume.db"
    last, began, first = half, 0.0, 0.0

    @stage(workers=_WORKERS)
    async def one(item: int) -> int:
        nonlocal first
        if item >= last:
            await trio.sleep_forever()
        if not first:
            first = time.perf_counter() - began
        return item

    @stage(workers=_WORKERS)
    async def two(item: int) -> int:
        return item

    @stage(workers=_WORKERS)
    async def three(item: int) -> int:
        return item

    def pipeline(of: int) -> Pipeline:
        return Pipeline("resume", [one, two, three], source=lambda: range(of))

    async with open_runtime(path) as runtime:
        run = await runtime.start(pipeline(items))
        with trio.fail_after(600):
            while run.counts[-1].ok < half:  # noqa: ASYNC110 - no event tells it
                await trio.sleep(0.05)
    async with open_runtime(path) as runtime:
        last, began, first = items, time.perf_counter(), 0.0
        again = await runtime.resume(run.id, pipeline(items))
        result = await again.wait()
        whole = time.perf_counter() - began
    if result.status != "succeeded" or result.stages[-1].ok != items:
        raise BenchmarkError(f"the resumed run did not succeed: {result}")
    found = first
    async with open_runtime(directory / "alone.db") as runtime:
        began = time.perf_counter()
        result = await (await runtime.start(pipeline(half))).wait()
        alone = time.perf_counter() - began
    if result.status != "succeeded" or result.stages[-1].ok != half:
        raise BenchmarkError(f"the run of the half did not succeed: {result}")
    return {"first": found, "whole": whole, "alone": alone}
