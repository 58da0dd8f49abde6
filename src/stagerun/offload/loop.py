"""Loops for code that knows asyncio only: a private one, and the host's; never the store's.

One private loop serves a runtime, for as long as it is open: what such code keeps (sessions, pools)
belongs to the loop it was made on. A loop that a stage blocks is given up, and the next call gets a
new one. The loop of an asyncio program that hosts the runtime is only borrowed: nothing here ends
it.
"""

import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from stagerun.errors import RuntimeClosedError

if TYPE_CHECKING:  # where it is needed it is imported, which a run without such stages never pays
    import asyncio

__all__ = ["AsyncioCall", "AsyncioLoop", "run_inline"]

_CLOSE = 1.0
"""Seconds for what is left on the loop to end, when the runtime is left."""


def run_inline(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run *coroutine* to its end here and now, in virtual time: no thread, and no deadline."""
    import asyncio  # noqa: PLC0415 - see above

    with asyncio.Runner() as runner:
        return runner.run(coroutine)


@define(eq=False)
class AsyncioLoop:
    """The loops of a runtime: the private one is started when first needed."""

    host: "asyncio.AbstractEventLoop | None" = None
    """The loop of the program, where that is one of asyncio."""
    _home: "_Home | None" = field(default=None, init=False)

    def call(
        self,
        function: Callable[[], Coroutine[Any, Any, Any]],
        context: Context,
        on_end: Callable[["AsyncioCall"], object],
        *,
        on_host: bool = False,
    ) -> "AsyncioCall":
        """Begin to run ``function()``; *on_end* is called here, in trio, at its end.

        *on_host*: on the program's loop, if it has one.

        Raises:
            RuntimeClosedError: That loop is closed.
        """
        if on_host and self.host is not None:
            return AsyncioCall(self, _Host(self.host), function, context, on_end)
        if self._home is None:
            self._home = _Home()
        return AsyncioCall(self, self._home, function, context, on_end)

    def retire(self, home: "_Home | _Host") -> None:
        """Give up a loop that hears nothing any more; what is on it is left to itself."""
        if isinstance(home, _Home) and self._home is home:
            self._home = None
            home.soon(home.retire)  # should it hear again one day

    async def close(self) -> None:
        """End what is left on the loop, and the loop, within a second or so."""
        home, self._home = self._home, None
        if home is not None:
            home.soon(home.close)
            with trio.move_on_after(2 * _CLOSE, shield=True):
                await home.ended.wait()


class AsyncioCall:
    """One coroutine on the loop."""

    def __init__(
        self,
        owner: AsyncioLoop,
        home: "_Home | _Host",
        function: Callable[[], Coroutine[Any, Any, Any]],
        context: Context,
        on_end: Callable[["AsyncioCall"], object],
    ) -> None:
        self.cancelled = False
        """Whether it ended by a cancellation. Meaningful at its end; so are the next two."""
        self.error: BaseException | None = None
        self.value: Any = None
        self._owner = owner
        self._home = home
        self._host = trio.lowlevel.current_trio_token()
        self._on_end = on_end
        self._asked = self._heard = self._told = False
        self._task: asyncio.Task[Any] | None = None
        if not home.soon(self._begin, function, context):
            raise RuntimeClosedError("the asyncio loop that the call was meant for is closed")

    @property
    def coroutine(self) -> Any:
        """What runs in asyncio; None before that has begun."""
        return None if self._task is None else self._task.get_coro()

    def result(self) -> Any:
        """Return what it has returned, or raise what it has raised. At its end."""
        if self.error is not None:
            raise self.error
        return self.value

    def cancel(self) -> None:
        """Cancel the task, once. From trio."""
        if not self._asked:
            self._asked = True
            self._home.soon(self._cancel)

    def give_up(self) -> None:
        """Wait no longer for its end. A loop that has not even heard of it is blocked."""
        if not self._heard:
            self._owner.retire(self._home)

    def drop(self) -> None:
        """Hear that the loop has ended before the call. In the loop's thread."""
        self.cancelled = True
        self._tell()

    def _begin(self, function: Callable[[], Coroutine[Any, Any, Any]], context: Context) -> None:
        if self._asked:
            self.drop()
            return
        self._home.began(self)
        # Called within: a function that is no coroutine function fails its item, not the loop.
        self._task = self._home.loop.create_task(_called(function), context=context)
        self._task.add_done_callback(self._ended)

    def _cancel(self) -> None:
        self._heard = True
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self.cancelled = task.cancelled()
        if not self.cancelled:
            error = task.exception()
            self.error = error.__cause__ if isinstance(error, _Escape) else error
            self.value = None if error is not None else task.result()
        self._home.ended_one(self)
        self._tell()

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        with suppress(trio.RunFinishedError):  # nobody is left who waits
            self._host.run_sync_soon(self._on_end, self)


async def _called(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await function()
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end its loop with them
        raise _Escape(error) from error


class _Escape(Exception):  # noqa: N818 - it carries another one
    """What asyncio must not see."""


class _Host:
    """The loop of the program. It is only spoken to."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self.loop = loop

    def soon(self, function: Callable[..., object], *arguments: Any) -> bool:
        return _soon(self.loop, function, *arguments)

    def began(self, call: AsyncioCall) -> None:
        """Nothing is kept of it: the loop outlives the call, or the program ends."""

    def ended_one(self, call: AsyncioCall) -> None:
        """As above."""


def _soon(
    loop: "asyncio.AbstractEventLoop", function: Callable[..., object], *arguments: Any
) -> bool:
    """Call *function* on the loop, from any thread; False once that is closed."""
    try:
        loop.call_soon_threadsafe(partial(function, *arguments))
    except RuntimeError:
        return False
    return True


class _Home:
    """An asyncio loop in a daemon thread: it holds nobody's leaving."""

    def __init__(self) -> None:
        import asyncio  # noqa: PLC0415 - see above

        self.loop = asyncio.new_event_loop()
        self.ended = trio.Event()
        self._closing: asyncio.Task[None] | None = None  # kept, or it might be collected
        self._calls: dict[AsyncioCall, None] = {}
        """Calls under way. The loop's thread."""
        self._retired = False
        self._host = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._main, name="stagerun asyncio stages", daemon=True).start()

    def soon(self, function: Callable[..., object], *arguments: Any) -> bool:
        return _soon(self.loop, function, *arguments)

    def began(self, call: AsyncioCall) -> None:
        """Hear that a call is under way here."""
        self._calls[call] = None

    def ended_one(self, call: AsyncioCall) -> None:
        """Hear that a call has ended; after the last one a loop that was given up is closed."""
        self._calls.pop(call, None)
        if self._retired and not self._calls and self._closing is None:
            self.close()

    def retire(self) -> None:
        """Close when the calls under way have ended: it is not their fault."""
        self._retired = True
        if not self._calls and self._closing is None:
            self.close()

    def close(self) -> None:
        """Cancel what is left, wait a little for it, and stop. On the loop."""
        self._closing = self.loop.create_task(self._close())

    async def _close(self) -> None:
        import asyncio  # noqa: PLC0415 - see above

        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CLOSE)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.loop.shutdown_asyncgens(), _CLOSE)
        self.loop.stop()

    def _main(self) -> None:
        import asyncio  # noqa: PLC0415 - see above

        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()
            for call in [*self._calls]:  # they have swallowed their cancellation
                call.drop()
            with suppress(trio.RunFinishedError):
                self._host.run_sync_soon(self.ended.set)
