"""What a process does until it is killed, and what the next one does with what that has left.

Workloads are small, and each different. Whatever they start has a key: who does not know whether a
start came through starts it again. What comes out in the end does not depend on when they were cut.
"""

import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import trio
from attrs import define, field, frozen

from stagerun import Result, Run, Runtime, open_runtime
from stagerun.engine import requests as answering
from stagerun.engine import timetable, turn
from stagerun.engine.env import Env
from stagerun.store import requests, writer
from tests.campaign.told import Say, reading
from tests.campaign.works import SideFile, Works, numbers

__all__ = ["WORKLOADS", "Order", "Scene", "Workload", "environment", "first_life", "prepare"]

_WITHIN: Final = 20.0
"""Seconds for whatever is waited for."""
_LOOK: Final = 0.002
"""Seconds between two looks at what is told of a run."""


@frozen
class Order:
    """A run that a workload starts, under its key."""

    key: str
    pipeline: str
    items: int
    given: Literal["list", "iterator", "function", "own"] = "list"
    concurrency_key: str | None = None

    def source(self) -> Any:
        """Return what ``start()`` is given."""
        match self.given:
            case "list":
                return [*range(1, self.items + 1)]
            case "iterator":
                return iter(range(1, self.items + 1))
            case "function":
                return numbers(self.items)
        return None


@define(eq=False)
class Scene:
    """A runtime of the first life, and what it says of it."""

    runtime: Runtime
    works: Works
    say: Say
    watched: list[Run] = field(factory=list)

    async def start(self, order: Order) -> Run:
        """Start a run and say so."""
        run = await self.runtime.start(
            self.works[order.pipeline],
            order.source(),
            key=order.key,
            concurrency_key=order.concurrency_key,
        )
        self.say(["started", run.id, order.items if order.given == "list" else 0])
        self.say(["key", order.key, run.id])
        self.watched.append(run)
        return run

    async def ended(self, run: Run) -> Result:
        """Wait for the end and say how it was."""
        with trio.fail_after(_WITHIN):
            result = await run.wait()
        say_result(self.say, result)
        return result

    async def several_done(self, run: Run, count: int = 3) -> None:
        """Wait until so many items are done, for all that is told."""
        with trio.fail_after(_WITHIN):
            while run.counts[0].ok < count:  # noqa: ASYNC110 - nobody tells of single items
                await trio.sleep(0.001)

    async def watch(self) -> None:
        """Say for ever what the handles tell."""
        last = dict[Run, list[Any]]()
        while True:
            for run in self.watched:
                seen = [run.id, run.generation, run.status, run.percent]
                seen.append([sums_of(counts) for counts in run.counts])
                if last.get(run) != seen:
                    last[run] = seen
                    self.say(["seen", *seen])
            await trio.sleep(_LOOK)


def sums_of(counts: Any) -> list[int]:
    """Return the six outcomes, as the table of stages has them."""
    return [
        counts.ok, counts.failed, counts.timed_out, counts.cancelled, counts.skipped, counts.crashed
    ]  # fmt: skip


def say_result(say: Say, result: Result) -> None:
    """Say what a wait returned."""
    say(["ended", result.id, result.generation, result.status])
    sums = [[counts.accepted, *sums_of(counts)] for counts in result.stages]
    say(["result", result.id, result.generation, result.cause, sums])


@frozen
class Workload:
    """One of them: what it starts, and how."""

    name: str
    orders: tuple[Order, ...]
    main: Callable[[Scene, tuple[Order, ...]], Awaitable[None]]
    scheduled: bool = False
    checkpoint_after: int = 64
    long: bool = False
    """Whether it takes seconds: then it is for what no other one comes by."""


async def _plainly(scene: Scene, orders: tuple[Order, ...]) -> None:
    """Start all and wait for them, in turn."""
    runs = [await scene.start(order) for order in orders]
    for run in runs:
        await scene.ended(run)


async def _again(scene: Scene, orders: tuple[Order, ...]) -> None:
    """What failed is run again."""
    run = await scene.start(orders[0])
    await scene.ended(run)
    more = await run.resume(failed=True)
    scene.watched.append(more)
    await scene.ended(more)


async def _cancelled(scene: Scene, orders: tuple[Order, ...]) -> None:
    """It is cancelled by its handle, then gone on with, and cancelled by its identifier."""
    run = await scene.start(orders[0])
    await scene.several_done(run)
    await run.cancel("enough")
    scene.say(["cancel", run.id, run.generation])
    await scene.ended(run)
    more = await run.resume()
    scene.watched.append(more)
    await scene.several_done(more, 4)
    answer = await scene.runtime.cancel(more.id, "enough, again")
    if answer["became"] in ("ended", "cancelling"):
        scene.say(["cancel", more.id, more.generation])
    await scene.ended(more)


async def _closed(scene: Scene, orders: tuple[Order, ...]) -> None:
    """It is cancelled from outside, and its request is closed when it has ended."""
    run = await scene.start(orders[0])
    await scene.several_done(run)
    await scene.runtime.cancel(run.id, "enough")
    await scene.ended(run)
    with trio.fail_after(_WITHIN):
        open_requests = requests.open_requests()
        while await scene.runtime._store.ask(open_requests):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


