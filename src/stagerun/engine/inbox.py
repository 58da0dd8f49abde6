"""What the engine has posted and the persistence actor has not taken yet: two lanes, one order.

Outcomes are by far the most. So they lie flat in a list of their ledger's, and everything else is a
message in a queue, which knows how many outcomes of its ledger came before it. What is taken is
always a beginning of what was posted for a ledger: the reason of an outcome comes before it, an
ending after all of them.

The engine appends, the persistence actor takes from the front, and each does so in single steps of
the interpreter (``+=`` on a list, a slice, ``popleft``): neither ever waits for a lock.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import trio
from attrs import define, field

from stagerun.engine.ledger import Ledger, Post
from stagerun.store.driver import Store
from stagerun.store.packing import WIDTH
from stagerun.store.transaction import STATEMENT, Unit

__all__ = ["Draft", "Inbox", "Ticket"]

_POSTS = 5_000
"""Outcomes and messages that may wait for their commit; then the stages wait."""
_MANY = 1_000
"""So many wait that the event loop gives way whenever the store's thread is back from SQLite."""
_FEW = 100
"""So many of a run's own need not wait for those of others, until twice as many wait in all."""
_BYTES = 16 * 2**20
"""The same in bytes of results."""
_BATCH = 2_000
"""Of one transaction at most, so that no commit keeps the next one waiting for long."""


@define(eq=False)
class Ticket:
    """Somebody waits until all that was posted before is durable."""

    done: trio.Event = field(factory=trio.Event)
    refused: bool = False
    returned: Sequence[Any] = ()


@define
class Draft:
    """What was taken for one transaction: it is in the ledgers now."""

    tickets: dict[Ledger, list[Ticket]] = field(factory=dict)
    """The ledgers that have something to write, and who waits for it."""
    alone: list[tuple[Unit, Ticket]] = field(factory=list)
    posts: int = 0
    size: int = 0

    def take_outcomes(self, ledger: Ledger, until: int) -> None:
        """Take outcomes of *ledger* until so many of them were taken in all."""
        self.tickets.setdefault(ledger, [])
        self.posts += ledger.take_outcomes(until)


