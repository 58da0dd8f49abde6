"""Where a run's items come from: lists that are stored, functions, and iterators that pass by.

A source is user code that may hang, raise, or refuse to stop. So it stands on the floor like a
worker, under one scope that is cut when it gives nothing for too long, and it is left behind when
it does not heed that.
"""

import inspect
import math
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any

import trio
from attrs import frozen

from stagerun.engine.desk import Item
from stagerun.engine.hub import Hub, Survivor
from stagerun.engine.ledger import Post
from stagerun.engine.stage import StageActor
from stagerun.errors import CancelRequested, StagerunError, UsageError
from stagerun.model.outcome import ItemCause, Outcome
from stagerun.model.status import Cause, Ending, Status
from stagerun.rules.verdict import Ended
from stagerun.store import codec, questions

__all__ = ["Source", "SourceActor", "source_of"]

_CHUNK = 64
"""Items that are accepted at once at most."""


@frozen
class Source:
    """Items on their way into a run.

    ``kind`` is ``stored`` (a list or a request's body: kept before the start is acknowledged),
    ``function`` (called again by a resume, so that nothing needs to be kept) or ``iterator`` (each
    accepted item is kept, for it will not come again).
    """

    kind: str
    items: Any
    length: int | None


def source_of(items: Any) -> Source:
    """Tell what sort of source *items* is.

    Raises:
        UsageError: It is none.
    """
    if isinstance(items, str | bytes | dict):
        raise UsageError(f"items must be a list, not one {type(items).__name__}: put it in a list")
    if isinstance(items, Sequence):
        try:
            return Source("stored", items, len(items))
        except OverflowError:
            raise UsageError(f"items are too many to be counted: {items!r}") from None
    if isinstance(items, AsyncIterator | Iterator):
        return Source("iterator", items, None)
    if callable(items):
        return Source("function", items, None)
    if isinstance(items, AsyncIterable | Iterable):  # can be begun again, as a function can
        return Source("function", lambda: items, None)
    raise UsageError(
        f"items must be an iterable, an async iterable or a function giving one, got {items!r}"
    )


