"""How a stage's function is called: on the event loop, or in a thread of its own."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import trio

from stagerun.engine.context import CURRENT
from stagerun.engine.desk import Desk

__all__ = ["call", "tell"]


async def call(desk: Desk, value: Any) -> Any:
    """Call the stage's function with *value*, and with a context where it takes one."""
    stage = desk.actor.stage
    context = {"ctx": desk.context()} if stage.wants_ctx else {}
    if stage.mode == "async":
        return await stage.function(value, **context)
    if stage.mode == "inline" or not desk.actor.hub.env.threads:
        return stage.function(value, **context)
    result = await _in_thread(desk, functools.partial(stage.function, value, **context))
    if inspect.isawaitable(result):
        raise TypeError(f"stage {stage.name} returned an awaitable from a thread: make it async")
    return result


async def _in_thread(desk: Desk, function: Callable[[], Any]) -> Any:
    """Run *function* in a thread that is left behind, and counted, when the attempt is cut."""
    survivor = desk.survivor(thread=True)
    hub, index = desk.actor.hub, desk.actor.index
    host = trio.lowlevel.current_trio_token()

    context = desk.context()

    def work() -> Any:
        CURRENT.set(context)
        try:
            return function()
        finally:
            survivor.ended = True
            if survivor.left:
                tell(host, hub.returned, survivor, index)

    if desk.limiter is None:
        desk.limiter = trio.CapacityLimiter(1)
    try:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=desk.limiter)
    except trio.Cancelled:
        desk.limiter = None  # the thread that is left behind keeps its token
        survivor.left = True
        if not survivor.ended:
            survivor.cut_at, desk.runs_on = trio.current_time(), True
            hub.leave_behind(survivor)
        raise


def tell(host: trio.lowlevel.TrioToken, hear: Callable[..., None], *arguments: Any) -> None:
    """Call *hear* in the engine's thread; nobody hears it once that has ended."""
    try:
        host.run_sync_soon(hear, *arguments)
    except trio.RunFinishedError:
        return
