"""Which trials there are: every place that an undisturbed life comes by, and chance beyond them."""

import random
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import define, field

from tests.campaign.failpoints import FAILPOINTS, SIDES, Strike
from tests.campaign.killtrial import Room, Trial
from tests.campaign.workloads import WORKLOADS

__all__ = ["Plan"]

_WEIGHTS: Final[Mapping[str, int]] = {
    "point": 8, "sql": 4, "disk": 4, "moment": 2, "drain": 2, "schema": 1, "recovery": 6
}  # fmt: skip
"""How often a trial is of each sort."""
_FRESH: Final = 0.2
"""Share of trials that begin without a file."""
_AGAIN: Final = 0.5
"""Share of the other trials in which whoever finishes what is left may be killed as well."""
_MOST: Final = 5
"""Deaths in a row of lives that finish what others have left."""


@define
class Plan:
    """The trials of one seed, in order. What is listed is struck once before it is struck twice."""

    seed: int
    first: dict[str, list[Strike]] = field(factory=dict)
    """By workload, the places that its first life comes by."""
    next: dict[str, list[Strike]] = field(factory=dict)
    """The same of a life that finishes what was left in the middle."""
    seconds: dict[str, float] = field(factory=dict)
    """By workload, how long an undisturbed first life takes."""

    @classmethod
    def of(cls, seed: int, room: Room) -> "Plan":
        """Count what there is to be struck, one undisturbed life of each sort after the other."""
        plan = cls(seed)
        for name, workload in WORKLOADS.items():
            if workload.long:
                continue
            plan.first[name], plan.seconds[name] = plan._counted(room, name, ())
            statements = [strike.number for strike in plan.first[name] if strike.kind == "sql"]
            middle = Strike("sql", "after", max(statements) * 3 // 5)
            plan.next[name], _ = plan._counted(room, name, (middle,))
        for name, workload in WORKLOADS.items():
            if workload.long:  # it takes its time: only for what no other one comes by
                known = plan._places()
                found, plan.seconds[name] = plan._counted(room, name, ())
                plan.first[name] = [strike for strike in found if strike.place not in known]
        return plan

    def _counted(
        self, room: Room, workload: str, before: tuple[Strike, ...]
    ) -> tuple[list[Strike], float]:
        trial = Trial(self.seed, workload, fresh=workload == "nothing", strikes=before)
        counts, seconds = room.count(trial)
        return [
            Strike(kind, place, number)
            for kind, places in counts.items()
            for place, count in places.items()
            for number in range(1, count + 1)
        ], seconds

    @property
    def unreached(self) -> list[str]:
        """Failpoints, with their sides, that no life comes by."""
        return sorted(self.points() - self._places())

    def _places(self) -> set[str]:
        every = (*self.first.values(), *self.next.values())
        return {strike.place for strikes in every for strike in strikes}

    @staticmethod
    def points() -> set[str]:
        """Return all failpoints, with their sides."""
        return {f"{name}.{side}" for name in FAILPOINTS for side in SIDES}

    @property
    def every(self) -> set[tuple[str, int, str]]:
        """All places that were counted: workload, 1 for a life after the first, and where."""
        return {
            (workload, again, str(strike))
            for again, found in enumerate((self.first, self.next))
            for workload, strikes in found.items()
            for strike in strikes
        }

    def trials(self) -> Iterator[Trial]:
        """Give trials for ever: each failpoint first, once; then all sorts, mixed."""
        dice = random.Random(f"plan {self.seed}")
        yield from self._covering(dice)
        sorts, weights = {sort: self._of(sort, dice) for sort in _WEIGHTS}, dict(_WEIGHTS)
        while True:
            (sort,) = dice.choices([*weights], [*weights.values()])
            trial = next(sorts[sort], None)
            if trial is None:
                del weights[sort]  # without the shim of the disk nothing strikes there
            else:
                yield trial

    def _covering(self, dice: random.Random) -> Iterator[Trial]:
        """Give a trial for each failpoint and side, in any of the lives that come by."""
        where = dict[str, list[tuple[str, Strike, bool]]]()
        for again, found in ((False, self.first), (True, self.next)):
            for workload, strikes in found.items():
                for strike in strikes:
                    if strike.kind == "point":
                        where.setdefault(strike.place, []).append((workload, strike, again))
        for place in sorted(where):
            workload, strike, again = dice.choice(where[place])
            yield self._trial(workload, strike, dice, again=again)

    def _of(self, sort: str, dice: random.Random) -> Iterator[Trial]:
        """Give the trials of one sort; none where there is nothing to be struck."""
        match sort:
            case "moment" | "drain":
                while True:
                    yield self._at_a_moment(sort, dice)
            case "schema":
                yield from self._listed({"nothing": self.first["nothing"]}, dice, again=False)
            case "recovery":
                yield from self._listed(self.next, dice, again=True)
            case _:
                others = {
                    name: [strike for strike in strikes if strike.kind == sort]
                    for name, strikes in self.first.items()
                    if name != "nothing"
                }
                yield from self._listed(others, dice, again=False)

    def _listed(
        self, found: Mapping[str, list[Strike]], dice: random.Random, *, again: bool
    ) -> Iterator[Trial]:
        """Strike each of them once, in an order by chance; then again from the beginning."""
        all_of_them = [(name, strike) for name, strikes in found.items() for strike in strikes]
        while all_of_them:
            dice.shuffle(all_of_them)
            for workload, strike in all_of_them:
                yield self._trial(workload, strike, dice, again=again)

    def _trial(self, workload: str, strike: Strike, dice: random.Random, *, again: bool) -> Trial:
        """Return a trial of it; *again*: it strikes whoever finishes what is left, maybe often."""
        strikes = [dice.choice(self.first[workload]), strike] if again else [strike]
        if again or dice.random() < _AGAIN:
            more = dice.randint(0, _MOST - 1)
            strikes += dice.choices(self.next.get(workload) or [strike], k=more)
        fresh = workload == "nothing" or dice.random() < _FRESH
        return Trial(self.seed, workload, fresh, tuple(strikes))

    def _at_a_moment(self, sort: str, dice: random.Random) -> Trial:
        workload = dice.choice([name for name in self.next if name != "nothing"])
        moment = dice.uniform(0.0, 1.2 * self.seconds[workload])
        place = f"{moment:.4f}"
        if sort == "drain":
            place += f"+{dice.uniform(0.0, 0.3 * self.seconds[workload]):.4f}"
        strike = Strike(sort, place)
        return Trial(self.seed, workload, dice.random() < _FRESH, (strike,))
