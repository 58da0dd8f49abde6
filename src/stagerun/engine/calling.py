"""How a stage's function is called: on the event loop, in a thread, a process, or under asyncio.

Whatever does not run on trio's loop is cut all the same. A thread cannot be stopped: it is left
behind at once. A process is killed. A coroutine of asyncio is cancelled there, and left behind when
it has not ended within the grace.
"""

import functools
import inspect
import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from attrs import asdict

from stagerun.engine.context import CURRENT, Context
from stagerun.engine.desk import Desk
from stagerun.engine.foreign import in_asyncio
from stagerun.errors import UsageError
from stagerun.model.stage import Kind, Stage
from stagerun.offload.loop import run_inline
from stagerun.offload.place import place_of
from stagerun.offload.workers import WorkerProcess, Workers
from stagerun.store import codec

__all__ = ["call", "explained", "tell"]


def call(desk: Desk, value: Any) -> Awaitable[Any]:
    """Call the stage's function with *value*, and with a context where it takes one."""
    stage = desk.actor.stage
    if stage.mode != "async":
        return _call_elsewhere(desk, value)
    result: Awaitable[Any] = (
        stage.function(value, ctx=desk.context()) if stage.wants_ctx else stage.function(value)
    )
    return result


async def _call_elsewhere(desk: Desk, value: Any) -> Any:
    stage = desk.actor.stage
    context = {"ctx": desk.context()} if stage.wants_ctx else {}
    function = functools.partial(stage.function, value, **context)
    if not desk.actor.hub.env.threads:
        return run_inline(function()) if stage.mode == "asyncio" else function()
    match stage.mode:
        case "inline":
            return function()
        case "asyncio":
            return await in_asyncio(desk, function)
        case "process":
            return await _in_process(desk, value)
    result = await _in_thread(desk, function)
    if inspect.isawaitable(result):
        raise TypeError(f"stage {stage.name} returned an awaitable from a thread: make it async")
    return result


def explained(stage: Stage, error: BaseException) -> BaseException:
    """Return *error*; for what asyncio's code raises under trio, one that says what to do."""
    if stage.mode != "async" or type(error) not in (TypeError, RuntimeError):
        return error
    text = codec.words(error, 300)
    if not any(sign in text for sign in _FOREIGN):
        return error
    told = type(error)(
        f"stage {stage.name} runs under trio and awaits what only asyncio knows: declare it with"
        f' mode="asyncio" ({text})'
    )
    told.__cause__ = error
    return told


_FOREIGN = (
    "trio.run received unrecognized yield message",
    "trio got unexpected",
    "no running event loop",
    "no current event loop",
)
"""What trio says of a foreign await, and what asyncio's functions say where its loop is not."""


# -- threads ------------------------------------------------------------------------------------


async def _in_thread(desk: Desk, function: Callable[[], Any]) -> Any:
    """Run *function* in a thread that is left behind, and counted, when the attempt is cut."""
    survivor = desk.survivor(thread=True)
    hub, index = desk.actor.hub, desk.actor.index
    host = trio.lowlevel.current_trio_token()

    context = desk.context()

    def work() -> Any:
        CURRENT.set(context)
        desk.thread = threading.get_ident()
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


# -- processes ----------------------------------------------------------------------------------


async def _in_process(desk: Desk, value: Any) -> Any:
    """Make the call in a worker process, which is killed when the attempt is cut."""
    stage = desk.actor.stage
    values = value if stage.kind is Kind.BATCH else [value]
    try:
        encoded = [codec.encode(each) for each in values]
    except Exception as error:
        raise UsageError(
            f"an item of stage {stage.name} cannot be given to a process: {codec.words(error, 300)}"
        ) from error
    workers = _workers_of(desk)
    worker = workers.rested() or await _fresh(desk, workers)
    desk.foreign = worker
    left = desk.deadline - trio.current_time()
    item = desk.item
    attempt = {
        "item": None if item is None else item.number,
        "key": None if item is None else item.key,
        "attempt": desk.attempt,
        "left": None if left == math.inf else left,
    }
    context, host = desk.context(), trio.lowlevel.current_trio_token()
    remove: Callable[[], None] = lambda: None  # noqa: E731 - nothing to remove
    if stage.wants_ctx:
        number = worker.calls + 1
        remove = context.token.add_callback(lambda: tell(host, _pass_on, worker, number, context))
    try:
        return await worker.call((encoded, attempt), functools.partial(_hear, desk, context))
    finally:
        remove()
        await workers.rest(worker)


def _pass_on(worker: WorkerProcess, call: int, context: Context) -> None:
    worker.cancel(call, context.token.reason or "cancelled")


def _workers_of(desk: Desk) -> Workers:
    actor = desk.actor
    if actor.processes is None:
        hub, stage = actor.hub, actor.stage
        load = {
            "place": asdict(place_of(stage)),
            "stage": {
                "name": stage.name,
                "kind": stage.kind.value,
                "run": hub.id,
                "result_limit": stage.result_limit,
                "http_total": stage.http_total,
            },
            "argv": sys.argv,
            "params": codec.encode(hub.params),
            "log_level": logging.getLogger("stagerun.run").getEffectiveLevel(),
        }
        actor.processes = Workers(stage.name, load)
    return actor.processes


async def _fresh(desk: Desk, workers: Workers) -> WorkerProcess:
    """Start a process; that takes none of the attempt's time, and has a bound of its own."""
    began = trio.current_time()
    try:
        with desk.paused():
            return await workers.fresh()
    finally:
        desk.started += trio.current_time() - began


def _hear(desk: Desk, context: Context, frame: list[Any]) -> None:
    """Take what a process says while it works."""
    match frame:
        case ["report", _, step, message, done, total]:
            context.report(step, message, done, total)
        case ["heartbeat", _]:
            context.heartbeat()
        case ["log", level, text, item]:
            log = desk.actor.log
            speak = next((say for least, say in _VOICES if level >= least), "debug")
            getattr(log, speak)("%s", text, item=item)


_VOICES = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))
