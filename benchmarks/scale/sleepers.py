"""Very many that sleep at once: items of one run, and runs of one item each."""

from pathlib import Path
from time import perf_counter, process_time

import trio
from attrs import define, field

from benchmarks.baselines import RUN_DEADLINE
from benchmarks.process import BenchmarkError
from benchmarks.scale.metering import metered
from benchmarks.scale.stored import check_stored
from benchmarks.scale.work import started, succeeded
from stagerun import Pipeline, Runtime, stage

__all__ = ["measure_sleepers", "measure_sleeping_items", "measure_sleeping_runs"]

_QUIET = 5.0
"""Seconds for which all are left asleep."""
_FILLED_WITHIN = 900.0


def measure_sleeping_items(size: int, _items: int, directory: Path) -> dict[str, float]:
    """Measure one run with *size* items that sleep, each in a worker of its own."""
    return measure_sleepers(1, size, directory)


def measure_sleeping_runs(size: int, _items: int, directory: Path) -> dict[str, float]:
    """Measure *size* runs of one runtime, with one item each that sleeps."""
    return measure_sleepers(size, 1, directory)


def measure_sleepers(
    runs: int, items: int, directory: Path, quiet: float = _QUIET
) -> dict[str, float]:
    """Measure as many runs with as many items, of which all sleep for *quiet* seconds at least."""
    number = runs * items
    # Long enough that hardly anybody wakes before the last one has fallen asleep.
    dormitory = _Dormitory(number, nap=2 * quiet + number / 500)

    async def sleep(item: int) -> int:
        await dormitory.sleep()
        return item

    stages = [stage(workers=items, deadline=RUN_DEADLINE)(sleep)]
    pipeline = Pipeline("sleepers", stages, deadline=RUN_DEADLINE)

    async def program(runtime: Runtime) -> dict[str, float]:
        began, used = perf_counter(), process_time()
        sleeping = await started(runtime, pipeline, range(items), runs)
        await dormitory.filled()
        told = {"asleep_after": perf_counter() - began, "start_cpu": process_time() - used}
        told["quiet_cpu_percent"] = await _processor_share(quiet)
        dormitory.morning = True
        await succeeded(sleeping)
        return told

    figures = metered(program, number, number, directory)
    check_stored(directory, runs, number)
    return figures


@define
class _Dormitory:
    """Where nobody leaves before all have been asleep at once: the figure is about that."""

    beds: int
    nap: float
    morning: bool = False
    _asleep: int = 0
    _full: trio.Event = field(factory=trio.Event)

    async def sleep(self) -> None:
        self._asleep += 1
        if self._asleep == self.beds:
            self._full.set()
        while not self.morning:  # noqa: ASYNC110  # sleeping is what is measured
            await trio.sleep(self.nap)

    async def filled(self) -> None:
        with trio.move_on_after(_FILLED_WITHIN) as scope:
            await self._full.wait()
        if scope.cancelled_caught:
            raise BenchmarkError(f"{self._asleep} of {self.beds} are asleep")


async def _processor_share(seconds: float) -> float:
    """Return how much of one processor is used while nothing happens, in percent."""
    began, used = perf_counter(), process_time()
    await trio.sleep(seconds)
    return 100 * (process_time() - used) / (perf_counter() - began)
