"""Code that knows asyncio only: whole stages, and single calls out of stages that know trio.

It runs on an asyncio loop, and a cut cancels its task there. What has not ended within the grace is
left behind, and counted.
"""

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

import trio

from stagerun.engine.context import CURRENT, Context
from stagerun.engine.desk import Desk
from stagerun.errors import CancelRequested, UsageError
from stagerun.offload.loop import AsyncioCall, run_inline

__all__ = ["aio", "in_asyncio"]

P = ParamSpec("P")
T = TypeVar("T")


async def aio(function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Await ``function(*args, **kwargs)`` on an asyncio loop, from a stage that runs on trio.

    In an asyncio program that is the program's own loop, so that its pools and sessions can be used
    here; elsewhere it is one private loop of the runtime, where what the stages make by ``aio()``
    stays usable. A deadline or a cancellation of the stage cancels the call there, and it is waited
    for until it has really ended.

    Also where a stage's resource is opened and closed; not in a source.

    Raises:
        UsageError: This is neither a stage's nor a resource's code.
        CancelRequested: The call was cancelled on the asyncio side, not by stagerun.
    """
    current = CURRENT.get()
    if isinstance(current, Context):  # a stage with mode="asyncio" is there already
        return await function(*args, **kwargs)
    if current is None:
        raise UsageError("aio() works in stages and their resources: there its calls have an end")
    called = functools.partial(_awaited, function, args, kwargs)
    if not current.actor.hub.env.threads:
        value: T = run_inline(called())
    else:
        value = await in_asyncio(current, called, on_host=True)
    return value


async def _awaited(function: Callable[..., Awaitable[T]], args: Any, kwargs: Any) -> T:
    return await function(*args, **kwargs)


async def in_asyncio(desk: Desk, function: Callable[[], Any], *, on_host: bool = False) -> Any:
    """Run a coroutine function on asyncio's loop; a cut cancels its task there.

    *on_host*: on the loop of the program, where that has one.
    """
    hub, index, waiter = desk.actor.hub, desk.actor.index, trio.lowlevel.current_task()
    survivor = desk.survivor(thread=True, what="asyncio task")
    context = copy_context()
    context.run(CURRENT.set, desk.context())
    raise_cancelled: Callable[[], BaseException] | None = None

    def ended(_call: AsyncioCall) -> None:
        survivor.ended = True
        if survivor.left:
            hub.returned(survivor, index)
        else:
            trio.lowlevel.reschedule(waiter)

    def abort(raise_cancel: Callable[[], BaseException]) -> trio.lowlevel.Abort:
        nonlocal raise_cancelled
        raise_cancelled = raise_cancel
        foreign_call.cancel()
        return trio.lowlevel.Abort.FAILED  # wait for ended(), or for let_go()

    def let_go() -> None:
        if not survivor.ended and not survivor.left:
            foreign_call.give_up()
            survivor.left, survivor.cut_at, desk.runs_on = True, trio.current_time(), True
            desk.actor.log.warning("%s does not stop; it is left behind", survivor)
            hub.leave_behind(survivor)
            trio.lowlevel.reschedule(waiter)

    await trio.lowlevel.checkpoint_if_cancelled()
    foreign_call = hub.shared.asyncio.call(function, context, ended, on_host=on_host)
    with _under_way(desk, foreign_call, let_go):
        await trio.lowlevel.wait_task_rescheduled(abort)
    if not survivor.left and not foreign_call.cancelled:
        return foreign_call.result()
    if raise_cancelled is not None:
        raise_cancelled()
    raise CancelRequested("the task was cancelled inside asyncio, not by stagerun")


@contextmanager
def _under_way(desk: Desk, call: AsyncioCall, let_go: Callable[[], None]) -> Iterator[None]:
    """Let the desk know of a call. There may be several: of those the last one is shown."""
    desk.foreign = call
    if trio.lowlevel.current_task() is desk.task:  # a child's call cannot be let go by itself
        desk.let_go = let_go
    try:
        yield
    finally:
        if desk.let_go is let_go:
            desk.let_go = None
        if desk.foreign is call:
            desk.foreign = None
