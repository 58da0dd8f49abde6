"""What processes do while their clocks on the wall jump: runs whose time is that of being awake.

Which clock tells what: docs/architecture.md. Each run here knows how it must end, and when by
monotonic time; what is otherwise is said.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define

from stagerun import Pipeline, Result, Runtime, RuntimeClosedError, Schedule, open_runtime, stage
from stagerun.rules.liveness import Patience
from stagerun.store.documents import run_document, run_list
from stagerun.store.opening import read_only
from stagerun.testing.determinism import deterministic
from tests.campaign.told import Say

__all__ = ["PLANTS", "look_at_documents", "work"]

GRACE: Final = 0.5
LATE: Final = 1.5
"""Seconds by which a busy machine may be late beyond what is promised."""
PLANTS: Final = ("impatient",)
"""Defects that the checks must find."""


@stage(workers=4, deadline=60)
async def rest(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


@stage(workers=4, deadline=2)
async def overrun(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


PATIENT = Pipeline("patient", [rest], deadline=120, grace=GRACE)
ITEMS = Pipeline("items", [overrun], deadline=120, grace=GRACE)
RUNS = Pipeline("runs", [rest], deadline=3, grace=GRACE)
often = Schedule(
    "often", Pipeline("often", [rest], source=[0.1], deadline=60, grace=GRACE), every=1, active=5
)


def work(path: Path, seconds: float, seed: str, schedules: bool, plant: str, say: Say) -> None:
    """Start runs of all sorts for so long, then stay until SIGTERM."""
    _plant(plant)
    with deterministic(random.Random(seed).getrandbits(32)):
        trio.run(_Working(path, seconds, seed, schedules, say).main)


@define(eq=False)
class _Working:
    path: Path
    seconds: float
    seed: str
    schedules: bool
    say: Say

    async def main(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._open)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    async def _open(self) -> None:
        began, dice = time.monotonic(), random.Random(self.seed)
        until = began + self.seconds
        declared = [often] if self.schedules else []
        async with open_runtime(self.path, schedules=declared) as runtime:
            self.say(["open", os.getpid(), began, time.monotonic()])
            async with trio.open_nursery() as nursery:
                for deed in (_patient, _items, _runs):
                    nursery.start_soon(self._again, runtime, deed, until, dice)
                nursery.start_soon(self._change_zone, until, dice)
            self.say(["quiet", os.getpid()])
            await trio.sleep_forever()

    async def _again(
        self,
        runtime: Runtime,
        deed: Callable[["_Working", Runtime, float], Awaitable[None]],
        until: float,
        dice: random.Random,
    ) -> None:
        while (left := until - time.monotonic()) > 0:
            await trio.sleep(dice.uniform(0.0, 1.0))
            try:
                await deed(self, runtime, min(dice.choice([0.5, 4.0, 16.0]), left))
            except RuntimeClosedError:
                return

    async def _change_zone(self, until: float, dice: random.Random) -> None:
        while time.monotonic() < until:
            await trio.sleep(dice.uniform(0.5, 3.0))
            zones = ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns"]
            os.environ["TZ"] = dice.choice(zones)
            time.tzset()

    async def ended(self, runtime: Runtime, pipeline: Pipeline, items: list[float]) -> Result:
        """Start a run and see it end; say both."""
        run = await runtime.start(pipeline, items)
        self.say(["started", run.id, len(items)])
        result = await run.wait()
        self.say(["ended", run.id, result.generation, result.status])
        return result

    def expect(self, true: bool, what: str, result: Result) -> None:
        """Say so when a run came to something else."""
        if not true:
            words = f"{result.status} ({result.cause}) {result.message}; {result.stages}"
            self.say(["wrong", f"{what}: {result.id[:8]} ended {words[:600]}"])


async def _patient(self: _Working, runtime: Runtime, seconds: float) -> None:
    """Within its budget nothing is cut, whatever the wall says."""
    began = time.monotonic()
    result = await self.ended(runtime, PATIENT, [seconds, seconds / 2])
    took = time.monotonic() - began
    self.say(["took", "awake beyond what a run needs", began + seconds, began + took])
    self.expect(result.status == "succeeded", "a run within its deadlines", result)
    self.expect(0 <= result.seconds <= took, f"{result.seconds:.1f} s of {took:.1f}", result)


async def _items(self: _Working, runtime: Runtime, _seconds: float) -> None:
    """An item is cut when it has been awake for its budget."""
    began = time.monotonic()
    result = await self.ended(runtime, ITEMS, [60.0, 0.1])
    counts, took = result.stages[0], time.monotonic() - began
    self.say(["took", "item cut after its deadline of 2 s", began + 2, began + took])
    self.expect((counts.timed_out, counts.ok) == (1, 1), "an item beyond its deadline", result)
    self.expect(2 <= took <= 2 + GRACE + LATE, f"an item of 2 s was cut at {took:.1f} s", result)


async def _runs(self: _Working, runtime: Runtime, _seconds: float) -> None:
    """A run is ended when it has been awake for its budget, as its own status says."""
    began = time.monotonic()
    result = await self.ended(runtime, RUNS, [60.0])
    took = time.monotonic() - began
    self.say(["took", "run ended after its deadline of 3 s", began + 3, began + took])
    ending = (result.status, result.cause)
    self.expect(ending == ("timed_out", "run_deadline"), "a run beyond its deadline", result)
    self.expect(3 <= took <= 3 + GRACE + LATE, f"a run of 3 s was ended at {took:.1f} s", result)


def look_at_documents(path: Path, say: Say) -> None:
    """Read all documents until SIGTERM, by a clock that jumps, and say what cannot be in one."""
    leave = []
    signal.signal(signal.SIGTERM, lambda *_: leave.append(True))
    while not leave:
        time.sleep(0.1)
        try:
            with closing(read_only(path)) as connection:
                for head in run_list()(connection):
                    for wrong in _strange(run_document(str(head["id"]))(connection)):
                        say(["wrong", f"the document of {head['id'][:8]}: {wrong}"])
                say(["count", "looks at all documents", 1])
        except sqlite3.OperationalError:
            continue  # it is just being made
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            if "not a stagerun database" not in str(error) and "there is no" not in str(error):
                say(["wrong", f"a document cannot be read: {error!r}"])


def _strange(document: dict[str, Any]) -> list[str]:
    found = []
    for part in (document, *document["stages"]):
        for name, value in part.items():
            if name.endswith("_at") and value is not None:
                year = datetime.fromisoformat(value).year
                if not 1970 <= year <= datetime.now().astimezone().year + 90:
                    found.append(f"{name} is {value}")
    ended = document["status"] not in ("queued", "running")
    if ended and document["finished_at"] is None and document["verdict"] != "dead":
        found.append(f"{document['status']} without an end")
    json.dumps(document)
    return found


def _plant(name: str) -> None:
    """Make this process one that has a defect; none by an empty name."""
    if name == "impatient":  # believes every clock at once
        Patience.over = lambda *_: True  # type: ignore[method-assign]  # so one plants
