"""One client's way through the events of a run: where it stands, and what comes next."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import frozen

from stagerun.store.documents import run_document
from stagerun.store.driver import Question
from stagerun.store.feed import Feed, feed, run_number
from stagerun.web.frames import Chunk, chunk_of, frame, reset
from stagerun.web.tails import PAGE, Tail, endings, to_an_end

__all__ = ["Reader"]


@frozen
class _Page:
    """What the database says of a run, in one state of it."""

    run: int
    identifier: str
    feed: Feed
    after: int
    """The number that the events follow."""
    document: dict[str, Any] | None
    """The run's, if the client has to begin anew."""


class Reader:
    """Gives every kept event once, in order, and says when some are missing.

    Args:
        ask: Asks the database.
        identifier: The run's, or the beginning of it.
        after: The last event that the client has, and 0 for none; None when it does not say, so
            that it cannot miss any.
    """

    def __init__(
        self, ask: Callable[[Question[_Page]], Awaitable[_Page]], identifier: str, after: int | None
    ) -> None:
        self._ask = ask
        self._identifier = identifier
        self.run = 0
        """The run's number, once something has been read."""
        self.seq = after or 0
        """What has been given: every kept event up to this one."""
        self.last = 0
        """The number of the last event when it was read."""
        self.final: int | None = None
        """The number of the last event, if the run had ended by then."""
        self.complete = False
        """Whether the end has been given of the generation that was current at the beginning, or
        of a later one. Whoever wants the next one, too, comes back for it."""
        self._generation = 0
        """The one that was current at the beginning."""
        self._told = -1 if after is None else 0
        """The client knows that events up to this one may be missing; -1: it knows nothing yet."""

    async def from_store(self) -> bytes:
        """Return the next frames; nothing when there are none.

        Raises:
            UsageError: There is no such run, or no more.
            StoreError: The database does not answer.
        """
        page = await self._ask(self._question())
        self.run, self._identifier = page.run, page.identifier
        beginning = b""
        if page.document is not None:
            beginning = reset(page.after, page.document)
        if page.document is not None or self._told < 0:
            self._told = page.feed.first_kept - 1
        events = page.feed.events
        self._generation = self._generation or page.feed.generation
        ends = endings(events)
        chunk = chunk_of(to_an_end(map(frame, events), ends), after=page.after)
        self._given(chunk, ends)
        if len(events) < PAGE and (not events or chunk.seq == events[-1].seq):
            self.seq = page.feed.last
        self.last = page.feed.last
        self.final = page.feed.last if page.feed.ended else None
        return beginning + chunk.data

    async def from_tail(self, tail: Tail) -> bytes:
        """Return the next frames, if possible without asking the database; raises the same."""
        chunk = tail.after(self.seq)
        if chunk is None:
            return await self.from_store()
        self._given(chunk, tail.ends)
        return chunk.data

    def over(self, tail: Tail | None = None) -> bool:
        """Whether nothing more is to come, by what was read here or for all who listen."""
        known = tail is not None and tail.generation >= self._generation
        return self.complete or self.seq in (self.final, tail.final if tail and known else None)

    def _given(self, chunk: Chunk, ends: Mapping[int, int]) -> None:
        self.seq = chunk.seq
        self.complete = ends.get(chunk.seq, 0) >= self._generation

    def _question(self) -> Question[_Page]:
        identifier, seq, told = self._identifier, self.seq, self._told

        def ask(connection: Any) -> _Page:
            run, whole = run_number(identifier)(connection)
            page, after, document = feed(run, seq, PAGE)(connection), seq, None
            unknown = seq > page.last  # what the client has is of another database
            if unknown:
                page, after = feed(run, 0, PAGE)(connection), 0
            if unknown or page.first_kept - 1 > max(seq, told) >= told >= 0:
                document = run_document(whole)(connection)
            return _Page(run, whole, page, after, document)

        return ask
