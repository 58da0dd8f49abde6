"""What the processes of a crowd do on their one file: all sorts of runs, also with each other's.

Each says over a pipe what it was told (``told.py``).
"""

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from stagerun import (
    Pipeline,
    Run,
    Runtime,
    RuntimeClosedError,
    StoreError,
    UsageError,
    open_runtime,
)
from stagerun.engine import household
from stagerun.store import questions, starting
from stagerun.store.aio import AioStore
from stagerun.store.owner import Liveness
from stagerun.testing.determinism import deterministic
from tests.campaign.crowdruns import PIPELINES, SIZES, brief, often, steady, tiny
from tests.campaign.told import Say

__all__ = [
    "ABANDONED",
    "PLANTS",
    "Member",
    "inherit",
    "work",
]

PLANTS: Final = ("takes-living", "never-settles", "two-places")
"""Defects that the checks must find."""


# -- a process with a runtime ---------------------------------------------------------------------


@frozen(kw_only=True)
class Member:
    """What one process of the crowd is to do; all of it follows from its seed."""

    seed: str
    clients: int
    """How many tasks of it start runs and wait for them."""
    seconds: float
    """For how long; then it stays until SIGTERM."""
    only_tiny: bool = False
    schedules: bool = False
    descriptors: int | None = None
    """Its limit of open files, if it has one."""
    forks: bool = False
    """Whether it leaves a forked child and a program behind that outlive it."""
    plant: str = ""


def work(path: Path, member: Member, say: Say) -> None:
    """Open a runtime and use it until SIGTERM, as a program of a user does."""
    _plant(member.plant)
    if member.descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (member.descriptors, member.descriptors))
    with deterministic(random.Random(member.seed).getrandbits(32)):
        try:
            trio.run(_Working(path, member, say).main)
        except* (StoreError, OSError):
            if member.descriptors is None:
                raise
            say(["count", "gave up for want of descriptors", 1])


@define(eq=False)
class _Working:
    path: Path
    member: Member
    say: Say
    dice: random.Random = field(init=False)
    mine: list[str] = field(init=False, factory=list)
    count: int = 0

    def __attrs_post_init__(self) -> None:
        self.dice = random.Random(self.member.seed)

    async def main(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._open)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    async def _open(self) -> None:
        began = time.monotonic()
        schedules = [often] if self.member.schedules else []
        async with open_runtime(self.path, pipelines=PIPELINES, schedules=schedules) as runtime:
            self.say(["open", os.getpid(), began, time.monotonic()])
            if self.member.forks:
                _leave_behind(self.say)
            until = time.monotonic() + self.member.seconds
            async with trio.open_nursery() as nursery:
                for _ in range(self.member.clients):
                    nursery.start_soon(self._client, runtime, until)
            self.say(["quiet", os.getpid()])
            await trio.sleep_forever()

    async def _client(self, runtime: Runtime, until: float) -> None:
        deeds = [_Working._start] if self.member.only_tiny else _DEEDS
        while time.monotonic() < until:
            try:
                await self.dice.choice(deeds)(self, runtime)
            except UsageError:  # of a run that others cancel or resume at this moment
                self.say(["count", "refusals", 1])
            except RuntimeClosedError:
                return  # it is being left
            await trio.sleep(self.dice.uniform(0.0, 0.1))

    async def _start(self, runtime: Runtime) -> None:
        pipeline = tiny if self.member.only_tiny else self.dice.choice([steady, brief, tiny])
        await self._wait(await self._started(runtime, pipeline))

    async def _start_by_key(self, runtime: Runtime) -> None:
        key = f"key {self.dice.randrange(12)}"
        run = await self._started(runtime, steady, key=key)
        self.say(["key", key, run.id])
        await self._wait(run)

    async def _start_in_line(self, runtime: Runtime) -> None:
        line = self.dice.choice(["line 1", "line 2"])
        options = {"concurrency_key": line, "concurrency": int(line[-1])}
        await self._wait(await self._started(runtime, brief, **options))

    async def _start_and_look_away(self, runtime: Runtime) -> None:
        await self._started(runtime, self.dice.choice([steady, brief]))

    async def _cancel(self, runtime: Runtime) -> None:
        run = await runtime.find(self._any_run())
        if run.status not in ("queued", "running"):
            return
        began = time.monotonic()
        await run.cancel("no longer wanted")
        self.say(["cancel", run.id, run.generation])
        ended = await self._wait(run)
        if ended:
            self._took("cancel", began)

    async def _resume(self, runtime: Runtime) -> None:
        run = await runtime.find(self._any_run())
        again = await run.resume(failed=self.dice.random() < 0.3)
        self.say(["count", "resumed", 1])
        await self._wait(again)

    async def _started(self, runtime: Runtime, pipeline: Pipeline, **options: Any) -> Run:
        self.count += 1
        mark = f"{os.getpid()}.{self.count}"
        rest = self.dice.choice([0.0, 0.01, 0.05, 0.3])
        began = time.monotonic()
        run = await runtime.start(
            pipeline,
            list(range(1, SIZES[pipeline.name] + 1)),
            params={"mark": mark, "rest": 0.0 if self.member.only_tiny else rest},
            **options,
        )
        self._took("start", began)
        self.say(["started", run.id, SIZES[pipeline.name]])
        with (self.path.with_name("ids")).open("a") as ids:
            ids.write(f"{run.id}\n")
        return run

    async def _wait(self, run: Run) -> bool:
        began = time.monotonic()
        with trio.move_on_after(self.dice.choice([0.05, 1.0, 30.0])):
            result = await run.wait()
            self.say(["ended", run.id, result.generation, result.status])
            if self.member.only_tiny:
                self._took("whole run", began)
            return True
        return False

    def _took(self, what: str, began: float) -> None:
        self.say(["took", what, began, time.monotonic()])

    def _any_run(self) -> str:
        """Return a run of anybody's, one of the last ones."""
        with (self.path.with_name("ids")).open("a+") as ids:
            ids.seek(0)
            last = ids.read().split()[-12:]
        if not last:
            raise UsageError("nobody has started a run yet")
        return self.dice.choice(last)


