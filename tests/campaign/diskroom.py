"""A disk that is slow, and one without room; each trial in a forked child that has the shim."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import trio

from stagerun import Pipeline, open_runtime, stage
from tests.campaign import shim
from tests.campaign.diskloads import SLOW
from tests.campaign.disktrial import Seen, hearing, inspect, until, watched
from tests.campaign.told import Told

__all__ = ["full_disk", "limited", "slow"]


def slow(path: Path, seconds: float, seed: int) -> Seen:
    """Have each fsync take so long; the event loop stays free, and no owner is taken for dead."""
    seen, told = Seen(), Told(opened=True)
    lag = 0.0

    async def tick() -> None:
        nonlocal lag
        while True:
            before = trio.current_time()
            await trio.sleep(0.01)
            lag = max(lag, trio.current_time() - before - 0.01)

    async def body() -> None:
        async with (
            open_runtime(path) as other,  # it looks after dead owners meanwhile
            trio.open_nursery() as nursery,
            open_runtime(path) as runtime,
        ):
            nursery.start_soon(tick)
            shim.slow("fsync", seconds)
            run = await runtime.start(SLOW, range(6))
            hearing(told)(["started", run.id, 6])
            result = await run.wait()
            told.hear(["ended", run.id, result.generation, result.status])
            if result.status != "succeeded":
                seen.wrong.append(f"the run ended {result.status}: {result.message}")
            shim.slow("fsync", 0)
            if other.health().status == "failed":
                seen.wrong.append(f"the other runtime: {other.health().why}")
            nursery.cancel_scope.cancel()

    watched(seen, body, seed)
    seen.figures["lag"] = lag
    if seen.raised:
        seen.wrong.append(seen.raised)
    if lag > 0.9 * seconds:  # a loop that waited for the disk would wait for a whole one
        seen.wrong.append(f"the event loop stood still for {lag:.2f} s")
    with closing(sqlite3.connect(path)) as connection:
        causes = {cause for (cause,) in connection.execute("SELECT ended_cause FROM owners")}
    if causes != {"closed"}:
        seen.wrong.append(f"owners ended {causes}")
    inspect(path, told, seen)
    return seen


@stage(workers=4)
async def long(_item: int) -> bytes:
    return os.urandom(1_000)


def full_disk(place: Path, size: int, seed: int) -> Seen:
    """Fill a file system of *size* kB, then make it larger."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(
        command, check=False, capture_output=True
    ).returncode:  # fmt: skip
        return Seen(raised="no file system can be mounted here")
    try:
        grow = ["mount", "-o", "remount,size=64m", str(place)]
        return _filled(place / "x.db", lambda: subprocess.run(grow, check=True), seed)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def limited(path: Path, size: int, seed: int) -> Seen:
    """Let no file grow beyond *size* kB, then lift that."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 1_000, most))
    return _filled(path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)), seed)


def _filled(path: Path, lift: Callable[[], object], seed: int) -> Seen:
    seen, told = Seen(), Told(opened=True)

    async def body() -> None:
        async with open_runtime(path) as runtime:
            run = await runtime.start(Pipeline("long", [long]), lambda: range(1_500))
            told.hear(["started", run.id, 0])
            if not await until(lambda: runtime.health().status == "degraded", 20):
                seen.wrong.append("there is no room, and health is still ok after 20 s")
            counts = run.counts[0]
            told.hear(["stage", run.id, 1, 0, counts.ok, 0, 0, 0, 0, 0])
            with closing(sqlite3.connect(path)) as connection:
                for wrong in told.missing(connection):
                    seen.wrong.append(f"while it is full: {wrong}")
            lift()
            with trio.fail_after(30):
                result = await run.wait()
            told.hear(["ended", run.id, 1, result.status])
            if (result.status, result.stages[0].ok) != ("succeeded", 1_500):
                seen.wrong.append(f"with room again it ended {result.status}: {result.message}")

    watched(seen, body, seed)
    seen.fired = seen.told
    if seen.raised:
        seen.wrong.append(seen.raised)
    inspect(path, told, seen)
    return seen
