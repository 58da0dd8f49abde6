"""The newest events of the runs that somebody listens to, read once for all who listen.

One task looks at the database each quarter of a second, for all these runs at once, and keeps what
is new in a bounded ring per run, ready to be sent. Listeners have no buffers, only a place: whoever
falls behind the ring reads from the database again.
"""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Final

import anyio
from attrs import define, field

from stagerun.errors import StoreError, UsageError
from stagerun.logs import RunLog
from stagerun.model.status import Status
from stagerun.store.driver import Question
from stagerun.store.feed import Feed, FeedEvent, feed
from stagerun.store.pool import ReadingPool
from stagerun.web.frames import Chunk, Frame, chunk_of, frame

__all__ = ["PAGE", "Tail", "Tails", "endings", "to_an_end"]

PAGE: Final = 256
"""Events that are read at once."""
_LOOK: Final = 0.25
"""Seconds between two looks at the database."""
_FRAMES: Final = 1_024
"""Frames that a ring holds at most."""
_BYTES: Final = 2**20
"""The same in bytes."""
_CHUNKS: Final = 16
"""Places of listeners for which what comes next is kept joined."""
_AT_ONCE: Final = 8_192
"""Events of one look at most, where many runs are looked at."""
_TERMINAL: Final = frozenset(status.value for status in Status if status.terminal)


def endings(events: Iterable[FeedEvent]) -> dict[int, int]:
    """Return the generations that end with one of these events, by its number."""
    ended = (each for each in events if each.kind == "run" and each.body in _TERMINAL)
    return {each.seq: each.generation for each in ended}


def to_an_end(frames: Iterable[Frame], ends: Container[int]) -> Iterator[Frame]:
    """Give the frames up to the first event that ends a generation: some came for that one only."""
    for each in frames:
        yield each
        if each.seq in ends:
            return


@define(eq=False)
class Tail:
    """The newest events of one run. Used by one event loop only."""

    run: int
    read: int
    """The number of the last event that has been read."""
    floor: int = field(init=False)
    """Every event after this one, up to ``read``, is in the ring."""
    final: int | None = None
    """The number of the last event, if the run has ended."""
    generation: int = 0
    """Of which ``final`` is told."""
    ends: dict[int, int] = field(init=False, factory=dict)
    """The generations that end with an event of the ring, by its number."""
    gone: bool = False
    """Whether the run has been deleted."""
    listeners: int = 0
    behind: bool = False
    """Whether there is more to read already."""
    news: anyio.Event = field(init=False, factory=anyio.Event)
    """Set, and replaced, when something has changed."""
    _frames: deque[Frame] = field(init=False, factory=deque)
    _size: int = field(init=False, default=0)
    _chunks: dict[int, Chunk] = field(init=False, factory=dict)
    """What was sent since the last news, by where it begins: most listeners stand together."""

    def __attrs_post_init__(self) -> None:
        self.floor = self.read

    def take(self, page: Feed | None) -> None:
        """Take what has been read of the run; None: there is no such run any more."""
        if page is None:
            self.gone = True
            self.wake()
            return
        final = page.last if page.ended else None
        changed = bool(page.events) or final != self.final
        self.final, self.generation = final, page.generation
        self.behind = bool(page.events) and page.events[-1].seq < page.last
        last = page.events[-1].seq if page.events else max(page.last, self.read)
        if page.first_kept > self.read + 1:  # some were deleted before they were seen here
            self._frames.clear()
            self.ends.clear()
            self._size, self.floor = 0, last
        else:
            self.ends |= endings(page.events)
            for event in page.events:
                self._add(frame(event))
        self.read = last
        if changed:
            self._chunks.clear()
            self.wake()

    def _add(self, new: Frame) -> None:
        self._frames.append(new)
        self._size += len(new.data)
        while len(self._frames) > _FRAMES or self._size > _BYTES:
            old = self._frames.popleft()
            self._size -= len(old.data)
            self.ends.pop(old.seq, None)
            self.floor = old.seq

    def after(self, seq: int) -> Chunk | None:
        """Return the next frames after event *seq*, up to the end of a generation.

        None: the ring does not reach back so far.
        """
        if not self.floor <= seq <= self.read:
            return None
        chunk = self._chunks.get(seq)
        if chunk is None:
            new = [*takewhile(lambda each: each.seq > seq, reversed(self._frames))]
            chunk = chunk_of(to_an_end(reversed(new), self.ends), after=seq)
            if len(self._chunks) < _CHUNKS:
                self._chunks[seq] = chunk
        return chunk

    def wake(self) -> None:
        """Let those who wait for news go on."""
        news, self.news = self.news, anyio.Event()
        news.set()


class Tails:
    """The tails of all runs that somebody listens to in this process.

    Args:
        pool: Gives what answers questions.
    """

    def __init__(self, pool: Callable[[], ReadingPool]) -> None:
        self._pool = pool
        self._tails: dict[int, Tail] = {}
        self._troubled = False

    def __len__(self) -> int:
        return len(self._tails)

    @contextmanager
    def listening(self, run: int, read: int) -> Iterator[Tail]:
        """Give the tail of a run, of which the caller has read all up to the event *read*."""
        tail = self._tails.get(run)
        if tail is None:
            tail = self._tails[run] = Tail(run, read)
        tail.listeners += 1
        try:
            yield tail
        finally:
            tail.listeners -= 1

    def wake(self) -> None:
        """Let all who wait for news go on."""
        for tail in self._tails.values():
            tail.wake()

    async def watch(self) -> None:
        """Look at the database for ever."""
        while True:
            await anyio.sleep(0 if any(tail.behind for tail in self._tails.values()) else _LOOK)
            await self.look()

    async def look(self) -> None:
        """Read what is new in the runs that somebody listens to, and forget the others."""
        self._tails = {run: tail for run, tail in self._tails.items() if tail.listeners}
        tails = [*self._tails.values()]
        if not tails:
            return
        try:
            pages = await self._pool().ask(_feeds([(tail.run, tail.read) for tail in tails]))
        except StoreError as error:  # those who listen are kept waiting: it is looked again
            if not self._troubled:
                RunLog().warning("streams of events wait for the database: %s", error)
            self._troubled = True
            return
        self._troubled = False
        for tail, page in zip(tails, pages, strict=True):
            tail.take(page)


def _feeds(places: Sequence[tuple[int, int]]) -> Question[list[Feed | None]]:
    """Ask for the events of many runs, each after one of its own; None for a run that is gone."""
    limit = max(16, min(PAGE, _AT_ONCE // len(places)))
    questions = [feed(run, after, limit) for run, after in places]

    def ask(connection: Any) -> list[Feed | None]:
        pages: list[Feed | None] = []
        for question in questions:
            try:
                pages.append(question(connection))
            except UsageError:
                pages.append(None)
        return pages

    return ask
