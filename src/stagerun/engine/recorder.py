"""The engine's hand of the persistence actor: what is to be stored, and what has been.

The engine posts to the inbox (never waiting), and waits for ``room()`` between items; the
persistence actor composes what was posted into one transaction, and it is told here when that is
durable.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from attrs import define, field, frozen

from stagerun.engine.env import Env
from stagerun.engine.health import Condition, Health
from stagerun.engine.inbox import Draft, Inbox, Ticket
from stagerun.engine.ledger import Ledger, Snapshot
from stagerun.errors import StoreError
from stagerun.logs import RunLog
from stagerun.store import lateness, owners
from stagerun.store.driver import BEAT, Store
from stagerun.store.transaction import Receipt, Transaction, Unit

__all__ = ["Recorder"]


@define(eq=False)
class _Beat(Ticket):
    """Nobody waits; but when it is refused, the owner has been ended by somebody else."""

    on_ended: Callable[[], None] = field(kw_only=True)


@frozen
class _Composed:
    """What a transaction holds, to be told apart when its receipt comes."""

    units: tuple[tuple[Ledger | None, Snapshot | None, list[Ticket]], ...]
    draft: Draft
    at: float
    """When it was composed, on ``Env.monotonic``."""


class Recorder:
    """Takes what is to be stored, and tells what has been."""

    def __init__(self, store: Store, env: Env) -> None:
        self._store = store
        self._env = env
        self.inbox = Inbox(store)
        self._composed: deque[_Composed] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self._condition = Condition()
        self._tickets: set[Ticket] = set()
        self.tick_at = 0
        """Written by: the runtime's ticker. When the event loop last showed life."""
        self._heart: tuple[int, Callable[[], None]] | None = None
        self._beat_at = 0  # written by the persistence actor
        self._beat_every = int(BEAT * 1e6 * env.pace)
        self.live: dict[Ledger, None] = {}
        """Written by: the runtime. Ledgers of runs under way, looked at with every beat."""
        self._broken: StoreError | None = None
        self._doubted = False
        """Whether somebody else has ended one of the runs under way, it is not known which."""
        self.lateness: Callable[[Any], float] = lambda _desk: 0.0
        """Written by: the watch. Seconds for which others block the event loop at a desk's cost."""
        self.long_attempt: Callable[[Any], None] = lambda _desk: None
        """Written by: the watch. Hears that an attempt which took its time has ended just now."""
        self.blocked: Callable[[], str | None] = lambda: None
        """Written by: the watch. Says who blocks the event loop just now."""

    # -- the engine's side --------------------------------------------------------------------

    def nudge(self, ledger: Ledger) -> None:
        """Have *ledger*'s report and log lines stored. Any thread; takes no room."""
        if not ledger.nudged:
            ledger.nudged = True
            self.inbox.nudge(ledger)

    def health(self) -> Health:
        """Return how the database does."""
        lag = 0.0
        with suppress(IndexError):  # just now it was done
            lag = self._env.monotonic() - self._composed[0].at
        return self._condition.health(self.inbox.waiting, self._env.now_us(), self._beat_at, lag)

    @property
    def refused(self) -> bool:
        """Whether the database refuses a commit just now, and for long enough to be told."""
        return self._condition.trouble is not None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a commit: a start, an ending, whoever wants it on disk."""
        return bool(self._tickets)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for a commit just now."""
        return self.inbox.empty and not self._composed

    async def room(self, ledger: Ledger) -> None:
        """Wait until less is waiting than may wait."""
        while self.inbox.full_for(ledger) and self._broken is None:
            self.inbox.hurry()
            await self._lot.park()

    async def flush(self, ledger: Ledger) -> bool:
        """Wait until everything posted for *ledger* is durable; False when it was refused."""
        return not (await self._passed(ledger, None)).refused

    async def write(self, unit: Unit) -> Sequence[Any] | None:
        """Store a unit of its own; return what its guard returned, or None when it refused."""
        ticket = await self._passed(None, unit)
        return None if ticket.refused else ticket.returned

    def write_soon(self, unit: Unit) -> None:
        """Store a unit of its own without waiting for it."""
        self.inbox.wait(None, Ticket(), unit)

    async def _passed(self, ledger: Ledger | None, unit: Unit | None) -> Ticket:
        ticket = Ticket()
        self._tickets.add(ticket)
        self.inbox.wait(ledger, ticket, unit)
        try:
            if self._broken is None:
                await ticket.done.wait()
        finally:
            self._tickets.discard(ticket)
        if self._broken is not None:
            raise self._broken
        return ticket

    def beat_for(self, owner: int, on_ended: Callable[[], None]) -> None:
        """From now on show the owner's life; *on_ended* hears when somebody has ended it."""
        self._heart = (owner, on_ended)

    def beat_soon(self) -> None:
        """Show life at once, not only when it is due. Any thread."""
        self._beat_at = 0
        self._store.wake()

    def stop_beating(self) -> None:
        """Show no more life: the owner ends in an orderly way."""
        self._heart = None

    def fail(self, error: StoreError) -> None:
        """Let everybody who waits know that nothing will ever be committed again."""
        self._broken = error
        self._condition.note(self._env.now_us(), failure=str(error))
        for ticket in self._tickets:
            ticket.done.set()
        self._lot.unpark_all()

    def committed(self, receipt: Receipt) -> None:
        """See ``Composer.committed``: publish what is durable now, and let those who wait go on."""
        composed = self._composed.popleft()
        self.inbox.committed(composed.draft)
        for place, (ledger, snapshot, tickets) in enumerate(composed.units):
            guard, rule = receipt.guards[place], receipt.broken.get(place)
            if rule is not None:
                which = "what was to be stored" if ledger is None else f"run {ledger.run}"
                words = "%s broke a rule of the database, and ends here: %s"
                RunLog(now=self._env.now_us).error(words, which, rule)
            for ticket in tickets:
                ticket.refused = guard is None or rule is not None
                ticket.returned = guard or ()
                ticket.done.set()
                if isinstance(ticket, _Beat) and ticket.refused:
                    ticket.on_ended()
            if ledger is None or snapshot is None:
                continue
            if rule is not None and guard is not None:
                ledger.give_way(snapshot)
            else:
                ledger.publish(None if guard is None else snapshot)
        if self._condition.trouble is not None:
            self._condition.note(self._env.now_us(), notice=self._condition.notice)
            RunLog(now=self._env.now_us).warning("the database takes commits again")
        self._lot.unpark_all()  # also while it is full: this run may have little waiting

    def troubled(self, problem: str) -> None:
        """See ``Composer.troubled``."""
        now, notice = self._env.now_us(), self._condition.notice
        self._condition.note(now, trouble=problem, notice=notice)
        RunLog(now=self._env.now_us).error(
            "the database refuses a commit: %s. Runs wait and nothing is lost; it is tried again",
            problem,
        )

    def noticed(self, problem: str | None) -> None:
        """See ``Composer.noticed``."""
        now, trouble = self._env.now_us(), self._condition.trouble
        self._condition.note(now, trouble=trouble, notice=problem)
        if problem is not None:
            RunLog(now=self._env.now_us).warning("the database works on, but %s", problem)

    # -- the persistence actor's side -----------------------------------------------------------

    def compose(self) -> Transaction | None:
        """See ``Composer.compose``: drain the channel into one transaction."""
        self._store.page.committed()  # what was composed before is, or this would not be asked
        draft = self.inbox.draft()
        tickets, alone = draft.tickets, draft.alone
        now = self._env.now_us()
        if self._heart is not None and not 0 <= now - self._beat_at < self._beat_every:
            self._beat_at = now
            alone += self._beat(*self._heart, now, tickets)
        if not tickets and not alone:
            return None
        # What stands alone may speak of what the ledgers write, never the other way round.
        units = [ledger.unit(now) for ledger in tickets] + [unit for unit, _ in alone]
        parts: list[tuple[Ledger | None, Snapshot | None, list[Ticket]]] = [
            (ledger, ledger.snapshot(), waiting) for ledger, waiting in tickets.items()
        ]
        parts += [(None, None, [ticket]) for _, ticket in alone]
        self._composed.append(_Composed(tuple(parts), draft, self._env.monotonic()))
        return Transaction(tuple(units))

    def _beat(
        self,
        owner: int,
        on_ended: Callable[[], None],
        now: int,
        tickets: dict[Ledger, list[Ticket]],
    ) -> list[tuple[Unit, Ticket]]:
        """Show life, look after what the loop may not be able to; add to *tickets* what has news.

        A run whose loop does not end it is ended here. The others learn whether they are still
        this process's (all at once; one by one when one of them is not), and stored deadlines that
        a clock has moved are put right.
        """
        alone, ours = list[tuple[Unit, Ticket]](), list[tuple[int, int]]()
        one_by_one, self._doubted = self._doubted, False
        for ledger in tuple(self.live):
            if ledger.stale:
                tickets.setdefault(ledger, [])
            if self.inbox.empty and ledger.overdue(self._env.monotonic()):
                ledger.carry_out_will(now, self.blocked())
                tickets.setdefault(ledger, [])
            elif ledger.deadline is not None and ledger.ending is None and not ledger.fenced:
                ours.append((ledger.run, ledger.generation))
                at = self._deadline_at(ledger)
                kept = ledger.deadline_kept
                if one_by_one or kept is None or _has_moved(at, kept):
                    ledger.deadline_kept = at
                    fence = _Beat(on_ended=partial(ledger.publish, None))
                    alone.append((self._keep_time(ledger, at), fence))
        if ours:
            refused = partial(self._doubt, one_by_one)
            alone.append((lateness.all_running(ours), _Beat(on_ended=refused)))
        life = owners.beat(owner, now, self.tick_at, self._store.heal(), self._env.memory())
        return [*alone, (life, _Beat(on_ended=on_ended))]

    def _doubt(self, asked: bool) -> None:
        """Hear that a run is not ours any more: ask which one, at once unless that was *asked*."""
        self._doubted = True
        if not asked:
            self.beat_soon()

    def _deadline_at(self, ledger: Ledger) -> float:
        """Return a run's deadline on the wall's clock of just now, in microseconds."""
        assert ledger.deadline is not None  # noqa: S101 - it has begun
        return self._env.now_us() + (ledger.deadline - self._env.monotonic()) * 1e6

    def _keep_time(self, ledger: Ledger, at: float) -> Unit:
        """Return the unit that keeps the stored deadline right, and tells whether it is ours."""
        stored = None if at == math.inf else int(at)
        grace = int(ledger.pipeline.grace * 1e6)
        return lateness.keep_time(ledger.run, ledger.generation, stored, grace)


def _has_moved(at: float, kept: float) -> bool:
    """Whether a clock has moved a deadline, in microseconds, by more than a second."""
    return at != kept and abs(at - kept) > 1e6  # the first: for both may be infinite
