"""Whatever befalls the processes that serve a schedule: each slot counts once, places are kept."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from stagerun import Pipeline, Retry, Schedule, stage
from stagerun.model.schedule import Overlap
from stagerun.store import schedules as rows
from stagerun.store.transaction import Transaction, Unit, execute
from stagerun.testing.determinism import run_in_virtual_time
from stagerun.testing.inspector import unsound
from stagerun.testing.machine import Process
from tests.conftest import sums_hold
from tests.simulation.laptop import Laptop, Network

BEGIN = 1_772_409_600.0

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 200)),
        st.tuples(st.just("nap"), st.integers(1, 2000)),
        st.tuples(st.just("kill"), st.tuples(st.integers(0, 1), st.integers(0, 100))),
        st.tuples(st.just("lose"), st.integers(1, 100)),
        st.tuples(st.sampled_from(["pause", "unpause", "trigger"]), st.just(0)),
    ),
    min_size=1,
    max_size=12,
)


def schedule_of(network: Network, overlap: Overlap, active: int) -> Schedule:
    @stage(workers=2, deadline=60, retry=Retry(attempts=2, attempt_deadline=25))
    async def call(item: int) -> int:
        await network.call(10.0 + item)
        return item

    pipeline = Pipeline("calls", [call], source=[1, 2, 3], deadline=120, grace=1)
    return Schedule("calls", pipeline, every=40, overlap=overlap, active=active)


@settings(deadline=None, max_examples=25)
@given(
    actions=ACTIONS,
    overlap=st.sampled_from(["skip", "queue", "cancel_previous"]),
    active=st.integers(1, 2),
)
def test_slots_are_decided_once_and_places_are_kept(
    actions: list[Any], overlap: Overlap, active: int, tmp_path_factory: Any
) -> None:
    folder: Path = tmp_path_factory.mktemp("fire")
    machine = Laptop(folder / "fire.db", seed=1, begin=BEGIN, pace=60.0)

    async def live() -> None:
        schedules = [schedule_of(machine.network, overlap, active)]
        processes = [Process(machine, number, schedules=schedules) for number in range(2)]
        async with trio.open_nursery() as nursery:
            for process in processes:
                nursery.start_soon(process.live)
            nursery.start_soon(watch_places, machine.path, active)
            await trio.sleep(1)
            for what, how in actions:
                await act(machine, processes, what, how)
            machine.network.up = True
            write(machine.path, rows.pause("calls", 1))
            await trio.sleep(3600)  # longer than any run, and any line of them
            nursery.cancel_scope.cancel()

    run_in_virtual_time(live)
    with closing(sqlite3.connect(machine.path)) as connection:
        sums_hold(connection)
        assert unsound(connection) == []
        check_slots(connection)


async def act(machine: Laptop, processes: list[Process], what: str, how: Any) -> None:
    match what:
        case "wait":
            await trio.sleep(how)
        case "nap":
            machine.shut(how)
        case "kill":
            which, downtime = how
            processes[which].kill(downtime)
        case "lose":
            machine.network.up = False
            machine.network.drop()
            await trio.sleep(how)
            machine.network.up = True
        case "pause":
            write(machine.path, rows.pause("calls", int(machine.wall() * 1e6)))
        case "unpause":
            write(machine.path, rows.unpause("calls"))
        case _:
            write(machine.path, rows.trigger("calls", "somebody", int(machine.wall() * 1e6)))


def write(path: Path, unit: Unit) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        execute(connection, Transaction((unit,)))


async def watch_places(path: Path, active: int) -> None:
    await trio.sleep(1)
    with closing(sqlite3.connect(path)) as connection:
        while True:
            ((under_way,),) = connection.execute(
                "SELECT count(*) FROM generations WHERE status = 'running'"
            ).fetchall()
            assert under_way <= active
            await trio.sleep(1)


def check_slots(connection: sqlite3.Connection) -> None:
    (fired, skipped, missed) = connection.execute(
        "SELECT fired, skipped, missed FROM schedules"
    ).fetchone()
    decided = connection.execute(
        "SELECT at, asked_by, decision, missed, run FROM slots ORDER BY slot"
    ).fetchall()
    assert all(decision is not None for _, _, decision, _, _ in decided)
    by_decision = [decision for _, _, decision, _, _ in decided]
    assert (by_decision.count("fired"), by_decision.count("skipped")) == (fired, skipped)
    assert sum(m for *_, m, _ in decided) == missed
    # Every fired slot is a run of its own, every run is a slot's, and all of them have ended.
    runs = [run for *_, run in decided if run is not None]
    assert len(set(runs)) == len(runs) == fired
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (fired,)
    still_open = "SELECT count(*) FROM generations WHERE finished_at IS NULL"
    assert connection.execute(still_open).fetchone() == (0,)
    # No slot is decided twice, and what lies between two of them was counted, or paused away.
    times = [at for at, asked_by, *_ in decided if asked_by is None]
    assert times == sorted(set(times))
