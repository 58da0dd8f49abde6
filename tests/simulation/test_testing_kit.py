"""The kit itself: the same seed the same trace, faults that strike, crashes that change nothing."""

import subprocess
import sys
import threading
from typing import Any

import pytest
import trio

from stagerun import Pipeline, PolicyError, Retry, Schedule, UsageError, batch, collect, stage
from stagerun.engine.emission import Emitter
from stagerun.testing import (
    BrokenPromiseError,
    ClockJump,
    Crash,
    DiskError,
    FaultPlan,
    Freeze,
    Lock,
    LostFile,
    Shutdown,
    Sleep,
    SlowDisk,
    crash_at_every_commit,
    simulate,
)


@stage(workers=3, deadline=30, retry=Retry(attempts=3, attempt_deadline=10))
async def fetch(n: int, ctx: Any) -> int:
    await trio.sleep(100 if n == 7 and ctx.attempt == 1 else 2)
    return n


@stage(workers=2)
async def square(n: int) -> int:
    await trio.sleep(0.1)
    return n * n


SQUARES = Pipeline("squares", [fetch, square])
WANTED = [n * n for n in range(20)]
EVERYTHING = FaultPlan(
    [
        Crash(at=3, downtime=2),
        Sleep(at=4, seconds=7200),
        Freeze(at=6, process=1, seconds=4),
        Lock(at=7, seconds=3),
        ClockJump(at=9, seconds=-90_000),
        LostFile(at=11, process=1),
        SlowDisk(at=12, seconds=5, each=0.3),
        DiskError(at=18, seconds=2, error="SQLITE_FULL"),
        Shutdown(at=21, process=1, downtime=1),
    ]
)


def test_a_day_passes_in_a_moment() -> None:
    simulation = simulate(SQUARES, [*range(20)])
    assert simulation.status == "succeeded"
    assert simulation.results == WANTED
    assert 18 < simulation.seconds < 25
    assert simulation.calls["fetch", "7"] == 2
    assert simulation.run.outcomes["fetch"] == dict.fromkeys(range(1, 21), "ok")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_befalls_the_computer_the_run_comes_to_its_end(seed: int) -> None:
    simulation = simulate(SQUARES, [*range(20)], seed=seed, faults=EVERYTHING, processes=2)
    assert (simulation.status, simulation.results) == ("succeeded", WANTED)
    assert simulation.run.generation > 1, "none of the faults did anything"
    happened = " ".join(simulation.log)
    for fault in ("killed", "sleeps", "stands still", "SQLITE_BUSY", "clock is set", "SQLITE_FULL"):
        assert fault in happened


PROGRAM = """
from tests.simulation.test_testing_kit import EVERYTHING, SQUARES
from stagerun.testing import FaultPlan, simulate
print(simulate(SQUARES, [*range(20)], seed=3, faults=EVERYTHING, processes=2).trace)
"""


def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for _ in range(2)
    }
    here = simulate(SQUARES, [*range(20)], seed=3, faults=EVERYTHING, processes=2)
    assert traces == {here.trace + "\n"}
    other = simulate(SQUARES, [*range(20)], seed=4, faults=EVERYTHING, processes=2)
    assert other.trace != here.trace


def test_schedules_are_served_for_so_many_hours() -> None:
    hourly = Schedule("hourly", Pipeline("few", [square], source=[1, 2]), every=3600)
    simulation = simulate(hourly, hours=24.5, processes=2, faults=FaultPlan([Crash(at=7000)]))
    assert [run.status for run in simulation.runs] == ["succeeded"] * 24


def test_a_run_that_nobody_resumes_stays_interrupted() -> None:
    crash = FaultPlan([Crash(at=3)])
    simulation = simulate(SQUARES, [*range(20)], faults=crash, resume=False)
    assert (simulation.status, simulation.run.cause) == ("interrupted", "owner_died")


@stage
async def split(n: int) -> Any:
    for part in range(3):
        await trio.sleep(0.5)
        yield {"n": n, "part": part}


@batch(size=4, wait=0.3)
async def embed(parts: list[dict[str, int]]) -> list[int]:
    await trio.sleep(1)
    return [part["n"] * 10 + part["part"] for part in parts]


@collect(by=lambda vector: vector % 10)
async def total(members: Any) -> int:
    return sum([member.value async for member in members if member.ok])


TOTALS = Pipeline("totals", [split, embed, total], source=lambda: range(1, 6))


@pytest.mark.parametrize(("pipeline", "items"), [(SQUARES, [*range(9)]), (TOTALS, None)])
def test_a_crash_at_any_commit_changes_nothing(pipeline: Pipeline, items: Any) -> None:
    report = crash_at_every_commit(pipeline, items)
    assert report.crashes > 20
    assert report.repeated, "the crashes cost nothing at all: did they happen?"


