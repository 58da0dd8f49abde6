"""One worker's place: what it has in hand, and the scope that its actor may cancel."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from stagerun.engine.context import Context
from stagerun.engine.hub import Survivor
from stagerun.phase import PHASE
from stagerun.store.page import Page

if TYPE_CHECKING:
    from stagerun.engine.stage import StageActor

__all__ = ["Desk", "How", "Item"]

How = tuple[bool, Any, BaseException | None]
"""How an attempt ended: whether it returned, what, and what it raised."""

_FORGIVEN = 3
"""Times that an item's deadline is moved in a stage because others blocked the event loop."""


class Item:
    """One item on its way: moved from mailbox to mailbox, held by one actor at a time."""

    __slots__ = (
        "attempts",
        "due",
        "forgiven",
        "key",
        "number",
        "pauses_for",
        "repeated",
        "started",
        "value",
        "waited",
    )

    pauses_for: str

    def __init__(self, number: int, value: Any, key: Any = None) -> None:
        self.number = number
        self.value = value
        self.key = key
        self.attempts = 0
        self.started = 0.0
        """When it was first started in this stage. Invariant: meaningless while attempts == 0."""
        self.due = 0.0
        """When its next attempt could have begun, had a worker been free."""
        self.waited = 0.0
        """Seconds since then that do not count: it waited for a worker, or for room behind."""
        self.forgiven = 0
        """Times that its deadline was moved because others blocked the event loop."""
        self.repeated = False
        """Whether an earlier generation may have begun it in this stage."""
        # pauses_for: why it is between two attempts. Set only then, so that it costs nothing here.

    def hand_on(self, value: Any) -> None:
        """Begin anew for the next stage."""
        self.value, self.key = value, None
        self.attempts, self.started, self.waited = 0, 0.0, 0.0
        self.repeated, self.forgiven = False, 0


