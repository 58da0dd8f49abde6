"""What the outcomes of the campaign's items are held against: the upstream's own record."""

import statistics
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from stagerun.store.opening import read_only
from stagerun.testing.upstream import Busy, Call, Hang
from tests.campaign.upstreamfaults import GOOD, PLACES, Fault, Item, filled

__all__ = [
    "ATTEMPTS",
    "CUT",
    "DEADLINE",
    "LATE",
    "TOTAL",
    "Judge",
    "Seen",
    "Tally",
    "Told",
    "told_of",
]

TOTAL = 0.6
"""Seconds for a call in `tries`."""
DEADLINE = 0.8
"""Seconds for an item in `hangs`."""
LATE = 1.0
"""Seconds after its end by which something is a violation on any machine; the figures say more."""
ATTEMPTS = 3


@define
class Tally:
    """What all rounds came to."""

    items: int = 0
    tries: int = 0
    undecided: Counter[str] = field(factory=Counter)
    """Attempts that met something quick, and yet used up their time: this machine was slow."""
    faults: Counter[str] = field(factory=Counter)
    late: dict[str, list[float]] = field(factory=lambda: {"calls": [], "items": []})
    attempts: Counter[int] = field(factory=Counter)
    lag: float = 0.0
    """Seconds that the event loop was late at most."""
    lost: float = 0.0
    """Seconds that it was late in all; what this took from items the engine gives back to them."""
    violations: list[str] = field(factory=list)

    def late_loop(self, seconds: float) -> None:
        """Note that the event loop was so late."""
        self.lag = max(self.lag, seconds)
        self.lost += max(0.0, seconds - 0.01)

    def doubts(self) -> Iterator[str]:
        """Yield what so many undecided attempts leave open, and may hide."""
        if self.undecided.total() > self.tries / 10:
            yield f"{self.undecided.total()} of {self.tries} attempts: the machine was too slow"
        for name, times in self.undecided.items():
            if times >= 5 and times > self.faults[name] / 2:
                yield f"{name}: {times} of {self.faults[name]} attempts used up all their time"

    def counts(self) -> dict[str, Any]:
        """Return the figures by their names for people."""
        late = {
            f"{what} late by, ms, {name}": round(share(values) * 1000, 1)
            for what, values in self.late.items()
            if values
            for name, share in _SHARES.items()
        }
        return {
            **late,
            **{f"items of {n} attempts": count for n, count in sorted(self.attempts.items())},
            "attempts": self.tries,
            "undecided, the machine was slow": self.undecided.total(),
            "event loop late by at most, ms": round(self.lag * 1000, 1),
            **{f"met: {name}": count for name, count in sorted(self.faults.items())},
        }


