"""What becomes of an item after an attempt: the second half of a stage actor."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from stagerun.engine.desk import Desk, How, Item
from stagerun.engine.hub import Hub
from stagerun.engine.mailbox import Mailbox
from stagerun.engine.register import Register
from stagerun.logs import RunLog
from stagerun.model.outcome import DROP, ItemCause, Outcome
from stagerun.model.stage import Stage
from stagerun.rules.verdict import Again, Attempt, Done, Ended, decide
from stagerun.store import codec

if TYPE_CHECKING:
    from stagerun.engine.stage import StageActor

__all__ = ["SUPERSEDED", "Settling"]

_OK = Outcome.OK.value
_PLAIN: frozenset[type] = frozenset({int, str, float, bool, bytes, type(None)})
"""Types that the store gives back as they were; other results are handed on as it would."""
_LONG = 0.1
"""Seconds of an attempt from which on it may have blocked the event loop, or have suffered."""
_NOTHING: deque[tuple[int, Item]] = deque(maxlen=0)
"""What a stage holds that needs to hold nothing: an empty deque takes 760 bytes."""
_ALONE = {kind: frozenset({kind}) for kind in _PLAIN}
SUPERSEDED = Ended(Outcome.SKIPPED, ItemCause.SUPERSEDED, "its parent gave something else")


class Settling:
    """Decides, records and passes on. ``StageActor`` adds who works, and when."""

    # Slots: with so many attributes a dict costs a kilobyte and a half, and is slower to read.
    __slots__ = (
        "_behind", "_decode", "_held", "_inbox", "_passes", "_voided", "follower",
        "hand_over", "hub", "in_flight", "index", "log", "mailbox", "plain",
        "register", "stage",
    )  # fmt: skip

    def __init__(self, stage: Stage, index: int, hub: Hub) -> None:
        self.stage = stage
        self.index = index
        self.hub = hub
        self.follower: StageActor | None = None
        self.hand_over: Callable[[Item], None] = self._hold
        """Gives the next stage an item. Invariant: meaningless without a follower."""
        self._behind: Mailbox | None = None
        """The next stage's."""
        self._passes = _PLAIN
        """Types of results that go on as they are; others as the store would give them."""
        self.register = Register(stage, index, hub)
        self.log: RunLog = self.register.log
        self._inbox = hub.recorder.inbox
        self.mailbox = Mailbox(self.room_needed(stage))
        self.in_flight = hub.ledger.in_flight
        """Items under way, of all stages of the run."""
        self._held: deque[tuple[int, Item]] = deque() if stage.commit_first else _NOTHING
        """Items that go on when so many messages of the run are on disk."""
        self._voided: set[int] = set()
        """Items in flight whose outcome will not count."""
        self._decode = codec.decoder(stage.value_type)
        self.plain = _PLAIN if stage.value_type is Any else _alone(stage.value_type)
        """Types of values that this stage takes as they are."""

    def precede(self, follower: "StageActor") -> None:
        """Have what this stage makes go on to *follower*."""
        self.follower, self._behind = follower, follower.mailbox
        self.hand_over = self._hold if self.stage.commit_first else follower.door
        self._passes = follower.plain

    @staticmethod
    def room_needed(stage: Stage) -> int:
        """Return how many items may wait in front of *stage*."""
        return stage.buffer

    def come_back(self, at: float) -> None:
        """Look again at time *at*, when an item's pause is over. Defined by the actor."""
        raise NotImplementedError

    def settle_all(self, desk: Desk, now: float, how: How) -> None:
        """Settle what is in hand after an attempt that ended just *now*, and lay it down."""
        items, (returned, value, _) = desk.items, how
        if returned and now < desk.deadline and now - desk.started <= _LONG and not self._voided:
            for item in items:  # what settle() would do: said here for the many that end so
                self.succeed(item, value, now)
        else:
            for item in items:
                self.settle(desk, item, now, how)
        self.in_flight[self.index] -= len(items)  # as desk.end() does
        desk.items = ()

    def settle(self, desk: Desk, item: Item, now: float, how: How) -> None:
        """Decide what becomes of an item after an attempt, and do it."""
        returned, value, error = how
        if now - desk.started > _LONG:
            self.hub.recorder.long_attempt(desk)
            if now >= desk.deadline and desk.cut_at is None:
                desk.forgive(now)
        if self._voided and item.number in self._voided:
            self._voided.discard(item.number)
            self.fail(item, SUPERSEDED, None)
        elif returned and now < desk.deadline:  # decide() would say Done
            self.succeed(item, value, now)
        elif desk.cut_at is not None and self.hub.stop is None and desk.cut_for_another(item):
            item.attempts -= 1  # the deadline of another item in its batch was not its own
            self._try_again(item, now, "its batch was cut for another item")
        else:
            verdict = self._judge(desk, item, now, error, returned=returned)
            unknown = desk.cut_at is None or desk.abandoned or desk.runs_on
            late = None if unknown else now - (desk.cut_at or now)
            self._settle_by(verdict, item, value, error, late)

    def _judge(
        self, desk: Desk, item: Item, now: float, error: BaseException | None, *, returned: bool
    ) -> Done | Again | Ended:
        attempt = Attempt(
            number=item.attempts,
            first_started=item.started + item.waited,
            started=desk.started,
            ended=now,
            deadline=desk.deadline,
            cut=desk.was_cut,
            error=error,
            returned=returned,
            stalled=desk.stalled,
        )
        try:
            return decide(attempt, self.stage, self.hub.stop, self.hub.env.jitter())
        except BaseException as broken:  # noqa: BLE001 - the user's Retry.on may raise anything
            message = f"Retry.on of stage {self.stage.name} raised {codec.words(broken)}"
            return Ended(Outcome.FAILED, ItemCause.ERROR, message)

    def _settle_by(
        self,
        verdict: Done | Again | Ended,
        item: Item,
        value: Any,
        error: BaseException | None,
        late: float | None,
    ) -> None:
        now = trio.current_time()
        match verdict:
            case Done():
                self.succeed(item, value, now)
            case Again(at, why):
                self.log.debug("item %d: %s; tried again in %.3f s", item.number, why, at - now)
                said = why if error is None else f"{why} ({codec.words(error, 200)})"
                self._try_again(item, at, said)
            case Ended():
                self.fail(item, verdict, error, late)

    def _try_again(self, item: Item, at: float, why: str) -> None:
        item.due, item.pauses_for = at, why
        self.mailbox.park(item, at)
        self.come_back(at)

    def succeed(self, item: Item, value: Any, now: float) -> None:
        """Record a result and pass it on, if it can be stored; else the item fails."""
        if value is DROP:
            self.register.outcome(item, Outcome.SKIPPED.value, None, now)
            self.pass_nothing_on(item, Outcome.SKIPPED)
            return
        try:
            encoded = codec.encode(value)
            if len(encoded) > self.stage.result_limit:
                raise codec.too_large(encoded, self.stage.result_limit)  # noqa: TRY301 - see below
            onward = value if type(value) in self._passes else self._as_stored(value, encoded)
        except BaseException as error:  # noqa: BLE001 - strange values, and `by` of a collector
            message = _unstorable(self, value, error)
            self.fail(item, Ended(Outcome.FAILED, ItemCause.RESULT, message), error)
            return
        self.register.outcome(item, _OK, encoded, now)
        if self.follower is not None:
            item.hand_on(onward)
            self.hand_over(item)

    def _as_stored(self, value: Any, encoded: bytes) -> Any:
        """Return a result as it goes on. Raises when it cannot be read back."""
        if self.follower is not None:
            return self.follower.welcome(value, encoded)
        return codec.decode(encoded)

    def fail(
        self,
        item: Item,
        ended: Ended,
        error: BaseException | None,
        late: float | None = None,
    ) -> None:
        """Record that an item ends here without a result, with its cause and its error."""
        self.register.failure(item, ended, error, late)
        self.pass_nothing_on(item, ended.outcome)

    def _hold(self, item: Item) -> None:
        """Keep an item until what it was made of is on disk."""
        assert self.follower is not None  # noqa: S101 - asked by whoever has something to give
        self.follower.mailbox.promised += 1
        ledger = self.hub.ledger
        self._held.append((ledger.posted + ledger.concluded, item))

    def press(self) -> None:
        """Have a commit made now if items wait for it: nothing more comes for a while."""
        if self._held:
            self._inbox.hurry()

    def let_on(self) -> None:
        """Give the next stage what is on disk by now. After each commit."""
        held, durable, let_on = self._held, self.hub.ledger.published.taken, list[Item]()
        while held and held[0][0] <= durable:
            let_on.append(held.popleft()[1])
        self._let_on(let_on)

    def let_on_early(self, number: int) -> None:
        """Give it an item at once that is held here: there it is to be made void."""
        for entry in self._held:
            if entry[1].number == number:
                self._held.remove(entry)
                self._let_on([entry[1]])
                return

    def _let_on(self, items: Sequence[Item]) -> None:
        assert self.follower is not None  # noqa: S101 - else nothing is held
        give, mailbox = self.follower.door, self.follower.mailbox
        for item in items:
            give(item)
        mailbox.promised -= len(items)
        mailbox.make_room()  # a collect stage only enlists them: nobody takes them there

    def must_wait(self) -> bool:
        """Whether there is no room behind the stage. Asked with each item: no property."""
        if self._inbox.full and self._inbox.full_for(self.hub.ledger):
            return True
        behind = self._behind
        if behind is None:
            return False
        waiting = len(behind.waiting)
        return waiting >= behind.limit or waiting + behind.promised >= behind.promises

    async def flow(self) -> None:
        """Wait for room behind the stage, and let other tasks run. Under a shield of the caller's.

        A worker's lap is one; when its scope ends that by itself, the worker comes back here.
        """
        if self.must_wait():
            await self.room_behind()
        else:
            await trio.lowlevel.checkpoint()

    async def room_behind(self) -> None:
        """Wait for room in the next mailbox and in the recorder."""
        self.press()
        if self.follower is not None:
            await self.follower.mailbox.room()
        await self.hub.recorder.room(self.hub.ledger)
        await trio.lowlevel.checkpoint()

    def pass_nothing_on(self, item: Item, outcome: Outcome) -> None:
        """Let the next stage know that an item has no result; only a collect stage cares."""
        if self.follower is not None:
            self.follower.miss(item, outcome)

    def welcome(self, value: Any, encoded: bytes) -> Any:
        """Return a result as this stage gets it: as the store would give it after a restart."""
        return value if type(value) in self.plain else self._decode(encoded)

    def restore(self, encoded: bytes) -> Any:
        """Return a stored value as this stage gets it."""
        return self._decode(encoded)

    def miss(self, item: Item, outcome: Outcome) -> None:
        """Hear that an item of the stage before has no result."""


def _alone(wanted: Any) -> frozenset[type]:
    """Return the type that is *wanted* alone, if it is plain; shared by all stages."""
    return next((alone for kind, alone in _ALONE.items() if kind == wanted), frozenset())


def _unstorable(actor: Settling, value: Any, error: BaseException) -> str:
    follower = "" if actor.follower is None else f", or not given to {actor.follower.stage.name}"
    return (
        f"stage {actor.stage.name} returned a {type(value).__name__} that cannot be stored"
        f"{follower} ({codec.words(error, 300)}): return numbers, text, bytes, lists, dicts,"
        f" dataclasses or attrs classes of at most {actor.stage.result_limit} bytes,"
        " or the place of a file"
    )
