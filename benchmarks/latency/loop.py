"""One event loop: how soon runs are cancelled, items cut, and whoever blocks it is found out."""

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import trio
import trio.lowlevel

from benchmarks.latency.figure import Figure, quantile
from benchmarks.latency.program import heard, program, seen
from benchmarks.process import BenchmarkError, measure_apart
from stagerun import Pipeline, open_runtime, stage

__all__ = ["MEASURES", "blocked", "cancel", "overdue", "overshoot"]

_ITEMS = 1_000
_LIMITS = [0.2 + 0.3 * number / 49 for number in range(50)]
"""Seconds; a stage has one deadline for all its items, so there is a run for each."""
_SLICE = 0.001
"""Seconds that the stage beside them computes before it yields."""


@stage(workers=_ITEMS, deadline=None)
async def hang(_: int) -> None:
    await trio.sleep_forever()


def cancel(repeats: int, directory: Path) -> list[Figure]:
    """From ``run.cancel()`` until the ending is on disk, with 1,000 items in flight."""
    samples = list(measure_apart("latency-cancel", repeats, directory).values())
    bare = list(measure_apart("latency-cancel-bare", repeats, directory).values())
    where = {"the same many tasks of trio alone": round(quantile(bare, 0.5))}
    title = f"cancel with {_ITEMS:,} items in flight"
    return [Figure(title, samples, bound=50, judged=0.99, where=where)]


def _measure_cancel(repeats: int, directory: Path) -> dict[str, float]:
    return _numbered(trio.run(_cancel, repeats, directory / "cancel.db"))


def _measure_cancel_bare(repeats: int, _: Path) -> dict[str, float]:
    return _numbered(trio.run(_cancel_bare, repeats))


async def _cancel_bare(repeats: int) -> list[float]:
    samples = []
    for _ in range(repeats):
        async with trio.open_nursery() as nursery:
            for _ in range(_ITEMS):
                nursery.start_soon(trio.sleep_forever)
            await trio.sleep(0.1)
            began = time.perf_counter()
            nursery.cancel_scope.cancel()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def _numbered(samples: list[float]) -> dict[str, float]:
    return {str(number): sample for number, sample in enumerate(samples)}


async def _cancel(repeats: int, path: Path) -> list[float]:
    samples = []
    async with open_runtime(path) as runtime:
        for number in range(repeats):
            run = await runtime.start(Pipeline("hang", [hang]), range(_ITEMS))
            with trio.fail_after(60):
                while run.counts[0].in_flight < _ITEMS:  # noqa: ASYNC110 - no event tells it
                    await trio.sleep(0.01)
            await trio.sleep(0.037 * number % 0.25)
            began = time.perf_counter()
            await run.cancel()
            result = await run.wait()  # it returns when the ending is committed
            samples.append((time.perf_counter() - began) * 1000)
            if result.status != "cancelled" or _stored(path, run.id) != ("cancelled", _ITEMS):
                raise BenchmarkError(f"the run was not cancelled: {result}")
    return samples


def _stored(path: Path, run: str) -> tuple[str, int]:
    sql = (
        "SELECT g.status, s.cancelled FROM runs r JOIN generations g USING (run)"
        " JOIN stages s USING (run) WHERE r.id = ?"
    )
    with closing(sqlite3.connect(path)) as connection:
        row: tuple[str, int] = connection.execute(sql, (run,)).fetchone()
        return row


def overshoot(repeats: int, directory: Path) -> list[Figure]:
    """How long items that sleep for ever outlive their deadlines, beside a stage that computes."""
    samples = list(measure_apart("latency-overshoot", repeats, directory).values())
    title = f"deadline overshoot, {_ITEMS:,} items in flight"
    return [Figure(title, samples, bound=20, judged=0.99)]


