"""What hypothesis draws: faults that shrink, values that come back, pipelines of known outcome."""

import subprocess
import sys

import pytest
import trio
from hypothesis import HealthCheck, Phase, find, given, settings

from stagerun import Pipeline, PolicyError, stage
from stagerun.engine.emission import Emitter
from stagerun.store import codec
from stagerun.testing import BrokenPromiseError, Crash, FaultPlan, Freeze, simulate
from stagerun.testing.cases import Doing, PipelineCase, StageCase
from stagerun.testing.faults import _DRAWS
from stagerun.testing.strategies import _FAULTS, fault_plans, faults, items, pipelines, values

QUICK = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_kit_alone_needs_neither_hypothesis_nor_pytest() -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(['hypothesis', 'pytest', '_pytest'])\n"
        "import stagerun.testing"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_plan_shrinks_to_the_one_fault_that_matters() -> None:
    plan = find(
        fault_plans(seconds=60, processes=2),
        lambda plan: any(isinstance(fault, Freeze) and fault.process for fault in plan.faults),
    )
    assert plan == FaultPlan([Freeze(at=0.0, process=1, seconds=0.0)])
    assert find(fault_plans(), lambda plan: bool(plan.faults)).faults == (
        Crash(at=0.0, process=0, downtime=0.0),
    )


def test_there_is_a_strategy_for_each_kind_of_fault() -> None:
    assert [*_FAULTS] == [*_DRAWS]
    plainest = [find(faults(kinds=[kind]), lambda _: True) for kind in _FAULTS]
    assert len({type(fault) for fault in plainest}) == len(_FAULTS)
    with pytest.raises(PolicyError, match="'flood' is not one of crash, "):
        faults(kinds=["flood"])


@QUICK
@given(plan=fault_plans(seconds=10, processes=3, kinds=["crash", "lock"], most=4))
def test_a_plan_stays_within_its_bounds(plan: FaultPlan) -> None:
    assert len(plan.faults) <= 4
    assert all(fault.at <= 10 and getattr(fault, "process", 0) < 3 for fault in plan.faults)
    assert {type(fault).__name__ for fault in plan.faults} <= {"Crash", "Lock"}


@QUICK
@given(given=items())
def test_values_come_back_from_the_database_as_they_were(given: list[object]) -> None:
    assert codec.decode(codec.encode(given)) == given


@stage
async def same(value: object) -> object:
    await trio.sleep(1)
    return value


@settings(QUICK, max_examples=8)
@given(given=items(values(), most=5), plan=fault_plans(seconds=10, most=2))
def test_whatever_befalls_the_computer_values_come_through(
    given: list[object], plan: FaultPlan
) -> None:
    simulation = simulate(Pipeline("same", [same], deadline=None), given, faults=plan)
    assert (simulation.status, simulation.results) == ("succeeded", given)


@QUICK
@given(case=pipelines())
def test_a_made_up_pipeline_comes_to_its_outcome(case: PipelineCase) -> None:
    case.check(simulate(case.pipeline, [*case.items]))


TWO_CRASHES = fault_plans(seconds=20, kinds=["crash", "clock", "slow disk", "lost file"], most=2)


@settings(QUICK, max_examples=12)
@given(case=pipelines(), plan=TWO_CRASHES)
def test_two_crashes_change_nothing_in_the_outcome(case: PipelineCase, plan: FaultPlan) -> None:
    case.check(simulate(case.pipeline, [*case.items], faults=plan))


def test_an_outcome_that_is_not_the_expected_one_is_found() -> None:
    case = PipelineCase(stages=(StageCase(doings=(Doing(ending="drops"), Doing())),), items=(0, 1))
    other = PipelineCase(stages=(StageCase(),), items=(0, 1))
    simulation = simulate(case.pipeline, [*case.items])
    case.check(simulation)
    with pytest.raises(BrokenPromiseError, match="expected"):
        other.check(simulation)


def test_a_defect_of_the_engine_is_found_and_shrinks_to_one_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forgetful(cls: type[Emitter], actor: object, parent: object) -> Emitter:
        return cls(actor, parent)  # type: ignore[arg-type] # as it gets them

    monkeypatch.setattr(Emitter, "reopen", classmethod(forgetful))
    found = list[tuple[PipelineCase, FaultPlan]]()

    @settings(QUICK, max_examples=1000, phases=[Phase.generate, Phase.shrink], database=None)
    @given(
        case=pipelines(stages=2, kinds=["many"], endings=["returns"]),
        plan=fault_plans(seconds=5, kinds=["crash"], most=2),
    )
    def search(case: PipelineCase, plan: FaultPlan) -> None:
        try:
            case.check(simulate(case.pipeline, [*case.items], faults=plan))
        except BrokenPromiseError:
            found.append((case, plan))
            raise

    with pytest.raises(BrokenPromiseError):
        search()
    case, plan = found[-1]
    assert len(case.stages) == 1  # how many items it takes depends on when commits come
    assert [type(fault) for fault in plan.faults] == [Crash]
