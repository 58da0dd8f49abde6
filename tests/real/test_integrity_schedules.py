"""Schedules side by side, a site that hangs, a network that goes away, a computer that sleeps."""

import signal
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from examples.integrity.network import running_network
from examples.integrity.service import running_service
from stagerun import Runtime, open_runtime
from tests.real.integrity_before import ROOT, before, until
from tests.real.serving import COMMAND, environment

pytestmark = pytest.mark.real

EVERY = 3
TARGET = ROOT / "examples" / "integrity" / "schedules.py:schedules"
SITE = {"entities": 4, "records": 500, "hang": 1, "seed": 2}
"""Eight pages. The first one, of the first entity, is never answered."""
SIDE_BY_SIDE = ("first-half", "second-half", "threads", "processes")
SORTS = ("fired", "skipped", "missed")
TERMINAL = {"succeeded", "failed", "cancelled", "timed_out", "interrupted"}
DEADLINE = 20
PATIENCE = 90
"""Seconds for each of the things that are waited for."""

State = dict[str, dict[str, Any]]
"""The schedules by their names."""


async def test_schedules_get_through_a_hung_page_lost_networks_sleep_and_a_kill(
    tmp_path: Path,
) -> None:
    async with (
        running_service(**SITE) as site,
        running_network(site) as network,
        before(tmp_path, network.address, runs=1000, every=EVERY) as incident,
        open_runtime(tmp_path / "runs.db") as runtime,
    ):
        async with served(tmp_path, network.address) as process:
            begun = await reached(runtime, lambda now: fired(now, 1))

            network.go_down()
            down = await reached(runtime, lambda now: fired(now, 1, since=begun))
            network.come_up()

            network.lose()  # and no run that hangs blocks the next one
            lost = await reached(runtime, lambda now: fired(now, 2, since=down))
            network.come_up()

            await sleep(process, incident.process)
            awake = await reached(runtime, lambda now: fired(now, 1, since=lost))
            for name in SIDE_BY_SIDE:  # what was missed became one run
                assert 2 <= awake[name]["missed"] - lost[name]["missed"] <= 4
                assert sum(awake[name][sort] for sort in SORTS) == slots(awake[name])
        async with served(tmp_path, network.address):  # the other one was killed
            again = datetime.now(UTC)
            await reached(runtime, lambda now: fired(now, 2, since=awake))
            for name in SIDE_BY_SIDE:
                await runtime.pause_schedule(name)
            last = await reached(runtime, ended)

        runs = await documents(runtime, tmp_path)
        assert len(runs) == sum(last[name]["fired"] for name in SIDE_BY_SIDE)
        assert {run["status"] for run in runs} <= TERMINAL
        for run in runs:
            assert seconds(run["created_at"], run["finished_at"]) < 2 * DEADLINE
            if datetime.fromisoformat(run["created_at"]) > again:  # no fault but the hung page
                unwell = run["labels"]["schedule"] == "first-half"
                wanted = ("failed", "least_ok") if unwell else ("succeeded", "completed")
                assert (run["status"], run["cause"]) == wanted
        left_behind = {run["pipeline"] for run in runs if run["survivors"]}
        assert left_behind == {"sync_thread"}  # a process is killed

        rows = incident.rows()
        assert not [row for row in rows if row["status"] == "success"]
        assert len([row for row in rows if row["status"] == "running"]) > 5


async def sleep(*processes: trio.Process) -> None:
    """Close the computer for more than three slots."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    await until(lambda: time.monotonic() > begun + 3.5 * EVERY)
    for process in processes:
        process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def served(folder: Path, address: str) -> AsyncGenerator[trio.Process]:
    """Serve the schedules in a process of its own."""
    command = [*COMMAND, "serve", "--db", str(folder / "runs.db"), "--port", "0", str(TARGET)]
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        process = await trio.lowlevel.open_process(
            command, env=settings(address), stdin=None, stdout=out, stderr=err
        )
    try:
        await until(lambda: "stagerun is at" in (folder / "out.txt").read_text())
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def settings(address: str) -> dict[str, str]:
    short = {
        "DEADLINE": DEADLINE,
        "SOURCE_DEADLINE": 2,
        "PAGES_RETRY_ATTEMPTS": 2,
        "PAGES_WORKERS": 2,
    }
    least = {"INTEGRITY": 0.85, "SYNC_THREAD": 0.5, "SYNC_PROCESS": 0.5}
    return environment(
        INTEGRITY_ADDRESS=address,
        INTEGRITY_EVERY=str(EVERY),
        **{f"STAGERUN_{name}_{option}": str(short[option]) for name in least for option in short},
        **{f"STAGERUN_{name}_PAGES_LEAST_OK": str(share) for name, share in least.items()},
    )


async def reached(runtime: Runtime, condition: Callable[[State], bool]) -> State:
    """Wait until the schedules fulfil a condition."""
    with trio.fail_after(PATIENCE):
        while True:
            there = {each["name"]: each for each in await runtime.schedules()}
            now = {name: there[name] for name in SIDE_BY_SIDE if name in there}
            if len(now) == len(SIDE_BY_SIDE) and condition(now):
                return now
            await trio.sleep(0.1)


def fired(now: State, more: int, since: State | None = None) -> bool:
    return all(now[n]["fired"] >= (since[n]["fired"] if since else 0) + more for n in now)


def ended(now: State) -> bool:
    return all(schedule["last"]["finished_at"] for schedule in now.values())


def slots(schedule: dict[str, Any]) -> int:
    """How many slots there have been since it was first served."""
    return round(seconds(schedule["created_at"], schedule["next_at"]) / EVERY) - 1


def seconds(since: str, until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


async def documents(runtime: Runtime, folder: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        ids = [run for (run,) in connection.execute("SELECT id FROM runs")]
    return [await (await runtime.find(run)).document() for run in ids]
