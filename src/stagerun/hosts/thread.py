"""A trio program in a thread of its own, called from an asyncio one.

Its own thread, because a stage that blocks must not freeze the host: see docs/decisions/0006. A
call is a task in that program. Cancelling the asyncio side cancels the call there, and does not
wait for it: the host goes on even while trio's loop is blocked.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import trio
from attrs import define, field

from stagerun.engine.unwrap import unwrapped
from stagerun.errors import RuntimeClosedError, StoreError

__all__ = ["TrioThread"]

T = TypeVar("T")


class TrioThread:
    """Runs ``main(calls)`` under trio until it returns. Made, used and left on one asyncio loop.

    Args:
        name: Of the thread, which is a daemon: it holds nobody's leaving.
    """

    def __init__(self, name: str) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when trio's program is over; with its error, if there was one."""
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._token: trio.lowlevel.TrioToken | None = None
        self._calls: trio.Nursery | None = None
        self._failed: BaseException | None = None
        self._leaving = False
        self._scope = trio.CancelScope()

    def start(self, main: Callable[[], Awaitable[None]]) -> None:
        """Begin. Calls are heard from the moment that *main* runs."""
        work = (copy_context(), main)
        threading.Thread(target=self._main, args=work, name=self._name, daemon=True).start()

    def leave(self) -> None:
        """Cancel *main*, which may not even have begun. From asyncio."""
        self._leaving = True  # before the token is looked at: _serve() does it the other way round
        self.soon(self._scope.cancel)

    def tell(self, hear: Callable[..., object], *args: Any) -> None:
        """Call *hear* on the asyncio loop, from trio; nothing once that is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(hear, *args)

    def soon(self, hear: Callable[..., object], *args: Any) -> bool:
        """Call *hear* in trio's thread, from asyncio; False when nobody is there any more."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(hear, *args)
        except trio.RunFinishedError:
            return False
        return True

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await ``function(*args)`` in trio's program; raise what it raises.

        Raises:
            RuntimeClosedError: That program is over, or was over before the call had ended.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        call = _Call(function, args, answer)
        if not self.soon(copy_context().run, self._begin, call):
            raise self._over()
        try:
            return await answer
        except asyncio.CancelledError:
            self.soon(call.scope.cancel)
            raise

    def send(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Have ``function(*args)`` awaited in trio's program, without waiting for it."""
        call = _Call(function, args, self._loop.create_future())
        call.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.soon(copy_context().run, self._begin, call)

    def _main(self, context: Any, main: Callable[[], Awaitable[None]]) -> None:
        error: BaseException | None = None
        try:
            context.run(trio.run, self._serve, main)
        except BaseException as raised:  # noqa: BLE001 - it is what whoever waits is told
            error = raised
        self.tell(self._end, error)

    async def _serve(self, main: Callable[[], Awaitable[None]]) -> None:
        with unwrapped():
            async with trio.open_nursery() as self._calls:
                self._token = trio.lowlevel.current_trio_token()
                if self._leaving:
                    self._scope.cancel()
                try:
                    with self._scope:
                        await main()
                except BaseException as error:
                    self._failed = error
                    raise
                # What they wait for has ended with main(): this is for those that are stuck.
                self._calls.cancel_scope.cancel(reason="the runtime has been left")

    def _begin(self, call: "_Call[Any]") -> None:
        if self._calls is None or self._calls.cancel_scope.cancel_called:
            self.tell(call.settle, None, self._over())
            return
        self._calls.start_soon(self._carry, call, name=f"call {call.function!r}")

    async def _carry(self, call: "_Call[Any]") -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            with call.scope:
                value = await call.function(*call.args)
        except Exception as raised:  # noqa: BLE001 - the caller's, whatever it is
            error = raised
        except BaseException:
            error = self._over()
            raise
        finally:
            self.tell(call.settle, value, error)

    def _end(self, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
            self.ended.exception()  # read: leaving may raise another one in its place

    def _over(self) -> BaseException:
        """Return a new error each time: one that is raised again and again keeps every caller."""
        over: BaseException = RuntimeClosedError("the runtime has been left")
        if isinstance(self._failed, StoreError):
            over = StoreError(f"the runtime has ended: {self._failed}")
        over.__cause__ = self._failed
        return over


@define(eq=False)
class _Call(Generic[T]):
    """One call, from asyncio to trio and back."""

    function: Callable[..., Awaitable[T]]
    args: tuple[Any, ...]
    answer: "asyncio.Future[T]"
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Answer, on the asyncio loop. Nobody may be waiting any more."""
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(value)
        else:
            self.answer.set_exception(error)
