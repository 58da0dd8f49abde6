"""Very many that sleep at once: items of one run, and runs of one item each."""

from pathlib import Path
from time import perf_counter, process_time

import trio
from attrs import define, field

from benchmarks.process import BenchmarkError
from benchmarks.scale.metering import metered
from benchmarks.scale.stored import check_stored
from benchmarks.scale.work import started, succeeded
from stagerun import Pipeline, Run, Runtime, stage

__all__ = ["measure_sleeping_items", "measure_sleeping_runs"]

_LEAST = 5.0
"""Seconds that each sleeps at least."""
_STARTS = 400
"""Runs that are surely started in a second: one that sleeps waits for all to be asleep."""


def measure_sleeping_items(size: int, _items: int, directory: Path) -> dict[str, float]:
    """Measure one run with *size* items that sleep, each in a worker of its own."""
    return _measure(1, size, _LEAST, directory)


def measure_sleeping_runs(size: int, _items: int, directory: Path) -> dict[str, float]:
    """Measure *size* runs of one runtime, with one item each that sleeps."""
    return _measure(size, 1, _LEAST + size / _STARTS, directory)


def _measure(runs: int, items: int, seconds: float, directory: Path) -> dict[str, float]:
    dormitory = _Dormitory(runs * items)

    async def sleep(item: int) -> int:
        await dormitory.sleep(seconds)
        return item

    stages = [stage(workers=items, deadline=10 * seconds)(sleep)]
    pipeline = Pipeline("sleepers", stages, source=lambda: range(items))

    async def program(runtime: Runtime) -> dict[str, float]:
        began, used = perf_counter(), process_time()
        runs_begun = await started(runtime, pipeline, runs)
        with trio.move_on_after(seconds):
            await dormitory.full.wait()
        fell_asleep = perf_counter() - began
        busy = process_time() - used
        quiet = await _processor_share(seconds / 4)
        await _awake(runs_begun, dormitory)
        return {"asleep_after": fell_asleep, "start_cpu_seconds": busy, "quiet_cpu_percent": quiet}

    figures = metered(program, runs * items, runs * items, directory)
    check_stored(directory, runs, runs * items)
    return figures


@define
class _Dormitory:
    """Counts who sleeps: the figure is about all of them at once."""

    beds: int
    asleep: int = 0
    full: trio.Event = field(factory=trio.Event)

    async def sleep(self, seconds: float) -> None:
        self.asleep += 1
        if self.asleep == self.beds:
            self.full.set()
        await trio.sleep(seconds)
        self.asleep -= 1


async def _processor_share(seconds: float) -> float:
    """Return how much of one processor is used while nothing happens, in percent."""
    began, used = perf_counter(), process_time()
    await trio.sleep(seconds)
    return 100 * (process_time() - used) / (perf_counter() - began)


async def _awake(runs: list[Run], dormitory: _Dormitory) -> None:
    if not dormitory.full.is_set():
        raise BenchmarkError(f"never were all {dormitory.beds} asleep at once")
    await succeeded(runs)
