"""What is to be done about the slots of a schedule: pure decisions.

Invariant: each slot is fired, skipped, or counted among the missed ones of the slot that was
decided after it; and it is so once.
"""

from collections.abc import Collection, Sequence

from attrs import frozen

from stagerun.model.schedule import Overlap, Schedule

__all__ = ["Due", "Fire", "Open", "Skip", "decide", "due", "next_slot", "put_right"]

_COUNTED = 10_000
"""Missed slots of a cron that are counted one by one; beyond, so many are told at least."""
_DAY = 86_400_000_000
_IN_LINE = 100
"""Runs of a schedule that may wait for their turn; what comes on top of them is skipped."""


@frozen
class Due:
    """A slot whose time has come."""

    slot: int
    """The last one that has."""
    missed: int
    """How many had before it, that nobody was there for."""
    next_at: int


@frozen
class Open:
    """A run of the schedule that has not ended."""

    id: str
    queued: bool


@frozen
class Fire:
    """A run is started."""

    cancel: tuple[str, ...] = ()
    """Runs that are asked to make room for it, the oldest first."""


@frozen
class Skip:
    """Nothing is started, and it says why."""

    reason: str


def due(schedule: Schedule, slot: int, now: int) -> Due | None:
    """Return which slot is to be decided now; None: *slot*, the next one, is still to come."""
    if slot > now:
        return None
    if schedule.every is not None:
        step = round(schedule.every * 1e6)
        missed = (now - slot) // step
        last = slot + missed * step
        return Due(last, missed, last + step)
    missed, last = 0, slot
    for at in schedule.slots(slot):
        if at > now:
            return Due(last, missed, at)
        missed, last = missed + 1, at
        if missed == _COUNTED:
            return _after_ages(schedule, last, now)
    raise AssertionError("a cron that came once comes again")


def _after_ages(schedule: Schedule, slot: int, now: int) -> Due:
    """Return the due slot without counting: only the last days before *now* are looked at."""
    days, last = 1, slot
    while True:
        for at in schedule.slots(max(slot, now - days * _DAY)):
            if at > now:
                break
            last = at
        if last > slot or now - days * _DAY <= slot:
            return Due(last, _COUNTED, schedule.after(now))
        days *= 8


def next_slot(schedule: Schedule, now: int, decided: Collection[int]) -> int:
    """Return the next slot of a schedule that was paused. *decided*: slots that do not come again.

    They may lie ahead: a clock was set back.
    """
    return next(slot for slot in schedule.slots(now) if slot not in decided)


def put_right(schedule: Schedule, slot: int, now: int, decided: Collection[int]) -> int | None:
    """Return the slot that comes before *slot*, the next one as noted by a clock that was ahead.

    None: there is none that has not been decided.
    """
    begin = now
    if schedule.every is not None:
        step = round(schedule.every * 1e6)
        begin = slot - ((slot - now - 1) // step + 1) * step
    for earlier in schedule.slots(begin):
        if earlier >= slot:
            return None
        if earlier not in decided:
            return earlier
    raise AssertionError("a schedule has no last slot")


def decide(overlap: Overlap, active: int, others: Sequence[Open]) -> Fire | Skip:
    """Decide about a slot. *others*: the schedule's runs that have not ended, the oldest first."""
    if len(others) < active:
        return Fire()
    if overlap == "cancel_previous":
        return Fire(cancel=tuple(run.id for run in others[: len(others) - active + 1]))
    if overlap == "queue":
        waiting = sum(run.queued for run in others)
        return Skip(f"{waiting} runs of it wait in line already") if waiting >= _IN_LINE else Fire()
    oldest = others[0].id
    under_way = f"run {oldest} has" if active == 1 else f"{len(others)} runs, first {oldest}, have"
    return Skip(f"{under_way} not ended yet")
