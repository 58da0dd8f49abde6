"""Gathers why a run stands where it stands, from the live objects of its engine.

Nothing is locked and nothing waits: it may be called from the store's thread while the event loop
is blocked. So each collection is copied in one step, and what has gone on meanwhile is told as it
was seen. What the facts mean stands in ``rules/why.py``.
"""

import math
import os
import threading
import types
from datetime import UTC, datetime
from typing import Any

from stagerun.engine.calling import call
from stagerun.engine.desk import Desk
from stagerun.engine.env import Env
from stagerun.engine.places import place_of, place_of_task, places_of_task, stack_of_thread
from stagerun.engine.recorder import Recorder
from stagerun.engine.run import RunActor
from stagerun.engine.source import SourceActor
from stagerun.engine.stage import StageActor
from stagerun.rules import why
from stagerun.store import codec

__all__ = ["blocked", "explain"]

_LATE = 1.0
"""Seconds without a sign of life after which the event loop counts as blocked."""
_MARGIN = 0.5
"""Seconds beyond the grace at which a stopped run's ending is written."""


def explain(actor: RunActor, loop_thread: int) -> dict[str, Any]:
    """Return the document that says why a run of this process stands where it does. Any thread.

    *loop_thread*: the identity of the thread in which the event loop runs.
    """
    hub, recorder = actor.hub, actor.hub.recorder
    desk, block = _blocker(recorder, hub.env, loop_thread)
    running = None if desk is None or block is None else (desk, block.place)
    now = hub.env.wall() - hub.epoch  # trio's clock cannot be read from another thread
    ending = hub.ledger.published.ending
    facts = why.RunFacts(
        run=hub.id,
        pipeline=hub.pipeline.name,
        generation=hub.ledger.generation,
        status="running" if ending is None else ending.status.value,
        as_of=_iso(hub.env),
        pid=os.getpid(),
        seconds=now - actor.began,
        deadline_in=_left(actor.deadline, now),
        stages=tuple(_stage(each, now, running) for each in tuple(actor.actors)),
        source=_source(actor.feeder, now),
        store=_store(recorder),
        survivors=tuple(str(survivor) for survivor in tuple(hub.survivors)),
        blocked=block,
        stopping=_stopping(actor, now),
    )
    return why.document(facts)


def blocked(recorder: Recorder, env: Env, loop_thread: int) -> why.Blocked | None:
    """Return what blocks the event loop of this process; None while it goes on."""
    return _blocker(recorder, env, loop_thread)[1]


def _blocker(
    recorder: Recorder, env: Env, loop_thread: int
) -> tuple[Desk | None, why.Blocked | None]:
    late = (env.now_us() - recorder.tick_at) / 1e6
    if late < _LATE or not recorder.tick_at or threading.get_ident() == loop_thread:
        return None, None  # whoever asks in the event loop's own thread is proof that it goes on
    frames = stack_of_thread(loop_thread)
    desk = _desk_in(frames)
    if desk is None:
        return None, why.Blocked(seconds=late, stage=None, item=None, place=place_of(frames))
    items = desk.items
    return desk, why.Blocked(
        seconds=late,
        stage=desk.actor.stage.name,
        item=items[0].number if items else None,
        place=place_of(frames),
    )


def _desk_in(frames: list[types.FrameType]) -> Desk | None:
    """Find whose attempt a stack belongs to: the worker's frames know their desk."""
    for frame in reversed(frames):
        if frame.f_code is call.__code__ or frame.f_code.co_name == "_attempt":
            desk = frame.f_locals.get("desk")
            if isinstance(desk, Desk):
                return desk
    return None


_Running = tuple[Desk, why.Place | None] | None
"""Whose attempt keeps the event loop, and where it stands."""


def _stage(actor: StageActor, now: float, running: _Running) -> why.StageFacts:
    mailbox = actor.mailbox
    desks = actor.desks
    busy = sorted((d for d in desks if d.busy), key=lambda desk: desk.started)
    pausing = mailbox.pausing
    opening = [scope.deadline for d in desks if not d.busy and (scope := d.opening) is not None]
    return why.StageFacts(
        name=actor.stage.name,
        working=tuple(
            facts for desk in busy if (facts := _working(desk, now, running)) is not None
        ),
        working_total=len(busy),
        waiting=len(mailbox),
        limit=mailbox.limit,
        putters=mailbox.putters,
        pausing=tuple(
            why.Pausing(
                item=item.number,
                next_attempt=item.attempts + 1,
                resumes_in=at - now,
                why=getattr(item, "pauses_for", ""),
            )
            for at, item in pausing
        ),
        pausing_total=len(pausing),
        opening_gives_up_in=_left(min(opening, default=math.inf), now),
    )


def _working(desk: Desk, now: float, running: _Running) -> why.Working | None:
    items, stage = desk.items, desk.actor.stage
    if not items:  # laid down just now
        return None
    cut_at = desk.cut_at
    key = items[0].key if len(items) == 1 else None
    return why.Working(
        items=tuple(item.number for item in items),
        key=None if key is None else codec.words(key, 100),
        attempt=desk.attempt,
        attempts=stage.retry.attempts,
        seconds=now - desk.started,
        cut_in=_left(desk.deadline, now),
        cut_for=None if cut_at is None else now - cut_at,
        mode=stage.mode,
        places=_places(desk, running),
    )


def _places(desk: Desk, running: _Running) -> tuple[why.Place, ...]:
    """Look where an attempt stands: in its thread if it has one, else in its task."""
    if running is not None and running[0] is desk:
        return () if running[1] is None else (running[1],)
    identity = desk.thread
    if desk.actor.stage.mode == "thread" and identity is not None:
        place = place_of(_of_attempt(stack_of_thread(identity), desk))
        if place is not None:
            return (place,)
    return () if desk.task is None else places_of_task(desk.task)


def _of_attempt(frames: list[types.FrameType], desk: Desk) -> list[types.FrameType]:
    """Return the part of a thread's stack that is the attempt; nothing if it is another's now."""
    for at, frame in enumerate(frames):
        if frame.f_code.co_name == "work" and frame.f_locals.get("desk") is desk:
            return frames[at + 1 :]
    return []


def _source(source: SourceActor | None, now: float) -> why.Feeding | None:
    if source is None or source.exhausted_already:
        return None
    place = None if source.task is None else place_of_task(source.task)
    return why.Feeding(gives_up_in=_left(source.gives_up_at, now), place=place)


def _store(recorder: Recorder) -> why.StoreFacts:
    health = recorder.health()
    return why.StoreFacts(
        status=health.status, rows=health.waiting, full=recorder.full, trouble=health.why
    )


def _stopping(actor: RunActor, now: float) -> why.Stopping | None:
    if actor.asked is None:
        return None
    ending, asked_at = actor.asked
    return why.Stopping(
        status=ending.status.value,
        message=ending.message,
        seconds=now - asked_at,
        ends_in=max(0.0, asked_at + actor.hub.pipeline.grace + _MARGIN - now),
    )


def _left(at: float, now: float) -> float | None:
    return None if math.isinf(at) else at - now


def _iso(env: Env) -> str:
    return datetime.fromtimestamp(env.wall(), UTC).isoformat(timespec="milliseconds")