def _measure_overshoot(repeats: int, directory: Path) -> dict[str, float]:
    path = directory / "overshoot.db"
    for _ in range(repeats):
        trio.run(_overshoot, path)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT r.pipeline, i.elapsed / 1e3 FROM items i JOIN runs r USING (run)"
            " WHERE i.outcome = 2"
        ).fetchall()
    if len(rows) != repeats * _ITEMS:
        raise BenchmarkError(f"{len(rows)} of {repeats * _ITEMS} items timed out")
    limits = (_LIMITS[int(name.rpartition("-")[2])] for name, _ in rows)
    return _numbered([row[1] - 1000 * limit for row, limit in zip(rows, limits, strict=True)])


async def _overshoot(path: Path) -> None:
    share, over, gate = _ITEMS // len(_LIMITS), False, trio.Event()

    @stage(deadline=None)
    async def compute(_: int) -> None:
        while not over:
            ends = time.perf_counter() + _SLICE
            while time.perf_counter() < ends:
                pass
            await trio.lowlevel.checkpoint()

    async def source() -> AsyncIterator[int]:
        await gate.wait()  # all runs have started: the items are in flight together
        for item in range(share):
            yield item

    async with open_runtime(path) as runtime:
        runs = []
        for number, limit in enumerate(_LIMITS):

            @stage(workers=share, deadline=limit)
            async def sleep(_: int) -> None:
                await trio.sleep_forever()

            runs.append(await runtime.start(Pipeline(f"sleep-{number}", [sleep], source=source)))
        busy = await runtime.start(Pipeline("compute", [compute]), [1])
        gate.set()
        for run in runs:
            await run.wait()
        over = True
        await busy.wait()


_OVERDUE = """
import sys, time, trio
from stagerun import Pipeline, open_runtime, stage

@stage(deadline=None)
async def block(item):
    print(item, flush=True)
    time.sleep(3.5)

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        for number in range(int(sys.argv[2])):
            await trio.sleep(0.237 * number % 1.0)
            pipeline = Pipeline("block", [block], deadline=0.5, grace=0.25)
            await (await runtime.start(pipeline, [number])).wait()

trio.run(main)
"""


def overdue(repeats: int, directory: Path) -> list[Figure]:
    """A stage blocks the event loop beyond its run's deadline: how late is the row's status?"""
    path, samples = directory / "overdue.db", []
    with program(_OVERDUE, path, repeats) as blocker:
        for number in range(repeats):
            heard(blocker)
            ended = "SELECT 1 FROM generations WHERE run = ? AND status = 'timed_out'"
            at = seen(path, ended, number + 1)
            offset = time.time() - time.monotonic()
            with closing(sqlite3.connect(path)) as connection:
                sql = "SELECT (deadline_at + grace) / 1e6 FROM generations WHERE run = ?"
                (due,) = connection.execute(sql, (number + 1,)).fetchone()
            samples.append((at + offset - due) * 1000)
    return [Figure("status of a run behind a blocked loop, beyond its grace", samples, bound=1000)]


_BLOCKED = """
import sys, time, trio
from stagerun import Pipeline, open_runtime, stage

@stage(deadline=None)
async def block(item):
    print(time.monotonic(), flush=True)
    time.sleep(1.0)

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        for number in range(int(sys.argv[2])):
            await trio.sleep(1.5 + 0.0137 * number % 0.1)  # 30 reports a minute are made at most
            await (await runtime.start(Pipeline("block", [block]), [1])).wait()

trio.run(main)
"""


def blocked(repeats: int, directory: Path) -> list[Figure]:
    """From the beginning of a block of the event loop to the line in the log that names it."""
    samples = []
    with program(_BLOCKED, directory / "blocked.db", repeats, log=True) as blocker:
        assert blocker.stderr is not None
        for _ in range(repeats):
            began = float(heard(blocker))
            for line in blocker.stderr:
                if "blocks the event loop" in line:
                    break
            else:
                raise BenchmarkError("a blocked event loop was not reported")
            samples.append((time.monotonic() - began) * 1000)
    return [Figure("blocked event loop, named in the log", samples, bound=400, judged=0.99)]


MEASURES = {
    "latency-cancel": _measure_cancel,
    "latency-cancel-bare": _measure_cancel_bare,
    "latency-overshoot": _measure_overshoot,
}
"""Each in a process of its own, with the number of its repeats."""
