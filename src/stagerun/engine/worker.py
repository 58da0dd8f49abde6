"""A worker: carries items through its stage, one attempt after the other, until none waits.

User code runs here and nowhere else. Whatever it does is an outcome of its item: raising, hanging,
swallowing its cancellation. What is recorded and handed on stands outside every scope that fires.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import trio

from stagerun.engine.calling import explained
from stagerun.engine.context import CURRENT
from stagerun.engine.desk import Desk, How
from stagerun.model.status import Cause
from stagerun.store import codec

if TYPE_CHECKING:
    from stagerun.engine.stage import StageActor

__all__ = ["work"]

_STREAK = 64
"""Items after which a worker lets the others run, however quick its stage is."""

_TURN = 0.001
"""Seconds after which it does so too: a stage that computes must not keep the others waiting."""

_CUT: How = (False, None, None)


@trio.lowlevel.enable_ki_protection
async def work(actor: "StageActor", desk: Desk) -> None:
    """Be one worker. Ctrl-C in the middle of a stage belongs to the program, not to an item."""
    CURRENT.set(desk)
    desk.task = trio.lowlevel.current_task()
    try:
        if actor.stage.resource is None:
            await _carry(actor, desk)
        else:
            while actor.wants(desk) and await _carry_with_resource(actor, desk):
                pass
    except BaseException as defect:
        message = f"a worker of stage {actor.stage.name} failed: {codec.words(defect)}"
        actor.log.warning("%s: a defect of stagerun", message, exc_info=defect)
        actor.hub.fail(Cause.INTERNAL, message, defect)
        desk.end()
    if not desk.abandoned:
        actor.dismiss(desk)


async def _carry_with_resource(actor: "StageActor", desk: Desk) -> bool:
    """Open the resource, carry until an attempt is cut, close it; False: give up."""
    assert actor.stage.resource is not None  # noqa: S101 - asked by work()
    limit, name = actor.stage.restart.deadline, actor.stage.name
    state = "did not open"
    failure: BaseException = TimeoutError(f"{limit:g} s passed")
    try:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limit) as scope:
            desk.opening = scope
            actor.nudge()
            async with actor.stage.resource() as desk.resource:
                desk.opening, scope.deadline = None, math.inf
                state = "broke"  # unless _carry() ends by itself, something below it has ended it
                await _carry(actor, desk)
                state = "did not close"
                scope.deadline = trio.current_time() + limit
                desk.opening = scope
                actor.nudge()
            if state == "did not close":
                state = "closed"
    except BaseException as error:  # noqa: BLE001 - the user's resource may raise anything
        failure = error
    finally:
        desk.opening = None
    if desk.left_behind is not None:
        actor.hub.returned(desk.left_behind, actor.index)
        return False
    if desk.busy:
        broken = RuntimeError(f"the resource of stage {name} broke: {codec.words(failure)}")
        actor.settle_all(desk, trio.current_time(), (False, None, broken))
    if state == "closed" or actor.hub.stop is not None:
        return True
    actor.log.warning("the resource of stage %s %s", name, state, exc_info=failure)
    return state == "did not close" or await _again(actor, state, failure)


async def _again(actor: "StageActor", state: str, failure: BaseException) -> bool:
    """Wait before the resource is opened again; after too many failures give the run up."""
    actor.resource_failures += 1
    times, restart = actor.resource_failures, actor.stage.restart
    if times >= restart.attempts:
        message = f"the resource of stage {actor.stage.name} {state}, {times} times in a row"
        actor.hub.fail(Cause.RESOURCE, f"{message}: {codec.words(failure)}", failure)
        return False
    longest = min(restart.cap, restart.base * 2.0 ** (times - 1))
    with trio.move_on_after(actor.hub.env.jitter() * longest, shield=True):
        await actor.hub.token.wait()
    return True


async def _carry(actor: "StageActor", desk: Desk) -> None:
    """Carry items until none waits, or, with a resource, until an attempt was cut."""
    while (how := await _lap(actor, desk)) is not None:
        # No scope can fire here: what a cut attempt has left behind is recorded for certain.
        if desk.left_behind is not None:
            actor.hub.returned(desk.left_behind, actor.index)
            return
        was_cut = desk.busy
        if was_cut:
            now = trio.current_time()
            # One that returned too late may have had to wait for others who blocked the loop.
            if desk.cut_at is None and (how is _CUT or not desk.forgive(now)):
                desk.cut_by_itself()
            actor.settle_all(desk, now, how)
        if actor.hub.stop is None:
            with trio.CancelScope(shield=True):
                await actor.flow()
        if was_cut and actor.stage.resource is not None:
            return


async def _lap(actor: "StageActor", desk: Desk) -> How | None:
    """Attempt one item after the other under one long-lived scope, until an attempt is cut.

    What is still in hand afterwards was cut; the return value is how that attempt ended. None: no
    item waits, and the worker may go home.
    """
    how = _CUT
    # The clock is asked directly: trio.current_time() is three calls. An attempt begins when the
    # one before it has ended: that is asked once.
    time = trio.lowlevel.current_clock().current_time
    attempt, must_wait = _attempt_at(actor, desk), actor.must_wait
    desk.clear()
    # Only a resource may cancel what uses it: when a task of its own has failed, for example.
    shield = actor.stage.resource is None
    try:
        with trio.CancelScope(shield=shield) as desk.scope:
            while (items := await actor.next_items(desk)) is not None:
                now = flowed_at = time()
                streak = 0
                while items is not None:
                    desk.begin(items, now)
                    how = _CUT  # unless the attempt says otherwise: never what the last one said
                    try:
                        how = (True, await attempt(items[0].value), None)
                    except BaseException as error:
                        if _belongs_to_a_scope(actor, desk, error):
                            raise
                        how = (False, None, explained(actor.stage, error))
                    now = time()
                    if desk.cut_at is not None or now >= desk.bound:  # desk.was_cut, at a third
                        return how
                    actor.settle_all(desk, now, how)
                    streak += 1
                    if streak >= _STREAK or now - flowed_at > _TURN or must_wait():
                        await actor.flow()
                        if desk.scope.cancel_called:
                            return how  # by the deadline of an item that is settled
                        now = flowed_at = time()
                        streak = 0
                    items = actor.more_items()
                desk.rest()
            return None
    except BaseException as escaped:
        if not desk.scope.cancel_called:
            raise  # the resource broke; or a defect of the engine
        how = (False, None, escaped)  # what a cut attempt raised beside its Cancelled
    return how


def _attempt_at(actor: "StageActor", desk: Desk) -> Callable[[Any], Awaitable[Any]]:
    """Return how attempts are made: called with the item's value, or the first one's of a batch."""
    if actor.hub.tracing is not None or actor.stage.resource is not None:
        return lambda _value: _observed(actor, desk)
    return actor.direct or (lambda _value: actor.perform(desk))


async def _observed(actor: "StageActor", desk: Desk) -> Any:
    with (
        nullcontext()
        if actor.hub.tracing is None
        else actor.hub.tracing.attempt(actor.stage.name, desk)
    ):
        value = await actor.perform(desk)
    actor.resource_failures = 0  # the resource was good for something
    return value


def _belongs_to_a_scope(actor: "StageActor", desk: Desk, error: BaseException) -> bool:
    """Whether what an attempt raised is not the item's: it ends the lap.

    A scope takes its own Cancelled out of what passes through it; and a resource that broke has its
    own way of ending this.
    """
    broke = isinstance(error, trio.Cancelled) and actor.stage.resource is not None
    return desk.scope.cancel_called or broke