async def _in_line(scene: Scene, orders: tuple[Order, ...]) -> None:
    """One runs, two wait for its place: the last of them is cancelled there."""
    first, second, third = [await scene.start(order) for order in orders]
    await third.cancel("not needed")
    scene.say(["cancel", third.id, third.generation])
    await scene.ended(third)
    await scene.several_done(first)
    await first.cancel()
    scene.say(["cancel", first.id, first.generation])
    await scene.ended(first)
    await scene.ended(second)


async def _scheduled(scene: Scene, _orders: tuple[Order, ...]) -> None:
    """A slot that is due, and one that somebody asks for."""
    slot = await scene.runtime.trigger_schedule("hourly")
    if slot["decision"] == "fired":
        scene.say(["fired", slot["run"]])
        run = await scene.runtime.find(slot["run"])
        scene.say(["started", run.id, 2])
        await scene.ended(run)


async def _left(scene: Scene, orders: tuple[Order, ...]) -> None:
    """SIGTERM comes in the middle."""
    runs = [await scene.start(order) for order in orders]
    await scene.several_done(runs[0])
    os.kill(os.getpid(), signal.SIGTERM)
    await trio.sleep(_WITHIN)


async def _pruned(scene: Scene, orders: tuple[Order, ...]) -> None:
    """All but the last run go."""
    runs = [await scene.start(order) for order in orders]
    for run in runs:
        await scene.ended(run)
    scene.watched.clear()
    scene.say(["pruning", [run.id for run in runs]])
    await scene.runtime.prune(runs=1)


_LIST: Final = Order("list", "pages", 9)

WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("pages", (_LIST,), _plainly),
        Workload("parts", (Order("own", "parts", 8, "own"),), _plainly, checkpoint_after=3),
        Workload("again", (_LIST,), _again),
        Workload("cancelled", (Order("slow", "slow", 28),), _cancelled),
        Workload("timed", (Order("timed", "timed", 6),), _plainly),
        Workload(
            "in-line",
            (
                Order("first", "slow", 28, concurrency_key="one"),
                Order("second", "pages", 4, concurrency_key="one"),
                Order("third", "pages", 3, concurrency_key="one"),
            ),
            _in_line,
        ),
        Workload("scheduled", (), _scheduled, scheduled=True),
        Workload("iterator", (Order("iterator", "told", 6, "iterator"),), _plainly),
        Workload("function", (Order("function", "told", 6, "function"),), _plainly),
        Workload("two", (_LIST, Order("own", "parts", 8, "own")), _plainly, checkpoint_after=2),
        Workload("left", (Order("slow", "slow", 28), Order("own", "parts", 8, "own")), _left),
        Workload(
            "pruned",
            tuple(Order(str(number), "pages", number) for number in (3, 2, 4)),
            _pruned,
        ),
        Workload("blocked", (Order("blocks", "blocks", 1),), _plainly, long=True),
        Workload("closed", (Order("slow", "slow", 28),), _closed, long=True),
        Workload("nothing", (), _plainly, scheduled=True),
    )
}


# -- the first life -------------------------------------------------------------------------------


async def first_life(
    workload: Workload, path: Path, side: SideFile, say: Say, *, reader: bool
) -> None:
    """Do the work; SIGTERM has it leave. *reader*: the database is read meanwhile, by SQL."""
    works = Works(side)
    writer._CHECKPOINT_AFTER = workload.checkpoint_after
    prepare(workload, path)
    schedules = [works.schedule()] if workload.scheduled else []
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_runtime(
            path, pipelines=works.pipelines.values(), schedules=schedules, env=environment()
        ) as runtime:
            say(["opened"])
            scene = Scene(runtime, works, say)
            with _read(path, say, reader=reader):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_leave, runtime, signals, nursery.cancel_scope, say)
                    if not reader:
                        nursery.start_soon(scene.watch)
                    await workload.main(scene, workload.orders)
                    nursery.cancel_scope.cancel()


async def _leave(runtime: Runtime, signals: Any, scope: trio.CancelScope, say: Say) -> None:
    async for _ in signals:
        runtime.blame_nobody()
        say(["leaving"])
        scope.cancel()


@contextmanager
def _read(path: Path, say: Say, *, reader: bool) -> Iterator[None]:
    if not reader:
        yield
        return
    with reading(path, say):
        yield


def environment() -> Env:
    """Return the world without settings, and without log lines."""
    return Env(environ={"STAGERUN_LOG_LEVEL": "CRITICAL"})


def prepare(workload: Workload, path: Path) -> None:
    """Have this process wait less than others, and make a slot due where there is a schedule."""
    turn._LOOK = 0.02
    answering._EVERY = 0.02
    timetable._LOOK = 0.05
    if workload.scheduled and path.exists():
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (0,):
                past = time.time_ns() // 1000 - 1
                connection.execute("UPDATE schedules SET next_at = ?", (past,))
