"""Made-up pipelines as plain values, and what must come of them when nothing goes wrong."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

import trio
from attrs import frozen

from stagerun.engine.context import Context
from stagerun.model.outcome import DROP, StageOutcome
from stagerun.model.pipeline import Pipeline, batch, collect, stage
from stagerun.model.policy import Retry
from stagerun.model.stage import Stage
from stagerun.testing.simulation import BrokenPromiseError, Simulation

__all__ = ["Doing", "Expected", "PipelineCase", "StageCase"]


@frozen(kw_only=True)
class Doing:
    """What a made-up stage does with an item."""

    seconds: float = 0.0
    """How long each attempt takes."""
    failures: int = 0
    """So many attempts fail, and only then comes the ending."""
    ending: Literal["returns", "drops", "fails", "hangs"] = "returns"


@frozen(kw_only=True)
class StageCase:
    """A made-up stage. The item *n* is done with by ``doings[n % len(doings)]``."""

    kind: Literal["each", "many", "batch", "collect"] = "each"
    doings: tuple[Doing, ...] = (Doing(),)
    workers: int = 1
    attempts: int = 1
    deadline: float = 60.0
    keyed: bool = False
    """Of ``each``: whether an item that came before is skipped."""
    children: int = 2
    """Of ``many``: how many an item has."""
    size: int = 3
    """Of ``batch``: items in a call at most."""
    groups: int = 1
    """Of ``collect``: how many groups there are at most."""

    def doing(self, number: int) -> Doing:
        """What is done with an item."""
        return self.doings[number % len(self.doings)]

    def outcome(self, number: int) -> str:
        """Return what must become of an item that is worked on."""
        doing = self.doing(number)
        if doing.failures >= self.attempts:
            return "failed"
        return {"returns": "ok", "drops": "skipped", "fails": "failed", "hangs": "timed_out"}[
            doing.ending
        ]


@frozen(kw_only=True)
class Expected:
    """What must come of a run."""

    status: str
    results: Sequence[int]
    """Of the last stage, sorted: which of several items comes first is nobody's promise."""
    outcomes: Sequence[Mapping[str, int]]
    """Of each stage: how many items had which outcome."""


