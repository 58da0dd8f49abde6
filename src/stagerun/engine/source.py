"""Where a run's items come from: lists that are stored, functions, and iterators that pass by.

A source is user code that may hang, raise, or refuse to stop. So it stands on the floor like a
worker, under one scope that is cut when it gives nothing for too long, and it is left behind when
it does not heed that.
"""

import inspect
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import trio
from attrs import frozen

from stagerun.engine.backlog import Suspects
from stagerun.engine.desk import Item
from stagerun.engine.flag import Flag
from stagerun.engine.hub import Hub, Survivor
from stagerun.engine.ledger import Post
from stagerun.engine.pump import CHUNK, TURN, Pump
from stagerun.engine.reread import Reread
from stagerun.engine.stage import StageActor
from stagerun.errors import CancelRequested, StagerunError, UsageError
from stagerun.model.status import Cause, Ending, Status
from stagerun.store import codec

__all__ = ["Source", "SourceActor", "source_of"]


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

    def __init__(self, source: Source, hub: Hub, first: StageActor, suspects: Suspects) -> None:
        self.broken: Ending | None = None
        """How the run must end if the source broke; what it gave is worked off all the same."""
        self.over = Flag()
        """Set by the run when its stages are drained: a source that was opened is closed now."""
        self.gone = Flag()
        """Set when nothing of the source is left."""
        self.task: trio.lowlevel.Task | None = None
        """The task that reads; `why` looks where it waits."""
        self.pump: Pump | None = None
        """Where a blocking iterator is read, in a thread."""
        self._source = source
        self._hub = hub
        self._first = first
        self._suspects = suspects
        rereads = source.kind == "function" and hub.ledger.generation > 1
        self._reread = Reread(hub, first) if rereads else None
        self._exhausted = Flag()
        self._scope = trio.CancelScope(shield=True)
        self._reading = trio.CancelScope()
        self._opened = False
        self._stays_open = False
        """Whether what it has opened is closed only when the stages are drained."""
        self._left_behind: Survivor | None = None
        self._number = 0
        self._streak, self._flowed_at = 0, 0.0
        """Items that were fed since others were let run, and when that was."""
        self._watched_at = 0.0
        self._before = hub.ledger.source_length
        """How many items it had in an earlier generation, if that was found out."""
        self._started = False

    @property
    def exhausted_already(self) -> bool:
        """Whether all items are accepted."""
        return self._exhausted.is_set()

    @property
    def gives_up_at(self) -> float:
        """When the source is cut unless it gives something; inf while it is not its turn."""
        return self._scope.deadline

    def start(self) -> None:
        """Begin to read, in the context of whoever started the run."""
        hub, self._started = self._hub, True
        if self._source.kind == "stored":  # its items are in the backlog of the first stage
            self._exhausted.set()
            self.gone.set()
            return
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
        """Have it give nothing more: the run stops. What it has opened stays so for the stages."""
        (self._reading if self._opened else self._scope).cancel(reason="the run stops")
        if not self._started:
            self.gone.set()

    def cut(self) -> None:
        """Have it end now, whatever it does."""
        self._scope.cancel(reason="the run stops")

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
        self.task = trio.lowlevel.current_task()
        try:
            with self._scope:
                async with AsyncExitStack() as stack:
                    items = await self._open(stack)
                    self._opened = True
                    with self._reading:
                        await self._read(items)
                    self._rest()
                    self._exhausted.set()
                    if self._stays_open:
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
        """Give the source its time for the next item, for opening or for closing.

        Not anew for an item that comes within a turn: the deadline costs as much as an item.
        """
        now = trio.current_time()
        if self._scope.deadline == math.inf or now - self._watched_at > TURN:
            self._scope.deadline = now + self._hub.pipeline.source_deadline
            self._watched_at = now

    def _rest(self) -> None:
        """Take the deadline off: what is waited for now is not the source."""
        self._scope.deadline = math.inf

    async def _open(self, stack: AsyncExitStack) -> Any:
        """Return what gives the items; None: nothing does any more."""
        if self._source.kind == "iterator" and self._hub.ledger.generation > 1:
            self._gone_for_good()
            return None
        self._watch()
        if self._source.kind == "function":
            return await self._called(self._source.items, stack)
        return self._source.items

    async def _read(self, items: Any) -> None:
        if items is None:
            return
        self._hub.ledger.source_length = len(items) if isinstance(items, Sized) else None
        if isinstance(items, AsyncIterable):
            await self._feed_async(items)
        elif isinstance(items, Sequence):
            await self._feed_sequence(items)
        else:
            await self._feed_blocking(iter(items))
        self._hub.ledger.source_length = self._number
        if self._reread is not None and self._number < (self._before or 0):
            self._hub.log.warning(
                "the source gave %d items, and %d before: what it has lost is not run again",
                self._number,
                self._before,
            )

    def _gone_for_good(self) -> None:
        """Hear that the iterator died with its process: what it had given is all there is."""
        if self._hub.ledger.source_length is None:
            message = (
                "the items came from an iterator that went away with its process; those that it had"
                " given are done, the others cannot be had again"
            )
            self.broken = Ending(Status.FAILED, Cause.SOURCE_GONE, message)

    async def _called(self, function: Any, stack: AsyncExitStack) -> Any:
        """Call a source function; what it gives may be an async context manager, kept open."""
        arguments = (self._hub.params,) if _wants_params(function) else ()
        if inspect.isgeneratorfunction(function) or _is_async(function):
            items = function(*arguments)
        else:
            items = await self._maybe_in_thread(function, *arguments)
        if inspect.isawaitable(items):
            items = await items
        if isinstance(items, AbstractAsyncContextManager):
            self._stays_open = True
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
        for start in range(0, len(items), CHUNK):
            await self._feed(list(items[start : start + CHUNK]))

    async def _feed_blocking(self, items: Iterator[Any]) -> None:
        """Feed from an iterator that may block: it runs in one thread of its own, to its end."""
        if not self._hub.env.threads:
            for value in items:
                await self._feed([value])
            return
        self.pump = pump = Pump(items, trio.lowlevel.current_trio_token())
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

    async def _feed(self, chunk: list[Any]) -> None:
        """Accept items, and wait for room for each of them."""
        if self._left_behind is not None:
            raise CancelRequested("the source was left behind; the run takes nothing more of it")
        if not chunk:
            return
        hub = self._hub
        if self._reread is not None:
            self._rest()
            await self._feed_again(self._reread, chunk)
        else:
            keep, mailbox = self._source.kind == "iterator", self._first.mailbox
            if not keep:
                hub.post(Post.ACCEPTED, len(chunk))
            for value in chunk:
                self._number += 1
                if keep:
                    self._keep(self._number, value)
                else:
                    self._give(Item(self._number, value))
                if len(mailbox.waiting) >= mailbox.limit:  # mailbox.full: none are promised here
                    self._rest()
                    await mailbox.room()
        self._streak += len(chunk)
        too_long = trio.current_time() - self._flowed_at > TURN
        if self._streak >= CHUNK or too_long or hub.recorder.inbox.full:
            self._rest()
            await hub.recorder.room(hub.ledger)
            await trio.lowlevel.checkpoint()
            self._streak, self._flowed_at = 0, trio.current_time()
        self._watch()

    async def _feed_again(self, reread: Reread, chunk: list[Any]) -> None:
        """Accept, of items that a function gives again, those that have no final outcome."""
        fresh = list[tuple[int, Any]]()
        for value in chunk:
            self._number += 1
            number = await reread.number(self._number, value)
            if number is not None:
                fresh.append((number, value))
        self._hub.post(Post.ACCEPTED, len(fresh))
        for number, value in fresh:
            again = Item(number, value)
            again.repeated = True  # it may have begun, and made children, for all we know
            if not await self._suspects.from_source_alone(again, self._give):
                self._give(again)
            if self._first.mailbox.full:
                await self._first.mailbox.room()

    def _give(self, item: Item) -> None:
        """Give the first stage an item that a function can give again."""
        if self._first.stage.value_type in (Any, type(item.value)):
            self._first.put(item)
            return
        try:
            encoded = codec.encode(item.value)
        except BaseException:  # noqa: BLE001 - not to be stored: it comes as it is, and may do
            self._first.put(item)
            return
        self._first.put_encoded(item.number, encoded, repeated=item.repeated)

    def _keep(self, number: int, value: Any) -> None:
        """Store an accepted item that will not come again, and hand it to the first stage."""
        hub = self._hub
        try:
            encoded = codec.encode(value)
        except BaseException as error:  # noqa: BLE001 - whatever a strange value makes it raise
            row = (
                hub.ledger.run,
                0,
                number,
                hub.ledger.generation,
                0,
                number,
                None,
                codec.UNSTORABLE,
            )
            hub.post(Post.EMISSION, row)
            self._first.refuse(number, f"it cannot be stored: {codec.words(error)}", error)
            return
        row = (hub.ledger.run, 0, number, hub.ledger.generation, 0, number, None, encoded)
        hub.post(Post.EMISSION, row, len(encoded))
        self._first.put_encoded(number, encoded)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _wants_params(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return any(p.name == "params" or p.default is inspect.Parameter.empty for p in parameters)
