"""Places that runs share by a key: at most so many at once, the others wait in line."""

import trio
from attrs import frozen

from stagerun.engine.flag import Flag
from stagerun.engine.hub import Hub
from stagerun.model.status import Ending
from stagerun.store import questions, starting

__all__ = ["Turn", "end_in_line", "has_turn", "take_turn"]

_LOOK = 0.5
"""Seconds between two tries, for a place may become free in another process."""


@frozen
class Turn:
    """What a run waits for before it begins."""

    key: str
    places: int
    """Runs with this key that may be under way at once."""


async def take_turn(hub: Hub, turn: Turn, freed: Flag) -> bool:
    """Wait for a place and take it; False when the run was ended meanwhile.

    Who was started first goes first; a run that is resumed keeps its place. Whether a place is free
    is decided in the database, in one statement.
    A dead process's runs hold no place: whoever looks after the owners settles them.

    Args:
        hub: The run.
        turn: What it waits for.
        freed: Set when the run stops; nothing more is tried then.
    """
    ledger, waits = hub.ledger, False
    while not freed.is_set():
        now, limit = hub.env.now_us(), hub.pipeline.deadline
        unit = starting.take_turn(
            ledger.run,
            ledger.generation,
            key=turn.key,
            places=turn.places,
            deadline_at=None if limit is None else now + int(limit * 1e6),
            now=now,
        )
        # Looked at first, so that a long line does not keep the writer busy with refusals.
        look = questions.turn_of(ledger.run, ledger.generation, turn.key, turn.places)
        may_begin = await hub.store.ask(look)
        if may_begin is None:
            return False
        if may_begin and await hub.recorder.write(unit) is not None:
            return True
        if not waits:
            hub.log.info("run waits for its turn: key %s, %d at once", turn.key, turn.places)
            waits = True
        with trio.move_on_after(_LOOK):
            await freed.wait()
    return False


async def end_in_line(hub: Hub, ending: Ending) -> bool:
    """End a run that still waits; False: it does not wait any more."""
    ledger = hub.ledger
    unit = starting.end_queued(ledger.run, ledger.generation, ending, hub.env.now_us())
    return await hub.recorder.write(unit) is not None


async def has_turn(hub: Hub) -> bool:
    """Whether a place was given after all: a cancelled wait does not undo what is committed."""
    ledger = hub.ledger
    return await hub.store.ask(questions.is_running(ledger.run, ledger.generation))