class Desk:
    """What a worker works on, and the cancel scope around it. Written by its worker and actor."""

    __slots__ = (
        "_special",
        "actor",
        "beat_at",
        "bound",
        "ctx",
        "cut_at",
        "deadline",
        "foreign",
        "items",
        "left_behind",
        "let_go",
        "limiter",
        "numbers",
        "opening",
        "owed",
        "resource",
        "runs_on",
        "scope",
        "slot",
        "stalled",
        "started",
        "starts",
        "task",
        "thread",
    )

    numbers: "memoryview[int]"
    starts: "memoryview[float]"

    def __init__(self, actor: "StageActor") -> None:
        self.actor = actor
        self.scope = trio.CancelScope()
        self.opening: trio.CancelScope | None = None
        self.items: tuple[Item, ...] = ()
        """In hand. Empty: the worker rests, or waits for room; nobody may cut it, and when its
        scope ends by its own deadline nothing is lost."""
        self.started = 0.0
        self.deadline = math.inf
        """The true deadline of this attempt; the actor cuts it exactly."""
        self.bound = math.inf
        """The scope's deadline. Invariant while busy: deadline <= bound <= deadline + slack, and
        what is owed."""
        self.cut_at: float | None = None
        self.left_behind: Survivor | None = None
        """Set when the worker was given up: what it does from now on is void."""
        self.ctx: Context | None = None
        """The context of this attempt, once it was asked for."""
        self.runs_on = False
        """Whether a thread of this attempt goes on after the cut: its end is noted later."""
        self.let_go: Callable[[], None] | None = None
        """Ends the worker's wait for work elsewhere that does not stop; the worker settles it."""
        self.beat_at = 0.0
        """The last sign of life, on ``Env.monotonic``; inf while none is asked for. Any thread.
        Invariant: meaningless without a ``heartbeat_timeout``."""
        self.stalled = False
        """Whether this attempt was cut for want of one."""
        self.resource: Any = None
        self.limiter: trio.CapacityLimiter | None = None
        self.task: trio.lowlevel.Task | None = None
        """The worker's task; `why` looks where it waits."""
        self.foreign: Any = None
        """The call in asyncio's loop, or the worker process, where the attempt is made there."""
        self.thread: int | None = None
        """The identity of the thread that this attempt runs in, where it runs in one."""
        self.owed = 0.0
        """Seconds of this attempt that others have taken: the event loop was blocked."""
        stage = actor.stage
        self._special = stage.batch is not None or stage.heartbeat_timeout is not None
        self.slot = 0
        """Where the live page tells what is in hand, and since when. A number stays there until the
        next one comes: that of an item which was settled meanwhile does no harm, for whoever reads
        it leaves out what has an outcome."""
        self.sit_down()

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return bool(self.items)

    @property
    def attempt(self) -> int:
        """Which attempt at it is under way, from 1. Any thread."""
        items = self.items
        return items[0].attempts if items else 0

    @property
    def item(self) -> Item | None:
        """The item in hand, where it is one."""
        return self.items[0] if len(self.items) == 1 else None

    @property
    def was_cut(self) -> bool:
        """Whether this attempt's scope was cancelled, by its actor or by its own deadline."""
        return self.cut_at is not None or self.scope.cancel_called

    @property
    def abandoned(self) -> bool:
        """Whether the worker was given up and replaced."""
        return self.left_behind is not None

    def sit_down(self) -> None:
        """Take a place in the live page. A worker that waits for items has none."""
        ledger, batch = self.actor.hub.ledger, self.actor.stage.batch
        place = (ledger.run, ledger.generation, self.actor.index)
        self.slot = self.page.occupy(self, 1 if batch is None else batch.size, *place)

    def stand_up(self) -> None:
        """Leave it to others."""
        self.page.leave(self)

    @property
    def page(self) -> Page:
        """The live page of this process."""
        return self.actor.hub.store.page

    def clear(self) -> None:
        """Forget the last cut: a fresh scope is opened."""
        self.cut_at, self.bound = None, math.inf

    def begin(self, items: tuple[Item, ...], now: float) -> None:
        """Take *items* in hand and set the deadline of this attempt."""
        actor = self.actor
        limit, slack = actor.first_limit, actor.first_slack
        for item in items:
            item.attempts += 1
            if item.attempts == 1:
                item.started = now
            else:
                item.waited += now - item.due
                limit, slack = min(limit, actor.limit_of(item, now)), 0.0
        self.items, self.started = items, now
        if PHASE.get() is not None:
            PHASE.set(None)  # left behind by an earlier attempt
        self.ctx, self.runs_on, self.owed = None, False, 0.0
        self.numbers[self.slot], self.starts[self.slot] = items[0].number, now
        if self._special:
            self._begin_specially(now)
        actor.in_flight[actor.index] += len(items)
        self.deadline = deadline = now + limit
        if not deadline <= self.bound <= deadline + slack:
            self.bound = self.scope.deadline = deadline + slack
        if deadline < actor.due:
            actor.nudge()

    def _begin_specially(self, now: float) -> None:
        if self.actor.stage.batch is not None:
            self.page.show(self, [item.number for item in self.items], now)
        if self.actor.stage.heartbeat_timeout is not None:
            self.stalled = False
            self.beat()

    def owe(self, seconds: float) -> None:
        """Hear that others have blocked the event loop for so long; it shall not be cut for that.

        The scope may not fire by itself now: when the deadline falls due, the actor decides. Nor
        could it show a sign of life meanwhile. The actor is not woken: nothing is due sooner.
        """
        self.beat_at += seconds
        if self.busy and self.cut_at is None and self.deadline != math.inf:
            self.owed += seconds
            self.bound = self.scope.deadline = max(self.bound, self.deadline) + self.owed

    def forgive(self, now: float) -> bool:
        """Move a deadline that passed only because others blocked the event loop.

        False: it passed by itself. Not more than a few times an item: a blocking one that nobody
        saw must not go on for ever.
        """
        self.owed += self.actor.hub.recorder.lateness(self)
        if not self.owed or now >= self.deadline + self.owed:
            return False
        if any(item.forgiven >= _FORGIVEN for item in self.items):
            return False
        for item in self.items:
            item.forgiven += 1
            item.waited += self.owed
        self.deadline += self.owed
        if self.bound < self.deadline:
            self.bound = self.scope.deadline = self.deadline
        self.owed = 0.0
        if self.ctx is not None:
            self.ctx.deadline = self.deadline
        return True

    def end(self) -> None:
        """Lay down what was in hand."""
        self.actor.in_flight[self.actor.index] -= len(self.items)
        self.items = ()

    def rest(self) -> None:
        """Take the deadline off, before the worker waits for something that is not the item's."""
        if self.bound != math.inf:
            self.bound = self.scope.deadline = math.inf

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the attempt's clock: what is waited for within is not the stage's doing."""
        deadline, since = self.deadline, trio.current_time()
        self.rest()
        self.deadline = self.beat_at = math.inf
        try:
            yield
        finally:
            self._resume(deadline, trio.current_time() - since)

    def _resume(self, deadline: float, waited: float) -> None:
        """Let the attempt's clock go on, later by the time that was waited."""
        self.deadline = self.bound = self.scope.deadline = deadline + waited
        self.beat()
        if self.ctx is not None:
            self.ctx.deadline = self.deadline
        for item in self.items:
            item.waited += waited
        if self.deadline < self.actor.due:
            self.actor.nudge()

    def cut(self, now: float, why: str) -> None:
        """Cancel the attempt. Its worker settles it, unless it refuses and is abandoned."""
        self.cut_at = now
        if self.ctx is not None:
            self.ctx.cut(why)
        self.scope.cancel(reason=why)

    def cut_by_itself(self) -> None:
        """Hear that the scope's own deadline was quicker than the stage's watch.

        A thread that is left behind looks at its token.
        """
        self.cut_at = self.deadline
        if self.ctx is not None:
            self.ctx.cut("the attempt's deadline has passed")

    def cut_for_another(self, item: Item) -> bool:
        """Whether a batch was cut before its time for *item* had come."""
        own = self.actor.limit_of(item, self.started)
        return len(self.items) > 1 and not self.stalled and self.started + own > self.deadline

    def survivor(self, *, thread: bool, what: str | None = None) -> Survivor:
        """Describe the attempt in hand as work that was cut."""
        number = self.items[0].number if self.items else None
        cut_at = self.cut_at if self.cut_at is not None else trio.current_time()
        return Survivor(self.actor.stage.name, number, cut_at, thread, what)

    def context(self) -> Context:
        """Return what the stage may know of this attempt."""
        if self.ctx is None:
            self.ctx = Context(self)
        return self.ctx

    def report(self, step: str, message: str, done: float | None, total: float | None) -> None:
        """See ``Context.report``."""
        if not self.abandoned:
            self.beat()
            self.actor.hub.report(step, message, done, total)

    def heartbeat(self) -> None:
        """See ``Context.heartbeat``."""
        if not self.abandoned:
            self.beat()
            self.actor.hub.ledger.moved = True
            self.actor.hub.recorder.nudge(self.actor.hub.ledger)

    def beat(self) -> None:
        """Note a sign of life. Any thread."""
        self.beat_at = self.actor.hub.env.monotonic()