_SHARES: Final[dict[str, Callable[[Sequence[float]], float]]] = {
    "p50": statistics.median,
    "p99": lambda values: sorted(values)[min(len(values) - 1, len(values) * 99 // 100)],
    "max": max,
}


@frozen
class Told:
    """What is on record of an item."""

    outcome: str
    attempts: int
    seconds: float
    cause: str | None
    error: str | None
    value: bytes | None


def told_of(database: Path, run: str) -> list[Told]:
    connection = read_only(database)
    try:
        rows = connection.execute(
            "SELECT o.outcome, o.attempts, o.seconds, o.cause, f.error, coalesce(i.result, x.value)"
            " FROM item_overview o JOIN runs r ON r.id = o.run"
            " JOIN items i ON i.run = r.run AND i.item = o.item"
            " LEFT JOIN failures f ON f.run = r.run AND f.item = o.item"
            " LEFT JOIN results x ON x.run = r.run AND x.item = o.item"
            " WHERE o.run = ? ORDER BY o.item",
            (run,),
        ).fetchall()
    finally:
        connection.close()
    return [
        Told(outcome, attempts, seconds, cause, error and error.rpartition(".")[2], value)
        for outcome, attempts, seconds, cause, error, value in rows
    ]


@frozen
class Seen:
    """One attempt, as the stage itself has seen it; times by `time.monotonic()`."""

    began: float
    ended: float
    error: str | None
    """The class of what the client raised; None: an answer; `CUT`: it was cancelled."""

    @property
    def lasted(self) -> float:
        return self.ended - self.began


CUT: Final = "cut"


class Judge:
    """Holds each item's record against what its attempts saw, and those against the server's."""

    def __init__(self, calls: Sequence[Call], tally: Tally, *, lost: float) -> None:
        self._calls = calls
        self._lost = lost
        self._tally = tally
        first = dict[int, Call]()
        for call in calls:
            first.setdefault(call.connection, call)
        self._fresh = {id(call) for call in first.values()}

    def item(
        self, item: Item, told: Told, attempts: Sequence[Seen], *, bounded: bool
    ) -> Iterator[str]:
        """Yield what is wrong with an item; *bounded*: its calls have a total of their own."""
        self._tally.items += 1
        self._tally.attempts[told.attempts] += 1
        most = ATTEMPTS if bounded else 1
        if not told.attempts == len(attempts) <= most:
            yield f"{told.attempts} attempts on record, {len(attempts)} made, {most} are allowed"
        met = list[Fault]()
        for number, seen in enumerate(attempts, 1):
            calls = [
                call for call in self._calls if (call.path, call.query) == (item.path, str(number))
            ]
            met.append((yield from self._attempt(item, told, seen, calls, bounded=bounded)))
        for fault, seen, following in zip(met[:-1], attempts[:-1], attempts[1:], strict=True):
            rested = following.began - seen.ended
            if _may_pass(fault, seen) is False:
                yield f"asked again after {fault.name}"
            elif fault.reply == Busy("0.1") and seen.error == fault.error and rested < 0.099:
                yield f"asked again after {rested:.3f} s, the server wanted 0.1 s of rest"
        fault, last = met[-1], attempts[-1]
        if last.error not in {None, CUT} and _may_pass(fault, last) and len(attempts) < most:
            yield f"given up after {len(attempts)} attempts, with {last.error}"
        yield from self._ending(told, last, bounded=bounded)
        if told.outcome == "ok" and fault in GOOD and item.path.encode() not in (told.value or b""):
            yield f"the value is not its own: {told.value!r}"

    def _attempt(
        self, item: Item, told: Told, seen: Seen, calls: Sequence[Call], *, bounded: bool
    ) -> Generator[str, None, Fault]:
        """Yield what is wrong with an attempt; return what it met."""
        self._tally.tries += 1
        for call in calls[:-1]:
            if id(call) in self._fresh:
                yield "one attempt asked again over a fresh connection"
        fault = _fault(item, calls)
        self._tally.faults[fault.name] += 1
        limit = TOTAL if bounded else DEADLINE
        lasted = seen.lasted if bounded else told.seconds
        late = seen.error == ("HttpTimeout" if bounded else CUT) and lasted >= limit
        spoilt = calls and id(calls[-1]) not in self._fresh and item.posts
        if fault.slow and late:
            self._tally.late["calls" if bounded else "items"].append(lasted - limit)
        elif late:
            self._tally.undecided[fault.name] += 1
        elif seen.error != fault.error and not (spoilt and seen.error == "HttpConnectionError"):
            yield f"met {fault.name}, which is {fault.error}, and came to {seen}"
        if seen.lasted > limit + LATE + self._lost:
            yield f"met {fault.name}, and lasted {seen.lasted:.2f} s of {limit:g}"
        return fault

    def _ending(self, told: Told, last: Seen, *, bounded: bool) -> Iterator[str]:
        wanted: tuple[Any, ...] = ("failed", "error", last.error)
        if last.error is None:
            wanted = ("ok", None, None)
        clock = not bounded and told.seconds >= DEADLINE  # it tells, whatever was raised then
        if clock and told.outcome == "timed_out":
            wanted = ("timed_out", "deadline", told.error)
        elif clock and told.seconds > DEADLINE + 0.01 + self._lost:
            yield f"not timed out, {told.seconds - DEADLINE:.3f} s after its deadline: {told}"
        if (told.outcome, told.cause, told.error) != wanted:
            yield f"its last attempt came to {wanted}, but on record is {told}"
        if clock and told.seconds > DEADLINE + LATE + self._lost:
            yield f"ended after {told.seconds:.2f} s of {DEADLINE:g}"


def _may_pass(fault: Fault, seen: Seen) -> bool | None:
    """Whether another attempt is worth it after this one; None: whatever the item did is right."""
    if seen.error == fault.error:
        return fault.again
    # It was late, or the line spoilt. Then too it may have heard how long it is to rest.
    return None if isinstance(fault.reply, Busy) and not fault.again else True


def _fault(item: Item, calls: Sequence[Call]) -> Fault:
    if item.place is not None:
        error, again = PLACES[item.place]
        return Fault(f"place: {item.place}", Hang(), error, again)
    if not calls:
        return Fault("nobody, in time", Hang(), "HttpTimeout")
    (found,) = (f for f in item.script if filled(f.reply, item.path) == calls[-1].reply)
    return found
