"""The lives after the first one: settle what a killed process has left, and finish it.

What comes out must be what an uncrashed run gives. Such a life may be killed like any other.
"""

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import trio

from stagerun import Result, Run, Runtime, UsageError, open_runtime
from stagerun.engine.admission import AlreadyOpenError
from tests.campaign.histories import History
from tests.campaign.told import Say
from tests.campaign.workloads import Order, Workload, environment, prepare, say_result
from tests.campaign.works import RESULTS, SideFile, Works

__all__ = ["SETTLED_WITHIN", "next_life"]

SETTLED_WITHIN: Final = 1.0
"""Seconds of a start after which no run of a dead process may be open."""
_ENDED_WITHIN: Final = 25.0
_LONGEST_TEXT: Final = 3_000


async def next_life(
    workload: Workload, path: Path, side: SideFile, say: Say, history: History
) -> None:
    """Open what is left, repeat each start, and bring every run to its end."""

    def wrong(words: str) -> None:
        say(["wrong", words[:_LONGEST_TEXT]])

    works = Works(side)
    prepare(workload, path)
    schedules = [works.schedule()] if workload.scheduled else []
    began = time.monotonic()
    async with open_runtime(
        path, pipelines=works.pipelines.values(), schedules=schedules, env=environment()
    ) as runtime:
        say(["opened"])
        while left := _left(path):
            await trio.sleep(0.002)
            if time.monotonic() - began > _ENDED_WITHIN:
                wrong(f"not settled: {left}")
                break
        taken = time.monotonic() - began
        say(["figure", "recovery", taken])
        if taken - _waited_for_a_processor() > SETTLED_WITHIN:
            wrong(f"settled {taken:.3f} s after the start")
        with trio.move_on_after(_ENDED_WITHIN) as patience:
            for order in workload.orders:
                await _start_again(runtime, works, order, say)
            for order, id_ in _runs(path, workload):
                for words in await _finish(runtime, works, order, id_, say, history):
                    wrong(words)
        if patience.cancelled_caught:
            wrong(f"not all runs ended within {_ENDED_WITHIN:g} s of the start: {runtime.tree()}")


async def _start_again(runtime: Runtime, works: Works, order: Order, say: Say) -> None:
    """Do what somebody does who was not told whether it is started: the same once more."""
    run = await runtime.start(
        works[order.pipeline],
        order.source(),
        key=order.key,
        concurrency_key=order.concurrency_key,
    )
    say(["started", run.id, order.items if order.given == "list" else 0])
    say(["key", order.key, run.id])


async def _finish(
    runtime: Runtime, works: Works, order: Order, id_: str, say: Say, history: History
) -> list[str]:
    try:
        result = await _to_its_end(runtime, works, order, id_, say)
    except UsageError as error:
        if "has never begun" not in str(error) or id_ in history.told.started:
            return [f"{order.pipeline} {id_[:8]}: {error}"]
        return []
    say_result(say, result)
    if order.given == "iterator" and result.cause == "source_gone":
        accepted = result.stages[0].accepted
    elif result.status == "succeeded":
        accepted = order.items
    else:
        return [f"{order.pipeline} {id_[:8]} ended {result.status}: {result.message}"]
    values = [value async for value in result.results()]
    if order.pipeline == "parts":  # groups come as they may; else it is the items' order
        values.sort()
    if values != RESULTS[order.pipeline](accepted):
        return [f"{order.pipeline} {id_[:8]} gave {values} for {accepted} items"]
    return []


async def _to_its_end(runtime: Runtime, works: Works, order: Order, id_: str, say: Say) -> Result:
    """Resume a run until it has ended by itself, and nothing was lost on the way."""
    items = order.source() if order.given == "function" else None
    pipeline = works[order.pipeline]
    while True:
        result = await (await runtime.find(id_)).wait()
        lost = sum(stage.timed_out + stage.crashed for stage in result.stages)
        crashed = sum(stage.crashed for stage in result.stages)
        if result.status in ("succeeded", "failed") and not lost:
            return result
        say_result(say, result)
        say(["figure", "condemned items", crashed])
        failed = result.status in ("succeeded", "failed")
        with suppress(AlreadyOpenError):  # by on_interrupt="resume", just now
            run: Run = await runtime.resume(id_, pipeline, failed=failed, items=items)
            say(["resumed", run.id, run.generation])
            continue
        await trio.sleep(0.002)


def _left(path: Path) -> list[Any]:
    """Return what runs, or waits in line, for an owner that has gone."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(
            "SELECT r.id, g.status FROM runs r JOIN generations g USING (run, generation)"
            " WHERE g.finished_at IS NULL AND g.owner <> (SELECT max(owner) FROM owners)"
        ).fetchall()


def _runs(path: Path, workload: Workload) -> list[tuple[Order, str]]:
    """Return all runs there are, each with what it was started as."""
    orders = {order.key: order for order in workload.orders}
    # One that was never stored whole has lost its key. A slot's run has none.
    keyless = {order.pipeline: order for order in (Order("slot", "told", 2), *workload.orders)}
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        rows = connection.execute("SELECT request_key, pipeline, id FROM runs ORDER BY run")
        return [(orders.get(key, keyless[pipeline]), id_) for key, pipeline, id_ in rows]


def _waited_for_a_processor() -> float:
    """Return the seconds that this process's threads have waited for one at most."""
    waits = [0]
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # it has ended, or this is no Linux
            waits.append(int(task.read_text().split()[1]))
    return sum(waits) / 1e9
