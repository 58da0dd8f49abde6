"""Pipelines whose stages do what a seed says, and what must come of them: the oracle.

An item is known by a number that it keeps on its way; what each stage does with it follows from the
seed, the stage, that number and the attempt. So the right outcome of every item is known beforehand
whatever happens to the processes that carry it.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Final, Protocol

import trio
from attrs import frozen

from stagerun import DROP, Pipeline, Retry, batch, collect, stage

__all__ = ["ATTEMPT", "BUDGET", "GRACE", "RUN", "Act", "Ground", "Oracle", "pipelines"]

ATTEMPT: Final = 5.0
"""Seconds for one attempt of each stage that may hang."""
BUDGET: Final = 60.0
"""Seconds for an item in a stage: more than three attempts that hang, with all pauses."""
RUN: Final = 150.0
"""Seconds for a run."""
GRACE: Final = 2.0
_STUBBORN: Final = 0.3
"""Share of the items with which a stage does the same in each attempt."""
_RETRY: Final = Retry(attempts=3, attempt_deadline=ATTEMPT, base=0.5, cap=4.0)


class Ground(Protocol):
    """Who knows what is really done, whatever the database says of it."""

    def attempt(self, ctx: Any, n: int, act: "Act") -> AbstractContextManager[None]:
        """Return a context for the time that a stage works on an item."""


@frozen
class Act:
    """What a stage does in one attempt: after so many seconds it gives, fails, or drops; or it
    hangs, or swallows its cancellation and gives a little late, or long after it was given up."""

    seconds: float
    how: str


@frozen
class Oracle:
    """What follows from a seed."""

    seed: int
    temper: tuple[str, ...]
    """What a stage may do; as often as it stands there."""

    @classmethod
    def of(cls, seed: int) -> "Oracle":
        """Return the oracle of a seed; how bad stages are differs from seed to seed."""
        dice = random.Random(seed)
        weights = {"fail": 2, "hang": 1, "late": 1, "swallow": 1, "drop": 1}
        bad = [how for how, weight in weights.items() for _ in range(weight * dice.choice([0, 1]))]
        return cls(seed, ("ok",) * dice.choice([6, 12, 24]) + tuple(bad))

    def act(self, stage: str, n: int, attempt: int) -> Act:
        """Return what a stage does with an item in an attempt."""
        return _act(self, stage, n, attempt)

    def expected(self, stage: str, n: int) -> str:
        """Return the outcome of an item that nobody disturbs."""
        for attempt in (1, 2, 3):
            how = self.act(stage, n, attempt).how
            if how == "ok":
                return "ok"
            if how == "drop":
                return "skipped"
        return "failed" if how == "fail" else "timed_out"


@cache
def _act(oracle: Oracle, stage: str, n: int, attempt: int) -> Act:
    stubborn = random.Random(f"{oracle.seed}/{stage}/{n}").random() < _STUBBORN
    dice = random.Random(f"{oracle.seed}/{stage}/{n}/{0 if stubborn else attempt}")
    how = dice.choice(oracle.temper)
    return Act(dice.choice([0.0, dice.uniform(0, 0.5), dice.uniform(0, 4)]), how)


async def _do(act: Act) -> None:
    if act.how == "hang":
        await trio.sleep_forever()
    if act.how in ("late", "swallow"):
        with trio.CancelScope(shield=True):
            await trio.sleep(ATTEMPT + (GRACE / 2 if act.how == "late" else 5 * GRACE))
        return
    await trio.sleep(act.seconds)
    if act.how == "fail":
        raise ValueError("as the seed says")


def pipelines(oracle: Oracle, ground: Ground, sizes: Callable[[], int]) -> list[Pipeline]:
    """Return pipelines of all kinds of stages. *sizes*: how many items their sources give."""
    dice = random.Random(oracle.seed)
    common: dict[str, Any] = {"deadline": BUDGET, "retry": _RETRY}
    policy: dict[str, Any] = {"deadline": RUN, "grace": GRACE}

    async def carry(item: dict[str, int], ctx: Any) -> Any:
        act = oracle.act(ctx.stage, item["n"], ctx.attempt)
        with ground.attempt(ctx, item["n"], act):
            await _do(act)
        return DROP if act.how == "drop" else item

    async def give(item: dict[str, int], ctx: Any) -> AsyncIterator[dict[str, int]]:
        act = oracle.act(ctx.stage, item["n"], ctx.attempt)
        with ground.attempt(ctx, item["n"], act):
            yield {"n": 10 * item["n"]}
            await _do(act)
            yield {"n": 10 * item["n"] + 1}

    async def pack(items: list[dict[str, int]]) -> list[Any]:
        await trio.sleep(1)
        return [ValueError("never") if item["n"] % 7 == 3 else item for item in items]

    async def add(members: AsyncIterator[Any]) -> dict[str, Any]:
        return {"ns": sorted([member.value["n"] async for member in members if member.ok])}

    def workers() -> int:
        return dice.choice([1, 2, 4])

    def source() -> Iterator[dict[str, int]]:
        return iter([{"n": n} for n in range(1, sizes() + 1)])

    one = stage(name="one", workers=workers(), **common)(carry)
    two = stage(name="two", workers=workers(), **common)(carry)
    fan = stage(name="fan", workers=workers(), **common)(give)
    packs = batch(size=3, wait=0.5, name="pack", workers=2, deadline=BUDGET)(pack)
    adds = collect(by=lambda item: item["n"] % 2, name="add", deadline=BUDGET)(add)
    keyed = stage(name="keyed", key=lambda item: item["n"], workers=workers(), **common)(carry)
    again: dict[str, Any] = {"on_interrupt": "resume", "resumes": 100}
    return [
        Pipeline("pair", [one, two], **policy),
        Pipeline("fanned", [fan, two], source=source, **again, **policy),
        Pipeline("packed", [one, packs, adds], **again, **policy),
        Pipeline("keyed", [keyed, fan, two], source=source, **policy),
        Pipeline("single", [one], source=source, **again, **policy),
    ]