def test_children_that_a_repeated_parent_gives_twice_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forgetful(cls: type[Emitter], actor: Any, parent: Any) -> Emitter:
        return cls(actor, parent)

    monkeypatch.setattr(Emitter, "reopen", classmethod(forgetful))
    with pytest.raises(BrokenPromiseError, match=r"killed before commit \d+"):
        crash_at_every_commit(TOTALS)


async def test_a_simulation_within_a_program_on_trio_is_refused() -> None:
    with pytest.raises(UsageError, match="plain function"):
        simulate(SQUARES, [1])


def test_one_simulation_at_a_time() -> None:
    """trio's order of tasks is one for the process: a second simulation would change the first."""

    @stage
    async def simulates(n: int) -> str:
        errors = list[str]()

        def another() -> None:
            try:
                simulate(SQUARES, [n])
            except UsageError as error:
                errors.append(str(error))

        thread = threading.Thread(target=another)
        thread.start()
        thread.join(30)
        return errors[0]

    refused = simulate(Pipeline("simulates", [simulates]), [1])
    assert "another thread of this process is in a simulation" in refused.results[0]
    assert simulate(SQUARES, [3]).results == [9]


def test_a_fault_of_no_process_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Crash.at=1.* there are 2, counted from 0"):
        simulate(SQUARES, [1], faults=FaultPlan([Crash(at=1, process=2)]), processes=2)
    with pytest.raises(PolicyError, match=r"DiskError.error must begin with .* got 'SQLITE_ROW'"):
        DiskError(at=0, error="SQLITE_ROW")


def test_a_run_that_outlasts_the_hours_is_cut() -> None:
    simulation = simulate(SQUARES, [*range(2000)], hours=0.1)
    assert simulation.cut
    assert simulation.status != "succeeded"
    assert "360.000 the time is over, and the run has not ended: 360 s" in simulation.log
    assert not simulate(SQUARES, [1], hours=0.1).cut


@pytest.mark.parametrize("fault", [Freeze(at=1, seconds=1e9), Lock(at=1, seconds=1e9)])
def test_no_fault_outlasts_the_hours(fault: Any) -> None:
    simulation = simulate(SQUARES, [1, 2], hours=0.1, faults=FaultPlan([fault]))
    assert simulation.cut
    assert simulation.seconds == 360


@pytest.mark.parametrize("faults", [FaultPlan(), FaultPlan([Crash(at=5)])])
def test_a_stage_that_never_leaves_its_shield_is_named(faults: FaultPlan) -> None:
    @stage
    async def stubborn(n: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
        return n

    pipeline = Pipeline("stubborn", [stubborn], deadline=60)
    with pytest.raises(UsageError, match=r"stubborn\(\) in .*test_testing_kit.py, line \d+, waits"):
        simulate(pipeline, [1, 2], faults=faults)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"what": square}, "a Pipeline is simulated, or a Schedule, or several, not Stage"),
        ({"what": [SQUARES]}, "only Schedules can be simulated, not Pipeline"),
        ({"hours": 0}, "hours must be more than 0"),
        ({"hours": float("nan")}, "hours must be more than 0"),
        ({"hours": "1"}, "hours must be more than 0"),
        ({"begin": -1}, "begin must be seconds since 1970"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"processes": 0}, "processes must be a whole number from 1"),
        ({"faults": [Crash(at=1)]}, "faults must be a FaultPlan"),
        ({"items": [object()]}, "item 1 of the list cannot be stored"),
        ({"items": None}, "has no source of its own"),
    ],
)
def test_what_cannot_be_simulated_is_refused(more: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"what": SQUARES, "items": [1], **more}
    with pytest.raises(UsageError, match=message):
        simulate(**given)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: Crash(at=-1), "Crash.at"),
        (lambda: Crash(at=1, downtime=float("inf")), "Crash.downtime"),
        (lambda: SlowDisk(at=1, each=-1), "SlowDisk.each"),
        (lambda: ClockJump(at=1, seconds=float("-inf")), "ClockJump.seconds"),
        (lambda: FaultPlan(["crash"]), "FaultPlan.faults"),  # type: ignore[list-item] # as said
        (lambda: FaultPlan.random(1, processes=0), "FaultPlan.processes"),
        (lambda: FaultPlan.random(1, kinds=["flood"]), "FaultPlan.kinds"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(make: Any, option: str) -> None:
    with pytest.raises(PolicyError) as refused:
        make()
    assert refused.value.option == option


def test_what_comes_out_can_be_read() -> None:
    simulation = simulate(SQUARES, [1])
    said = (
        f"<Simulation of 1 succeeded; seed 0, {simulation.seconds:g} s, trace {simulation.trace}>"
    )
    assert repr(simulation) == said
    assert repr(simulation.run).endswith(": succeeded (completed: all work is done)>")