@frozen(kw_only=True)
class PipelineCase:
    """A made-up pipeline with its items; all of it follows from the values here.

    Crashes, slow disks and clocks that jump change nothing in what is expected. What takes a
    stage's time away (a process that stands still, a database that is locked), or kills a process
    three times with the same item in hand, does.
    """

    stages: tuple[StageCase, ...]
    items: tuple[int, ...]

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline; a new one, each time, that knows nothing of earlier runs."""
        made = [_MAKERS[case.kind](case, f"s{number}") for number, case in enumerate(self.stages)]
        return Pipeline("made-up", made, deadline=None)

    @property
    def expected(self) -> Expected:
        """What must come of it when nothing goes wrong."""
        numbers, outcomes, missed = [*self.items], list[Mapping[str, int]](), list[int]()
        for case in self.stages:
            numbers, missed, counts = _EXPECTATIONS[case.kind](case, numbers, missed)
            outcomes.append(counts)
        enough = all(
            counts.get("ok", 0) > 0 or counts.keys() <= {"ok", "skipped"} for counts in outcomes
        )
        return Expected(
            status="succeeded" if enough else "failed", results=sorted(numbers), outcomes=outcomes
        )

    def check(self, simulation: Simulation) -> None:
        """Compare what came of it with what is expected.

        Raises:
            BrokenPromiseError: They differ.
        """
        run, wanted = simulation.run, self.expected
        found = Expected(
            status=run.status,
            results=sorted(run.results),
            outcomes=[
                Counter(run.outcomes.get(f"s{number}", {}).values())
                for number in range(len(self.stages))
            ],
        )
        if found != wanted:
            log = "\n".join(simulation.log)
            raise BrokenPromiseError(f"expected\n  {wanted}\ngot\n  {found}\n{log}")


# -- the stages -----------------------------------------------------------------------------------


async def _work(case: StageCase, number: int, attempt: int) -> bool:
    """Do with a number what is to be done; return whether it is kept."""
    doing = case.doing(number)
    await trio.sleep(doing.seconds)
    if doing.ending == "hangs" and attempt > doing.failures:
        await trio.sleep_forever()
    return _ends(doing, number, attempt)


def _ends(doing: Doing, number: int, attempt: int) -> bool:
    if attempt <= doing.failures:
        raise RuntimeError(f"{number} fails in attempt {attempt}")
    if doing.ending == "fails":
        raise RuntimeError(f"{number} fails always")
    return doing.ending == "returns"


def _options(case: StageCase, name: str) -> dict[str, Any]:
    retry = Retry(attempts=case.attempts)
    return {"name": name, "workers": case.workers, "deadline": case.deadline, "retry": retry}


def _each(case: StageCase, name: str) -> Stage:
    key = (lambda number: number) if case.keyed else None

    @stage(key=key, **_options(case, name))
    async def each(number: int, ctx: Context) -> Any:
        return number + 1 if await _work(case, number, ctx.attempt) else DROP

    return each


def _many(case: StageCase, name: str) -> Stage:
    @stage(**_options(case, name))
    async def many(number: int, ctx: Context) -> AsyncGenerator[int]:
        await _work(case, number, ctx.attempt)
        for ordinal in range(case.children):
            await trio.sleep(case.doing(number).seconds)
            yield 10 * number + ordinal

    return many


def _batch(case: StageCase, name: str) -> Stage:
    @batch(size=case.size, wait=0.5, **_options(case, name))
    async def many_at_once(numbers: list[int], ctx: Context) -> list[Any]:
        await trio.sleep(max(case.doing(number).seconds for number in numbers))
        results = list[Any]()
        for number in numbers:
            try:
                kept = _ends(case.doing(number), number, ctx.attempt)
                results.append(number + 1 if kept else DROP)
            except RuntimeError as error:
                results.append(error)
        return results

    return many_at_once


def _collect(case: StageCase, name: str) -> Stage:
    @collect(by=lambda number: number % case.groups, **_options(case, name))
    async def together(members: AsyncIterator[StageOutcome], ctx: Context) -> int:
        total = sum([member.value async for member in members if member.ok])
        await _work(case, int(ctx.key), ctx.attempt)
        return int(total)

    return together


_MAKERS: Mapping[str, Callable[[StageCase, str], Stage]] = {
    "each": _each,
    "many": _many,
    "batch": _batch,
    "collect": _collect,
}


# -- what comes of them ---------------------------------------------------------------------------

_Expectation = tuple[list[int], list[int], Mapping[str, int]]
"""The results, the items without one by what they went in with, and the outcomes' sums."""


def _expect_each(case: StageCase, numbers: list[int], _missed: list[int]) -> _Expectation:
    repeated = Counter[int]()
    if case.keyed:
        repeated, numbers = Counter(numbers) - Counter({*numbers}), sorted({*numbers})
    results, missed, counts = _expect(case, numbers, lambda number: [number + 1])
    counts.update(skipped=repeated.total())
    return results, [*missed, *repeated.elements()], +counts


def _expect_many(case: StageCase, numbers: list[int], _missed: list[int]) -> _Expectation:
    results, _, counts = _expect(
        case, numbers, lambda number: [10 * number + ordinal for ordinal in range(case.children)]
    )
    return results, [], counts  # a parent is in no group


def _expect_batch(case: StageCase, numbers: list[int], _missed: list[int]) -> _Expectation:
    return _expect(case, numbers, lambda number: [number + 1])


def _expect_collect(case: StageCase, numbers: list[int], missed: list[int]) -> _Expectation:
    groups = sorted({number % case.groups for number in [*numbers, *missed]})
    totals = {
        group: sum(number for number in numbers if number % case.groups == group)
        for group in groups
    }
    return _expect(case, groups, lambda group: [totals[group]])


def _expect(
    case: StageCase, numbers: list[int], results_of: Callable[[int], list[int]]
) -> tuple[list[int], list[int], Counter[str]]:
    results, missed, counts = list[int](), list[int](), Counter[str]()
    for number in numbers:
        outcome = case.outcome(number)
        counts[outcome] += 1
        if outcome == "ok":
            results += results_of(number)
        else:
            missed.append(number)
    return results, missed, counts


_EXPECTATIONS: Mapping[str, Callable[[StageCase, list[int], list[int]], _Expectation]] = {
    "each": _expect_each,
    "many": _expect_many,
    "batch": _expect_batch,
    "collect": _expect_collect,
}
