"""What is said about schedules from anywhere: dialogues, held as those of ``asking.py`` are."""

from collections.abc import Callable
from typing import Any, Final

from stagerun.engine.asking import Dialogue, Pause
from stagerun.errors import UsageError
from stagerun.store import schedules
from stagerun.store.schedulelist import asked_slot, schedule_document

__all__ = ["ask_to_forget", "ask_to_pause", "ask_to_trigger", "ask_to_unpause"]

_EVERY: Final = 0.05
"""Seconds between two looks at what has become of a trigger."""
_LOOKS: Final = 100
"""How many: within those five seconds a living process takes one, for it looks each second."""


def ask_to_trigger(
    name: str, by: str, now: Callable[[], int], nudge: Callable[[], None] = lambda: None
) -> Dialogue[dict[str, Any]]:
    """Ask for a run of a schedule now, paused or not; return the slot that was made for it.

    Its ``decision`` is None when nobody has taken it within 5 s; it stays until somebody does.

    Raises:
        UsageError: There is no such schedule, or no process that serves it.
    """
    filed = yield schedules.trigger(name, by, now())
    if filed is None:
        yield schedule_document(name)  # raises when there is no such schedule
        raise UsageError(
            f"no process serves schedule {name!r} now: start one with it, and trigger it then"
        )
    nudge()
    for _ in range(_LOOKS):
        slot: dict[str, Any] = yield asked_slot(filed[0])
        if slot["decision"] is not None:
            return slot
        yield Pause(_EVERY)
    return slot


def ask_to_pause(name: str, now: Callable[[], int]) -> Dialogue[dict[str, Any]]:
    """Let no slot come any more; return the schedule's document. Runs under way go on.

    Raises:
        UsageError: There is no such schedule.
    """
    yield schedules.pause(name, now())
    document: dict[str, Any] = yield schedule_document(name)
    return document


def ask_to_unpause(name: str, nudge: Callable[[], None] = lambda: None) -> Dialogue[dict[str, Any]]:
    """Let slots come again, from now on; return the schedule's document.

    Raises:
        UsageError: There is no such schedule.
    """
    yield schedules.unpause(name)
    nudge()
    document: dict[str, Any] = yield schedule_document(name)
    return document


def ask_to_forget(name: str) -> Dialogue[dict[str, Any]]:
    """Forget a schedule that nobody serves, and its slots; return its last document.

    Raises:
        UsageError: There is no such schedule, or a process serves it.
    """
    document: dict[str, Any] = yield schedule_document(name)
    if document["served_by"] == 0 and (yield schedules.forget(name)) is not None:
        return document
    raise UsageError(
        f"schedule {name!r} is served by a process: take it out of the program first, or pause it"
    )