class SourceActor:
    """Reads a source and feeds the first stage."""

    def __init__(self, source: Source, hub: Hub, first: StageActor) -> None:
        self.broken: Ending | None = None
        """How the run must end if the source broke; what it gave is worked off all the same."""
        self.over = trio.Event()
        """Set by the run when its stages are drained: a source that was opened is closed now."""
        self.gone = trio.Event()
        """Set when nothing of the source is left."""
        self._source = source
        self._hub = hub
        self._first = first
        self._exhausted = trio.Event()
        self._scope = trio.CancelScope(shield=True)
        self._left_behind: Survivor | None = None
        self._number = 0
        self._started = False

    def start(self) -> None:
        """Begin to read, in the context of whoever started the run."""
        hub, self._started = self._hub, True
        hub.context.run(lambda: hub.floor.start_soon(self._work, name=f"source of run {hub.id}"))

    async def exhausted(self) -> None:
        """Wait until all items are accepted; a source that does not heed its end is left behind."""
        limit, grace = self._hub.pipeline.source_deadline, self._hub.pipeline.grace
        while not self._exhausted.is_set():
            now = trio.current_time()
            with trio.move_on_at(min(self._scope.deadline, now + limit) + grace):
                await self._exhausted.wait()
            if not self._exhausted.is_set() and self._scope.deadline + grace <= trio.current_time():
                self.abandon()

    def stop(self) -> None:
        """Cut the source: the run stops."""
        self._scope.cancel(reason="the run stops")
        if not self._started:
            self.gone.set()

    def abandon(self) -> None:
        """Leave a source behind that has not stopped."""
        if self.gone.is_set():
            return
        self._left_behind = Survivor("source", None, trio.current_time(), thread=False)
        self._hub.leave_behind(self._left_behind)
        self._hub.log.warning("the source does not stop; it is left behind")
        self.broken = self.broken or self._too_slow()
        self._exhausted.set()
        self.gone.set()

    @trio.lowlevel.enable_ki_protection
    async def _work(self) -> None:
        try:
            with self._scope:
                async with AsyncExitStack() as stack:
                    await self._read(stack)
                    self._rest()
                    self._exhausted.set()
                    await self.over.wait()
                    self._watch()
            if self._scope.cancelled_caught and self._hub.stop is None:
                self.broken = self._too_slow()
        except BaseException as error:
            message = f"the source failed: {codec.words(error)}"
            ours = isinstance(error, StagerunError)  # its words say all
            self._hub.log.warning("%s", message, exc_info=None if ours else error)
            code = codec.error_name(error)
            self.broken = Ending(Status.FAILED, Cause.SOURCE_ERROR, message, code)
        if self._left_behind is not None:
            self._hub.returned(self._left_behind, 0)
        self._exhausted.set()
        self.gone.set()

    def _too_slow(self) -> Ending:
        limit = self._hub.pipeline.source_deadline
        message = f"the source gave no item for {limit:g} s (source_deadline)"
        return Ending(Status.FAILED, Cause.SOURCE_TIMEOUT, message)

    def _watch(self) -> None:
        """Give the source its time for the next item, for opening or for closing."""
        self._scope.deadline = trio.current_time() + self._hub.pipeline.source_deadline

    def _rest(self) -> None:
        """Take the deadline off: what is waited for now is not the source."""
        self._scope.deadline = math.inf

    async def _read(self, stack: AsyncExitStack) -> None:
        if self._source.kind == "stored":
            await self._feed_stored()
            return
        self._watch()
        items = self._source.items
        if self._source.kind == "function":
            items = await self._opened(items, stack)
        self._hub.ledger.source_length = len(items) if isinstance(items, Sized) else None
        if isinstance(items, AsyncIterable):
            await self._feed_async(items)
        elif isinstance(items, Sequence):
            await self._feed_sequence(items)
        else:
            await self._feed_blocking(iter(items))
        self._hub.ledger.source_length = self._number

    async def _opened(self, function: Any, stack: AsyncExitStack) -> Any:
        """Call a source function; what it gives may be an async context manager, kept open."""
        arguments = (self._hub.params,) if _wants_params(function) else ()
        if inspect.isgeneratorfunction(function) or _is_async(function):
            items = function(*arguments)
        else:
            items = await self._maybe_in_thread(function, *arguments)
        if inspect.isawaitable(items):
            items = await items
        if isinstance(items, AbstractAsyncContextManager):
            items = await stack.enter_async_context(items)
        if not isinstance(items, AsyncIterable | Iterable):
            raise TypeError(f"the source gave {items!r}, which is not iterable")
        return items

    async def _maybe_in_thread(self, function: Any, *arguments: Any) -> Any:
        if not self._hub.env.threads:
            return function(*arguments)
        limiter = trio.CapacityLimiter(1)  # a thread that hangs must not take anybody's place
        return await trio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True, limiter=limiter
        )

    async def _feed_async(self, items: AsyncIterable[Any]) -> None:
        iterator = aiter(items)
        try:
            async for value in iterator:
                await self._feed([value])
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    async def _feed_sequence(self, items: Sequence[Any]) -> None:
        """Feed what cannot block: a range, a list, a tuple."""
        for start in range(0, len(items), _CHUNK):
            await self._feed(list(items[start : start + _CHUNK]))

    async def _feed_blocking(self, items: Iterator[Any]) -> None:
        """Feed from an iterator that may block: it runs in one thread of its own, to its end."""
        if not self._hub.env.threads:
            for value in items:
                await self._feed([value])
            return
        pump = _Pump(items, trio.lowlevel.current_trio_token())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._maybe_in_thread, pump.run)
                while not pump.exhausted:
                    await self._feed(await pump.some())
                await self._feed(pump.take())
        except BaseException:
            pump.close()
            with trio.CancelScope(shield=True):
                await self._feed(pump.take())  # what it gave before it hung
            raise
        if pump.error is not None:
            raise pump.error

    async def _feed_stored(self) -> None:
        """Feed items from the database: it has them in order, and memory need not."""
        after = 0
        question = questions.made_items
        while page := await self._hub.store.ask(question(self._hub.ledger.run, 0, after)):
            for number, encoded in page:
                after = number
                self._put(number, encoded)
                await self._first.mailbox.room()

    async def _feed(self, chunk: list[Any]) -> None:
        """Accept items, and wait for room for each of them."""
        if self._left_behind is not None:
            raise CancelRequested("the source was left behind; the run takes nothing more of it")
        if not chunk:
            return
        self._rest()
        hub, keep = self._hub, self._source.kind == "iterator"
        if not keep:
            hub.post(Post.ACCEPTED, len(chunk))
        for value in chunk:
            self._number += 1
            if keep:
                self._keep(value)
            elif self._first.stage.value_type in (Any, type(value)):
                self._first.put(Item(self._number, value))
            else:
                self._fit(value)
            if self._first.mailbox.full:
                await self._first.mailbox.room()
        await hub.recorder.room()
        await trio.lowlevel.checkpoint()
        self._watch()

    def _keep(self, value: Any) -> None:
        """Store an accepted item that will not come again, and hand it to the first stage."""
        hub, number = self._hub, self._number
        try:
            encoded = codec.encode(value)
        except BaseException as error:  # noqa: BLE001 - whatever a strange value makes it raise
            hub.post(Post.ACCEPTED, 1)
            self._refuse(number, f"it cannot be stored: {codec.words(error)}", error)
            return
        row = (hub.ledger.run, 0, number, hub.ledger.generation, 0, number, None, encoded)
        hub.post(Post.EMISSION, row, len(encoded))
        self._put(number, encoded)

    def _fit(self, value: Any) -> None:
        """Give the first stage an item as its annotation asks for it."""
        try:
            encoded = codec.encode(value)
        except BaseException:  # noqa: BLE001 - not to be stored: it comes as it is, and may do
            self._first.put(Item(self._number, value))
            return
        self._put(self._number, encoded)

    def _put(self, number: int, encoded: bytes) -> None:
        try:
            value = self._first.restore(encoded)
        except Exception as error:  # noqa: BLE001 - whatever the codec raises for a wrong type
            self._refuse(number, f"stage {self._first.stage.name} does not take it: {error}", error)
            return
        self._first.put(Item(number, value))

    def _refuse(self, number: int, message: str, error: BaseException) -> None:
        """End an accepted item that the first stage cannot be given; the others go on."""
        self._first.watch()
        ended = Ended(Outcome.FAILED, ItemCause.INPUT, codec.words(message))
        self._first.fail(Item(number, None), ended, error)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _wants_params(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return any(p.name == "params" or p.default is inspect.Parameter.empty for p in parameters)


class _Pump:
    """Takes items out of an iterator in one thread; what is out can be had at once."""

    def __init__(self, iterator: Iterator[Any], host: trio.lowlevel.TrioToken) -> None:
        self.exhausted = False
        self.error: BaseException | None = None
        self._iterator = iterator
        self._host = host
        self._out: deque[Any] = deque()
        self._closed = False
        self._told = False
        self._arrival = trio.Event()
        self._room = threading.Event()

    def run(self) -> None:
        """Iterate to the end, waiting whenever enough is out. In the thread."""
        try:
            for value in self._iterator:
                self._out.append(value)
                self._tell()
                while len(self._out) >= _CHUNK and not self._closed:
                    self._room.clear()
                    if len(self._out) >= _CHUNK:  # looked at again: it may just have been taken
                        self._room.wait(1.0)
                if self._closed:
                    return
        except BaseException as error:  # noqa: BLE001 - raised once its items are accepted
            self.error = error
        finally:
            self.exhausted = True
            self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            with suppress(trio.RunFinishedError):  # nobody is left who could take anything
                self._host.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._arrival.set()

    async def some(self) -> list[Any]:
        """Wait until something is out, or the end, and return what there is."""
        await self._arrival.wait()
        self._arrival = trio.Event()
        self._told = False
        return self.take()

    def take(self) -> list[Any]:
        """Return what is out, once."""
        given = []
        while self._out:
            given.append(self._out.popleft())
        self._room.set()
        return given

    def close(self) -> None:
        """Let the thread end at its next item: nobody takes any more."""
        self._closed = True
        self._room.set()