class Inbox:
    """The channel from the engine to the persistence actor: bounded, in order, losing nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._messages: deque[tuple[Ledger | None, Any, Any, int, int]] = deque()
        self._ready: dict[Ledger, None] = {}
        """Written by: the persistence actor. Ledgers that may have outcomes waiting."""
        # Written by: the engine's thread only, so that they need no lock.
        self.waiting = 0
        """Posts that are not durable yet."""
        self._bytes = 0
        self.full = False
        """Whether to wait for a commit before going on."""

    # -- the engine's side ----------------------------------------------------------------------

    def outcome(self, ledger: Ledger, row: tuple[Any, ...]) -> None:
        """Post an item's outcome. Never waits; look at ``full`` between items."""
        rows = ledger.outcomes
        rows += row
        ledger.concluded += 1  # now it may be taken
        self.waiting += 1
        if self.waiting >= _POSTS:
            self.full = True
        if len(rows) == WIDTH:  # the first one: of the others the persistence actor knows
            self._put(ledger, Post.OUTCOMES, None, -1)

    def post(self, ledger: Ledger, post: Post, payload: Any, size: int) -> None:
        """Post anything else. *size*: the bytes of its result."""
        ledger.posted += 1
        self.waiting += 1
        self._bytes += size
        self._weigh()
        self._put(ledger, post, payload, size)

    def wait(self, ledger: Ledger | None, ticket: Ticket, unit: Unit | None) -> None:
        """Tell *ticket* when all that *ledger* has posted is durable, or this *unit* is."""
        self._put(ledger, ticket, unit, -1)
        self._store.hurry()

    def nudge(self, ledger: Ledger) -> None:
        """Have a unit written for *ledger*. Any thread; takes no room."""
        self._messages.append((ledger, Post.NUDGE, None, -1, 0))
        self._store.wake()

    def hurry(self) -> None:
        """Have the next commit made as soon as can be: items wait for it."""
        self._store.hurry()

    def _put(self, ledger: Ledger | None, what: Any, payload: Any, size: int) -> None:
        before = 0 if ledger is None else ledger.concluded
        self._messages.append((ledger, what, payload, size, before))
        if not self._store.awake:
            self._store.wake()

    def committed(self, draft: Draft) -> None:
        """Make room: what *draft* held is durable."""
        self.waiting -= draft.posts
        self._bytes -= draft.size
        self._weigh()

    def full_for(self, ledger: Ledger) -> bool:
        """Whether *ledger*'s run has to wait for a commit: a small one not for a large one's."""
        if not self.full:
            return False
        crowded = self.waiting >= 2 * _POSTS or self._bytes >= _BYTES
        return crowded or ledger.waiting >= _FEW

    def _weigh(self) -> None:
        self.full = self.waiting >= _POSTS or self._bytes >= _BYTES

    @property
    def crowded(self) -> bool:
        """Whether so much waits that the stages may soon have to."""
        return self.waiting >= _MANY

    @property
    def empty(self) -> bool:
        """Whether nothing is left to take."""
        return not self._messages and not self._ready

    # -- the persistence actor's side -----------------------------------------------------------

    def draft(self) -> Draft:
        """Take what is there, for one transaction."""
        draft = Draft()
        self._take_messages(draft)
        there = {ledger: ledger.concluded for ledger in self._ready}
        # Again, for what was posted before those outcomes has to come before them.
        self._take_messages(draft)
        self._take_outcomes(draft, {ledger: n for ledger, n in there.items() if _free(ledger, n)})
        for ledger in [ledger for ledger in self._ready if not ledger.outcomes]:
            del self._ready[ledger]
        return draft

    def _take_outcomes(self, draft: Draft, there: Mapping[Ledger, int]) -> None:
        """Take outcomes into *draft*: of each ledger its share, and what others leave of theirs.

        Those with little to say first: a small run does not wait behind a large one. Messages leave
        some room in any case. Where ledgers are more than that, they take turns.
        """
        room = max(_BATCH - draft.posts, _BATCH // 4)
        turn = [*there.items()][:room]
        for left, (ledger, until) in zip(
            range(len(turn), 0, -1), sorted(turn, key=_yet_to_take), strict=True
        ):
            before = draft.posts
            number = min(until - ledger.taken_outcomes, room // left)
            if number > STATEMENT:  # whole ones; what is left comes with the next commit
                number -= number % STATEMENT
            draft.take_outcomes(ledger, ledger.taken_outcomes + number)
            room -= draft.posts - before
        for ledger, _ in turn:
            self._ready[ledger] = self._ready.pop(ledger)

    def _take_messages(self, draft: Draft) -> None:
        """Take messages into *draft*, as many as it has room for."""
        there = len(self._messages)
        count = min(there, max(0, _BATCH - draft.posts))
        take = self._messages.popleft
        for _ in range(count):
            ledger, what, payload, size, before = take()
            if ledger is None:
                draft.alone.append((payload, what))
                continue
            if what is Post.OUTCOMES:
                self._ready[ledger] = None
                continue
            draft.take_outcomes(ledger, before)
            if size >= 0:
                draft.posts += 1
                draft.size += size
                ledger.take(what, payload)
            elif what is not Post.NUDGE:
                draft.tickets[ledger].append(what)


def _free(ledger: Ledger, until: int) -> bool:
    """Whether there are outcomes until then, and no message that could come before one of them."""
    return until > ledger.taken_outcomes and ledger.posted == ledger.taken - ledger.taken_outcomes


def _yet_to_take(entry: tuple[Ledger, int]) -> int:
    ledger, until = entry
    return until - ledger.taken_outcomes