_DEEDS: Final[list[Callable[..., Any]]] = [
    _Working._start,
    _Working._start,
    _Working._start_by_key,
    _Working._start_in_line,
    _Working._start_and_look_away,
    _Working._cancel,
    _Working._cancel,
    _Working._resume,
]


def _leave_behind(say: Say) -> None:
    """Make a forked child and a program that live on when this process has been killed."""
    forked = os.fork()
    if not forked:
        time.sleep(12)
        os._exit(0)
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(12)"])
    del program
    say(["count", "processes that outlived theirs", 2 if forked else 0])


def inherit(path: Path, plant: str, say: Say) -> None:
    """Open the file as the next program does, and stay until all of its runs have ended."""

    async def main() -> None:
        began = time.monotonic()
        async with open_runtime(path, pipelines=[*PIPELINES, often.pipeline]) as runtime:
            say(["open", os.getpid(), began, time.monotonic()])
            say(["unsettled", os.getpid(), await runtime._store.ask(_unsettled)])
            with trio.move_on_after(60):
                while await runtime._store.ask(_under_way):  # noqa: ASYNC110 - the file tells
                    await trio.sleep(0.02)

    _plant(plant)
    trio.run(main)


def _unsettled(connection: sqlite3.Connection) -> int:
    """Return how many runs of others have not ended, right after the opening."""
    (count,) = connection.execute(
        "SELECT count(*) FROM generations WHERE finished_at IS NULL AND owner <>"
        " (SELECT max(owner) FROM owners)"
    ).fetchone()
    return int(count)


ABANDONED: Final = """g.status = 'interrupted' AND r.on_interrupt = 'resume'
    AND g.requested_at IS NULL
    AND (g.started_at IS NOT NULL OR r.source_length =
         (SELECT count(*) FROM emissions e WHERE e.run = g.run AND e.stage = 0))
    AND NOT EXISTS (SELECT 1 FROM requests q WHERE q.run = g.run AND q.generation = g.generation
                    AND q.kind = 'cancel')"""
"""SQL that tells which runs somebody has yet to go on with. Not those that were to be cancelled,
and not those that were cut short while their items were stored: nobody was told of them."""


def _under_way(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute(
        "SELECT count(*) FROM generations g JOIN runs r USING (run, generation)"
        " WHERE g.finished_at IS NULL OR"
        f" ({ABANDONED})"
    ).fetchone()
    return int(count)


# -- defects --------------------------------------------------------------------------------------


def _plant(name: str) -> None:
    """Make this process one that has a defect; none by an empty name."""
    match name:
        case "takes-living":

            def look(*_: Any) -> Liveness:
                return Liveness.DEAD

            AioStore.look = look  # type: ignore[assignment, method-assign]  # so one plants
        case "never-settles":

            async def recover(*_: Any) -> list[Any]:
                return []

            household.recover = recover  # type: ignore[attr-defined, assignment]  # as above
        case "two-places":
            take, may = starting.take_turn, questions.turn_of
            starting.take_turn = lambda *a, **kw: take(*a, **kw | {"places": 99})
            questions.turn_of = lambda run, number, key, _: may(run, number, key, 99)  # type: ignore[assignment]  # as above
        case _ if name:
            raise ValueError(f"no defect of this name: {name}")
