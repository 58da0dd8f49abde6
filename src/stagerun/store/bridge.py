"""A private asyncio loop in a daemon thread, and calls into it from trio.

Why not trio-asyncio or a portal: see docs/decisions/0002-the-store.md.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import outcome
import trio

__all__ = ["AioThread"]

T = TypeVar("T")


class AioThread:
    """An asyncio event loop that runs until the ``async with`` block is left.

    The thread is a daemon, and so are the threads that aiosqlite starts from it: a program that
    never leaves the block ends all the same.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._main, args=(loop,), name=self._name, daemon=True
        )
        try:
            self._thread.start()
        except BaseException:  # no thread can be had
            loop.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Invariant: nobody is inside call() any more, so nothing on the loop is awaited.
        assert self._loop is not None  # noqa: S101 - made on entering
        self._loop.call_soon_threadsafe(self._loop.stop)
        with trio.CancelScope(shield=True):  # the loop stops at once; the join is bounded
            # With a place of its own: those that all share may be taken by threads that hang.
            limiter = trio.CapacityLimiter(1)
            await trio.to_thread.run_sync(self._thread.join, 5.0, limiter=limiter)

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call *function* on the loop, from any thread; nothing before it is entered, or after."""
        if self._loop is not None:
            with suppress(RuntimeError):  # "loop is closed": a survivor reports after the end
                self._loop.call_soon_threadsafe(function, *args)

    async def call(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        on_cancel: Callable[["asyncio.Task[T]"], object] = asyncio.Task.cancel,
    ) -> T:
        """Run ``function(*args)`` on the loop and wait for its end.

        A cancelled caller waits until the asyncio side has really ended: *on_cancel* is what asks
        it to. Whatever it returns after that is dropped in favour of the cancellation.
        """
        caller, trio_token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        task: asyncio.Task[T] | None = None
        cancelled: Callable[[], BaseException] | None = None

        def begin() -> None:
            nonlocal task
            assert self._loop is not None  # noqa: S101 - it runs this
            task = self._loop.create_task(function(*args))
            task.add_done_callback(report)
            if cancelled is not None:
                on_cancel(task)

        def report(done: "asyncio.Task[T]") -> None:
            try:
                trio_token.run_sync_soon(trio.lowlevel.reschedule, caller, outcome.Value(done))
            except trio.RunFinishedError:  # the program's event loop is gone, and the caller too
                if not done.cancelled():
                    done.exception()  # read, so that asyncio does not report it as unheard of

        def abort(raise_cancel: Callable[[], BaseException]) -> trio.lowlevel.Abort:
            nonlocal cancelled
            cancelled = raise_cancel
            self.soon(lambda: on_cancel(task) if task is not None else None)
            return trio.lowlevel.Abort.FAILED  # wait for report()

        await trio.lowlevel.checkpoint_if_cancelled()
        self.soon(begin)
        ended: asyncio.Task[T] = await trio.lowlevel.wait_task_rescheduled(abort)
        if cancelled is not None:
            if not ended.cancelled():
                ended.exception()
            cancelled()
        if ended.cancelled():
            raise RuntimeError("the asyncio side was cancelled from outside")
        return ended.result()
