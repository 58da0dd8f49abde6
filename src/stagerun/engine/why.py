"""Gathers why a run stands where it stands, from the live objects of its engine.

Nothing is locked and nothing waits: it may be called from the store's thread while the event loop
is blocked. So each collection is copied in one step, and what has gone on meanwhile is told as it
was seen. The facts are values of ``rules/standing.py``; ``rules/why.py`` makes words of them.
"""

import math
import os
import types
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from attrs import frozen

from stagerun.engine.desk import Desk
from stagerun.engine.env import Env
from stagerun.engine.ledger import Ledger
from stagerun.engine.places import (
    place_of,
    place_of_coroutine,
    place_of_task,
    places_of_task,
    stack_of_thread,
)
from stagerun.engine.pump import Pump
from stagerun.engine.recorder import Recorder
from stagerun.engine.run import RunActor
from stagerun.engine.source import SourceActor
from stagerun.engine.stage import StageActor
from stagerun.engine.watch import Watch
from stagerun.offload.loop import AsyncioCall
from stagerun.offload.workers import WorkerProcess
from stagerun.rules import standing, why
from stagerun.store import codec

__all__ = ["Holdup", "explain", "holdup"]

_MARGIN = 0.5
"""Seconds beyond the grace at which a stopped run's ending is written."""


@frozen
class Holdup:
    """What blocks the event loop, and whose attempt it is where it is one's."""

    facts: standing.Blocked
    desk: Desk | None


def holdup(watch: Watch, env: Env, loop_thread: int) -> Holdup | None:
    """Return what blocks this event loop; None while it goes on. From another thread only."""
    block = watch.current
    if block is None:
        return None
    culprit = block.culprit
    return Holdup(
        standing.Blocked(
            seconds=env.monotonic() - block.since,
            run=None if culprit.hub is None else culprit.hub.id,
            stage=culprit.stage,
            item=culprit.item,
            place=place_of(stack_of_thread(loop_thread)),
        ),
        culprit.desk,
    )


def explain(actor: RunActor, held_by: Holdup | None = None) -> dict[str, Any]:
    """Return the document that says why a run of this process stands where it does. Any thread."""
    hub = actor.hub
    # Trio's clock cannot be read from another thread; until a run has begun nothing is timed.
    now = hub.env.wall() - hub.epoch if hub.epoch else actor.began
    facts = standing.RunFacts(
        run=hub.id,
        pipeline=hub.pipeline.name,
        generation=hub.ledger.generation,
        status=_status(hub.ledger),
        turn=None if actor.turn is None or not hub.ledger.queued else actor.turn.key,
        as_of=_iso(hub.env),
        pid=os.getpid(),
        seconds=now - actor.began,
        deadline_in=_left(actor.deadline, now),
        stages=tuple(
            _stage(each, now, held_by)
            for each in (() if actor.crew is None else tuple(actor.crew.stages))
        ),
        source=_source(None if actor.crew is None else actor.crew.source, now),
        behind_suspects=actor.crew is not None and actor.crew.behind_suspects,
        store=_store(hub.recorder),
        survivors=tuple(str(survivor) for survivor in tuple(hub.survivors)),
        blocked=None if held_by is None else held_by.facts,
        stopping=_stopping(actor, now),
    )
    return why.document(facts)


def _status(ledger: Ledger) -> str:
    ending = ledger.published.ending
    if ending is not None:
        return ending.status.value
    return "queued" if ledger.queued else "running"


def _stage(actor: StageActor, now: float, held_by: Holdup | None) -> standing.StageFacts:
    mailbox = actor.mailbox
    desks = actor.desks
    busy = sorted((d for d in desks if d.busy), key=lambda desk: desk.started)
    pausing = mailbox.pausing
    opening = [scope.deadline for d in desks if not d.busy and (scope := d.opening) is not None]
    return standing.StageFacts(
        name=actor.stage.name,
        working=tuple(
            facts
            for place, desk in enumerate(busy)
            if (facts := _working(desk, now, held_by, look=place < why.SHOWN)) is not None
        ),
        working_total=len(busy),
        waiting=len(mailbox),
        limit=mailbox.limit,
        putters=mailbox.putters,
        pausing=tuple(
            standing.Pausing(
                item=item.number,
                next_attempt=item.attempts + 1,
                resumes_in=at - now,
                why=getattr(item, "pauses_for", ""),
            )
            for at, item in pausing[: why.SHOWN]
        ),
        pausing_total=len(pausing),
        opening_gives_up_in=_left(min(opening, default=math.inf), now),
    )


