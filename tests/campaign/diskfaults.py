"""Single calls to the disk that fail, each trial in a forked child that has the shim.

What must come of it stands in docs/reference.md, "Trouble with the database".
"""

import time
from functools import partial
from pathlib import Path

import trio

from stagerun import Runtime, open_runtime
from stagerun.engine import runtime as runtime_module
from tests.campaign import shim
from tests.campaign.diskloads import FEW, SLOW, Load
from tests.campaign.disktrial import (
    LAST_COMMITS,
    Case,
    Seen,
    check_told,
    fired,
    hearing,
    inspect,
    until,
    watched,
)
from tests.campaign.told import Told

__all__ = ["leaving", "opening", "under_way"]


def under_way(path: Path, case: Case, n: int, sticky: bool, seed: int, load: Load = FEW) -> Seen:
    """Have the n-th call after the opening fail, once or from then on; those are let pass later."""
    seen, told = Seen(), Told(opened=True)

    async def lift(runtime: Runtime) -> None:
        await fired(seen, runtime)
        if sticky and not seen.late:
            if not await until(lambda: runtime.health().status == "degraded", 3):
                seen.wrong.append("3 s after the disk began to refuse, health is still ok")
            await trio.sleep(0.06)
            seen.fired += shim.fired()
            shim.disarm()
            if not await until(lambda: runtime.health().status == "ok", 3):
                seen.wrong.append(f"3 s after the disk was well again: {runtime.health()}")

    async def body() -> None:
        async with trio.open_nursery() as nursery:

            def opened(runtime: Runtime) -> None:
                shim.arm(n, case.kind, case.mode, sticky)
                nursery.start_soon(lift, runtime)

            await load.main(path, hearing(told), opened)
            nursery.cancel_scope.cancel()

    load.prepare()
    watched(seen, body, seed)
    seen.fired += shim.fired()
    shim.disarm()
    if seen.raised:
        seen.wrong.append(f"a fault that passes has ended the runtime: {seen.raised}")
    check_told(seen)
    inspect(path, told, seen, ended=True)
    return seen


def opening(path: Path, case: Case, n: int, sticky: bool, seed: int) -> Seen:
    """Have the n-th call fail while a new database is made; then open it again without faults."""
    seen = Seen()
    runtime_module._LAST_COMMITS = LAST_COMMITS
    FEW.prepare()
    stood = 0.0

    async def body() -> None:
        nonlocal stood
        # Where the disk refuses for good, the first commit waits, and it is cancelled.
        with trio.move_on_after(1.0 if sticky else 20.0) as patience:
            async with trio.open_nursery() as nursery:
                async with open_runtime(path) as runtime:
                    nursery.start_soon(fired, seen, runtime)
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        if patience.cancelled_caught:
            stood = trio.current_time() - patience.deadline

    shim.arm(n, case.kind, case.mode, sticky)
    watched(seen, body, seed)
    seen.fired = shim.fired()
    shim.disarm()
    if stood > LAST_COMMITS + 1:
        seen.wrong.append(f"leaving took {stood:.1f} s")
    check_told(seen)
    if seen.raised and not seen.raised.startswith(("database ", "the database ")):
        seen.wrong.append(f"not said of which database: {seen.raised}")
    told = Told()

    def opened(_runtime: Runtime) -> None:
        told.opened = True

    again = Seen()
    watched(again, partial(FEW.main, path, hearing(told), opened), seed)
    seen.wrong += [f"then, with a good disk: {wrong}" for wrong in again.wrong]
    if again.raised:
        seen.wrong.append(f"then, with a good disk: {again.raised}")
    seen.said += again.said
    inspect(path, told, seen)
    return seen


def leaving(path: Path, case: Case, n: int, whole: bool, seed: int) -> Seen:
    """Leave a runtime whose disk refuses for good; *whole*: with the time that it really takes."""
    seen, told = Seen(), Told(opened=True)
    hear = hearing(told)
    if not whole:
        runtime_module._LAST_COMMITS = LAST_COMMITS
    began = left = 0.0

    async def body() -> None:
        nonlocal began, left
        async with open_runtime(path) as runtime:
            run = await runtime.start(SLOW, lambda: range(100_000))
            hear(["started", run.id, 0])
            shim.arm(n, case.kind, case.mode, True)
            if not await until(lambda: runtime.health().status == "degraded", 10):
                seen.wrong.append("10 s with a disk that refuses, and health is ok")
            began, left = time.perf_counter(), runtime.leaves_within

    FEW.prepare()
    watched(seen, body, seed)
    seen.fired = shim.fired()
    shim.disarm()
    took = seen.figures["ended"] - began
    seen.figures["leaving"] = took
    if took > left + 1:
        seen.wrong.append(f"leaving took {took:.1f} s, and may take {left:.1f} s")
    if not seen.raised:
        seen.wrong.append("left with a database that refuses, and nothing was raised")
    inspect(path, told, seen)
    return seen
