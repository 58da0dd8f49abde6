"""The state machine for users: it drives real engines, finds defects, and what it finds shrinks."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from stagerun import Pipeline, Retry, UsageError, batch, collect, stage
from stagerun.engine import admission
from stagerun.testing import BrokenPromiseError, SimulatedRun
from stagerun.testing.faults import _DRAWS
from stagerun.testing.statemachine import RunMachine, StartedRun
from stagerun.testing.stepwise import Stepwise
from stagerun.testing.strategies import _PLAIN

QUICK = settings(
    max_examples=5,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[*HealthCheck],
)


@stage(workers=2, deadline=20, retry=Retry(attempts=2))
async def work(n: int, ctx: Any) -> int:
    await trio.sleep(1 + n / 2)
    if n == 3 and ctx.attempt == 1:
        raise ValueError(n)
    if n == 7:
        await trio.sleep_forever()
    return n


@stage
async def split(n: int) -> Any:
    for part in range(n % 3):
        await trio.sleep(0.5)
        yield 10 * n + part


@batch(size=3, wait=0.5)
async def together(numbers: list[int]) -> list[int]:
    await trio.sleep(1)
    return numbers


@collect(by=lambda n: n % 2)
async def total(members: Any) -> int:
    return sum([member.value async for member in members if member.ok])


class Retries(RunMachine):
    pipeline = Pipeline("retries", [work], deadline=120)


class Resumes(RunMachine):
    pipeline = Pipeline("resumes", [work, split], on_interrupt="resume")
    kinds = ("crash", "shutdown", "lost file")

    def ended(self, run: SimulatedRun, started: StartedRun | None) -> None:
        if started is not None and run.status == "succeeded":
            wanted = [10 * n + part for n in started.items if n != 7 for part in range(n % 3)]
            assert sorted(run.results) == sorted(wanted)


class Totals(RunMachine):
    pipeline = Pipeline("totals", [split, together, total])
    items = st.lists(st.integers(0, 9), max_size=4)
    processes = 1


class Limited(RunMachine):
    """With a rule of its own: runs that share a place."""

    pipeline = Pipeline("limited", [work], on_interrupt="resume")

    @rule(by=st.integers(0, 1))
    def one_at_a_time(self, by: int) -> None:
        async def start(runtime: Any) -> None:
            own = self.living[by].own("limited")
            await (await runtime.start(own, [1, 2], concurrency_key="one")).wait()

        self.ask(by, start)
        self.wait(0.5)


@pytest.mark.parametrize("machine", [Retries, Resumes, Totals, Limited])
def test_no_sequence_of_events_breaks_a_promise(machine: type[RunMachine]) -> None:
    run_state_machine_as_test(machine, settings=QUICK)


def test_the_machine_knows_each_kind_of_fault() -> None:
    assert sorted(_PLAIN) == sorted(_DRAWS)


class Small(RunMachine):
    pipeline = Pipeline("small", [split])
    items = st.lists(st.integers(0, 2), max_size=2)
    processes = 1
    kinds = ("crash",)


def test_a_planted_defect_is_found_and_shrinks_to_a_few_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a user would see of it: a run that has succeeded, goes on, and says 100 percent.
    monkeypatch.setattr(admission, "MOST_PERCENT", 100.0)
    with pytest.raises(BrokenPromiseError, match="100.0 percent, but running") as caught:
        run_state_machine_as_test(
            Small, settings=settings(QUICK, max_examples=100, stateful_step_count=6)
        )
    told = "\n".join(getattr(caught.value, "__notes__", [])) + capsys.readouterr().out
    steps = re.findall(
        r"state\.(start|start_again|cancel|resume|wait|befall|kill_at_commit)\(", told
    )
    assert steps == ["start", "resume"], told


def machine_that(happens: Callable[[RunMachine, StartedRun], None]) -> RunMachine:
    machine = Small()
    machine.begin(seed=0)
    machine.start(items=[1], by=0, wait=1.0)
    happens(machine, machine.started[0])
    return machine


def test_an_acknowledged_run_that_is_not_there_is_found() -> None:
    def forge(_machine: RunMachine, run: StartedRun) -> None:
        assert run.id is not None
        run.id = "0" * 32

    machine = machine_that(forge)
    with pytest.raises(BrokenPromiseError, match="run 0 was acknowledged"):
        machine.nothing_is_broken()
    with pytest.raises(BrokenPromiseError):
        machine.teardown()


def test_a_run_that_ends_otherwise_than_was_told_is_found() -> None:
    def forge(_machine: RunMachine, run: StartedRun) -> None:
        assert run.told == {1: "succeeded"}
        run.told[1] = "failed"

    machine = machine_that(forge)
    with pytest.raises(BrokenPromiseError, match="told as failed, and is succeeded"):
        machine.teardown()


def test_a_run_that_never_ends_is_found() -> None:
    @stage(deadline=None)
    async def hangs(n: int) -> None:
        await trio.sleep_forever()

    class Hangs(RunMachine):
        pipeline = Pipeline("hangs", [hangs], deadline=None)
        processes = 1

    machine = Hangs()
    machine.begin(seed=0)
    machine._longest = 60.0
    machine.start(items=[1], by=0, wait=1.0)
    machine.nothing_is_broken()
    with pytest.raises(BrokenPromiseError, match="generation 1 is still running, 60 s after"):
        machine.teardown()


def test_a_call_that_raises_fails_the_test() -> None:
    async def strange(_runtime: Any) -> None:
        raise LookupError("strange")

    machine = Small()
    machine.begin(seed=0)
    machine.ask(0, strange)
    with pytest.raises(ExceptionGroup) as caught:
        machine.wait(1.0)
    assert caught.group_contains(LookupError)
    machine._program.close()
    machine._folder.cleanup()


# -- a program step by step -----------------------------------------------------------------------


def test_between_steps_nothing_goes_on() -> None:
    done = list[float]()

    async def ticks() -> None:
        while True:
            await trio.sleep(1)
            done.append(trio.current_time())

    async def nap() -> float:
        await trio.sleep(2.5)
        return trio.current_time()

    program = Stepwise()
    program.nursery.start_soon(ticks)
    assert program.step(nap) == 2.5
    assert done == [1, 2]
    assert program.step(nap) == 5
    program.close()
    program.close()
    assert done[:4] == [1, 2, 3, 4]
    with pytest.raises(UsageError, match="closed"):
        program.step(nap)
    trio.run(trio.lowlevel.checkpoint)  # and another program may begin


def test_what_a_step_raises_is_raised_and_the_program_goes_on() -> None:
    async def fails() -> None:
        raise LookupError

    async def answers() -> int:
        return 3

    program = Stepwise()
    with pytest.raises(LookupError):
        program.step(fails)
    assert program.step(answers) == 3
    program.close()


async def test_within_a_program_on_trio_it_is_refused() -> None:
    with pytest.raises(UsageError, match="plain"):
        Stepwise()