def _working(
    desk: Desk, now: float, held_by: Holdup | None, *, look: bool
) -> standing.Working | None:
    items, stage = desk.items, desk.actor.stage
    if not items:  # laid down just now
        return None
    cut_at = desk.cut_at
    key = items[0].key if len(items) == 1 else None
    return standing.Working(
        items=tuple(item.number for item in items),
        key=None if key is None else codec.words(key, 100),
        attempt=desk.attempt,
        attempts=stage.retry.attempts,
        seconds=now - desk.started,
        cut_in=_left(desk.deadline, now),
        cut_for=None if cut_at is None else now - cut_at,
        stalls_in=_stalls_in(desk),
        mode=stage.mode,
        process=desk.foreign.name if isinstance(desk.foreign, WorkerProcess) else None,
        places=_places(desk, held_by) if look else (),
    )


def _stalls_in(desk: Desk) -> float | None:
    patience = desk.actor.stage.heartbeat_timeout
    if patience is None:
        return None
    return _left(desk.beat_at + patience, desk.actor.hub.env.monotonic())


def _places(desk: Desk, held_by: Holdup | None) -> tuple[standing.Place, ...]:
    """Look where an attempt stands: in its thread or in asyncio, else in its task."""
    if held_by is not None and held_by.desk is desk:
        return () if held_by.facts.place is None else (held_by.facts.place,)
    place, foreign = None, desk.foreign
    if desk.thread is not None and desk.actor.stage.mode == "thread":
        place = place_of(_of_attempt(stack_of_thread(desk.thread), desk))
    elif isinstance(foreign, AsyncioCall):
        place = place_of_coroutine(foreign.coroutine)
    if place is not None:
        return (place,)
    return () if desk.task is None else places_of_task(desk.task)


def _of_attempt(frames: list[types.FrameType], desk: Desk) -> list[types.FrameType]:
    """Return the part of a thread's stack that is the attempt; nothing if it is another's now."""
    for at, frame in enumerate(frames):
        if frame.f_code.co_name == "work" and frame.f_locals.get("desk") is desk:
            return frames[at + 1 :]
    return []


def _source(source: SourceActor | None, now: float) -> standing.Feeding | None:
    if source is None or source.exhausted_already:
        return None
    thread = None if source.pump is None else source.pump.thread
    place = None if thread is None else place_of(_by_the_user(stack_of_thread(thread)))
    if place is None and source.task is not None:
        place = place_of_task(source.task)
    return standing.Feeding(gives_up_in=_left(source.gives_up_at, now), place=place)


def _by_the_user(frames: list[FrameType]) -> list[FrameType]:
    """Return the frames of a source's thread from the user's iterator on; none between items."""
    begun = [n for n, frame in enumerate(frames) if frame.f_code is Pump.run.__code__]
    return frames[begun[-1] + 1 :] if begun else []


def _store(recorder: Recorder) -> standing.StoreFacts:
    health = recorder.health()
    return standing.StoreFacts(
        status=health.status, rows=health.waiting, full=recorder.inbox.full, trouble=health.why
    )


def _stopping(actor: RunActor, now: float) -> standing.Stopping | None:
    if actor.asked is None:
        return None
    ending, asked_at = actor.asked
    return standing.Stopping(
        status=ending.status.value,
        message=ending.message,
        seconds=now - asked_at,
        ends_in=max(0.0, asked_at + actor.hub.pipeline.grace + _MARGIN - now),
    )


def _left(at: float, now: float) -> float | None:
    return None if math.isinf(at) else at - now


def _iso(env: Env) -> str:
    return datetime.fromtimestamp(env.wall(), UTC).isoformat(timespec="milliseconds")
