"""How fast a run gets on, and what is still to come: told by committed sums alone."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from stagerun.model.status import Counts

__all__ = ["Look", "Pace", "expected"]

_WINDOW: Final = 10.0
"""Seconds that a stage's rate looks back."""
_LONG: Final = 60.0
"""Seconds that it looks back where little happens, and that the time left does."""
_FEW: Final = 10
"""Settled items below which a rate looks further back."""
_LEAST: Final = 0.5
"""Seconds that must have been seen before anything is said."""


@frozen
class Look:
    """What was seen of a run at one moment."""

    at: float
    settled: tuple[int, ...]
    percent: float | None


@define
class Pace:
    """The last minute of a run, for its rates and the time that is left."""

    _past: deque[Look] = field(init=False, factory=deque)

    def see(self, look: Look) -> None:
        """Note where the run stands now. Each look has as many stages as the first one."""
        self._past.append(look)
        while look.at - self._past[0].at > _LONG:
            self._past.popleft()

    def rates(self) -> list[float]:
        """Return what each stage settles in a second."""
        last = self._past[-1]
        recent = next(look for look in self._past if last.at - look.at <= _WINDOW)
        rates = []
        for index, settled in enumerate(last.settled):
            since = recent
            if settled - recent.settled[index] < _FEW:
                since = self._past[0]
            seconds = last.at - since.at
            done = settled - since.settled[index]
            rates.append(done / seconds if seconds >= _LEAST else 0.0)
        return rates

    def seconds_left(self) -> float | None:
        """Return how long the run takes yet if it gets on as in the last minute; None: unknown."""
        last = self._past[-1]
        for look in self._past:
            if look.percent is not None and last.percent is not None:
                seconds, gained = last.at - look.at, last.percent - look.percent
                if seconds < _LEAST or gained <= 0:
                    return None
                return (100.0 - last.percent) * seconds / gained
        return None


def expected(stages: Sequence[Counts], source_length: int | None) -> list[float | None]:
    """Tell for each stage how many items it will have had in the end, or None: nobody knows yet.

    What is still to come from the stage before is taken to multiply as what came until now.
    """
    totals = list[float | None]()
    for index, stage in enumerate(stages):
        if index == 0:
            total = None if source_length is None else float(max(source_length, stage.accepted))
        else:
            before, until = stages[index - 1], totals[-1]
            left = None if until is None else until - before.settled
            if left is None:
                total = None
            elif left <= 0:
                total = float(stage.accepted)
            elif before.settled and stage.accepted:
                total = stage.accepted + left * stage.accepted / before.settled
            else:
                total = None
        totals.append(total)
    return totals
