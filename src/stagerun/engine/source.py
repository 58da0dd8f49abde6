"""Where a run's items come from: lists that are stored, functions, and iterators that pass by."""

import inspect
import itertools
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import trio
from attrs import frozen

from stagerun.engine.desk import Item
from stagerun.engine.hub import Hub
from stagerun.engine.ledger import Post
from stagerun.engine.stage import StageActor
from stagerun.errors import UsageError
from stagerun.model.status import Cause, Ending, Status
from stagerun.store import codec, questions

__all__ = ["Source", "read", "source_of"]

_CHUNK = 64
"""Items that are accepted at once at most."""
_PATIENCE = 0.02
"""Seconds that a chunk from a blocking iterator may take to fill."""


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
        return Source("stored", items, len(items))
    if isinstance(items, AsyncIterator | Iterator):
        return Source("iterator", items, None)
    if callable(items):
        return Source("function", items, None)
    if isinstance(items, AsyncIterable | Iterable):  # can be begun again, as a function can
        return Source("function", lambda: items, None)
    raise UsageError(
        f"items must be an iterable, an async iterable or a function giving one, got {items!r}"
    )


async def read(source: Source, hub: Hub, first: StageActor) -> Ending | None:
    """Feed the first stage until the source is exhausted.

    Returns how the run must end if the source broke; what it had given is worked off all the same.
    """
    limit = hub.pipeline.source_deadline
    try:
        if source.kind == "stored":
            await _feed_stored(hub, first)
        else:
            items = await _opened(source, hub.params) if source.kind == "function" else source.items
            hub.ledger.source_length = len(items) if isinstance(items, Sequence) else None
            await _feed(items, hub, first, keep=source.kind == "iterator")
    except _SlowError:
        message = f"the source gave no item for {limit:g} s (source_deadline)"
        return Ending(Status.FAILED, Cause.SOURCE_TIMEOUT, message)
    except Exception as error:
        hub.log.error("the source failed", exc_info=error)  # noqa: TRY400 - not the stdlib's logger
        code = f"{type(error).__module__}.{type(error).__qualname__}"
        message = f"the source failed: {codec.words(error)}"
        return Ending(Status.FAILED, Cause.SOURCE_ERROR, message, code)
    return None


class _SlowError(Exception):
    """The source took longer for one item than it may."""


async def _feed_stored(hub: Hub, first: StageActor) -> None:
    """Feed items from the database: it has them in order, and memory need not."""
    after = 0
    while True:
        page = await hub.store.ask(questions.made_items(hub.ledger.run, 0, 0, after))
        if not page:
            return
        for ident, number, value in page:
            after = ident
            first.put(Item(number, first.restore(value)))
            if first.mailbox.full:
                await first.mailbox.room()


async def _opened(source: Source, params: Any) -> Any:
    function = source.items
    items = function(params) if _wants_params(function) else function()
    if inspect.isawaitable(items):
        items = await items
    if not isinstance(items, AsyncIterable | Iterable):
        raise TypeError(f"the source gave {items!r}, which is not iterable")
    return items


def _wants_params(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return any(p.name == "params" or p.default is inspect.Parameter.empty for p in parameters)


async def _feed(items: Any, hub: Hub, first: StageActor, *, keep: bool) -> None:
    number = 0
    async for chunk in _chunks(items, hub):
        if keep:
            values = [_keep(value, number + n, hub, first) for n, value in enumerate(chunk, 1)]
        else:
            values = chunk
            hub.post(Post.ACCEPTED, len(chunk))
        for value in values:
            number += 1
            first.put(Item(number, value))
            if first.mailbox.full:
                await first.mailbox.room()
        await hub.recorder.room()
    hub.ledger.source_length = number


def _keep(value: Any, position: int, hub: Hub, first: StageActor) -> Any:
    """Store an accepted item; return it as the first stage gets it."""
    encoded = codec.encode(value)
    hub.post(Post.EMISSION, (hub.ledger.run, 0, 0, position, position, None, encoded), len(encoded))
    return first.welcome(value, encoded)


async def _chunks(items: Any, hub: Hub) -> AsyncIterator[list[Any]]:
    """Yield accepted items, a few at a time; a source that blocks waits in a thread."""
    limit = hub.pipeline.source_deadline
    if isinstance(items, AsyncIterable):
        iterator = aiter(items)
        while True:
            with trio.move_on_after(limit) as scope:
                try:
                    value = await anext(iterator)
                except StopAsyncIteration:
                    return
            if scope.cancelled_caught:
                raise _SlowError
            yield [value]
    elif isinstance(items, Sequence):  # cannot block: range, list, tuple
        for start in range(0, len(items), _CHUNK):
            yield list(items[start : start + _CHUNK])
            await trio.lowlevel.checkpoint()
    else:
        blocking = iter(items)
        while True:
            with trio.move_on_after(limit) as scope:
                chunk = await trio.to_thread.run_sync(_pull, blocking, abandon_on_cancel=True)
            if scope.cancelled_caught:
                raise _SlowError
            if not chunk:
                return
            yield chunk


def _pull(iterator: Iterator[Any]) -> list[Any]:
    """Take items in a thread: many from a quick source, one at a time from a slow one."""
    until = time.monotonic() + _PATIENCE
    chunk = []
    for value in itertools.islice(iterator, _CHUNK):
        chunk.append(value)
        if time.monotonic() > until:
            break
    return chunk
