"""The actor of one stage: a mailbox, workers on demand, and a watch over their deadlines.

The life of one item reads downward: ``put``, ``next_items``, then ``worker.py`` (begin, attempt),
``settle`` (decide), ``succeed`` or ``fail`` (record), ``hand_over``. How an attempt is made differs
by kind of stage and stands in ``kinds.py``; the decision stands in ``rules/verdict.py``.
"""

import math
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import trio

from stagerun.engine.desk import Desk, Item
from stagerun.engine.flag import Flag
from stagerun.engine.hub import Hub
from stagerun.engine.settling import SUPERSEDED, Settling
from stagerun.engine.worker import work
from stagerun.model.outcome import ItemCause, Outcome
from stagerun.model.stage import Kind, Stage
from stagerun.offload.workers import Workers
from stagerun.rules.verdict import Ended, Stop
from stagerun.store import codec

__all__ = ["StageActor"]

_INSTANT = 1e-6
"""Seconds that no timer can tell from none: what is due so soon is due."""
_RESTING = 4
"""Workers of a stage that stay when nothing waits: the next items need not hire them anew."""
_SLACK = 0.01
"""The deadline that user code sees may be later than the true one by this part of the limit."""
_LONG = 30.0
"""Seconds after which a stage that is still under way says how it stands."""


class StageActor(Settling):
    """One stage of one run. Its tasks: ``serve`` in the run's nursery, workers on the floor."""

    __slots__ = (
        "_closed", "_coming", "_desks", "_nudge", "_over", "_run_nursery", "_serving",
        "_void_later", "_worker_name", "children", "direct", "drained", "due", "finished",
        "first_limit", "first_slack", "more_items", "processes", "resource_failures",
    )  # fmt: skip

    def __init__(self, stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> None:
        super().__init__(stage, index, hub)
        self.drained = Flag()
        """Set when nothing is left to do here, now and later."""
        self.finished = False
        self.due = math.inf
        """When ``serve`` looks next. Invariant: <= every deadline of a busy desk, after a nudge."""
        self.first_limit = math.inf if stage.attempt_limit is None else stage.attempt_limit
        """Seconds that a first attempt may take."""
        self.first_slack = self.first_limit * _SLACK if stage.attempt_limit else 0.0
        self.resource_failures = 0
        """Openings of the resource in a row without a returned attempt."""
        self.more_items: Callable[[], tuple[Item, ...] | None] = self.take
        """Gives what to work on next without leaving the scope; None leaves it."""
        self.direct: Callable[[Any], Awaitable[Any]] | None = None
        """The stage's function, where an attempt is nothing but a call of it."""
        self._run_nursery = run_nursery
        self._worker_name = f"worker of stage {stage.name}"
        self._desks: dict[Desk, None] = {}
        """Workers that are not abandoned, in the order of hiring."""
        self.children = 0
        """The number of the last item that this stage has made, in any generation."""
        self._void_later: set[int] | None = None
        """Items superseded before they were read from the database; None: none waits there."""
        self.processes: Workers | None = None
        """Worker processes, once one was needed; they end with the stage."""
        self._coming = False
        """Whether a worker was called and has not looked yet: it calls the next one. Invariant:
        False with a resource, which may take its time to open."""
        self._closed = False
        self._over = False
        """Whether ``drained`` is set: asked with each item."""
        self._serving = False
        self._nudge = Flag()

    # -- items come in --------------------------------------------------------------------------

    @property
    def door(self) -> Callable[[Item], None]:
        """Where the stage before hands its items over."""
        return self.put

    def put(self, item: Item) -> None:
        """Take an item in; whoever puts waits for the mailbox's room afterwards."""
        if self._over:
            if self.hub.stop is None:  # else it waits, for a generation to come
                self.log.warning("an item came after the end of stage %s; void", self.stage.name)
            return
        self.mailbox.put(item)
        if not self._coming:
            self.summon()

    def put_encoded(self, number: int, encoded: bytes, *, repeated: bool = False) -> None:
        """Take in an item from its stored form, as the stage's annotation asks for it."""
        try:
            if encoded == codec.UNSTORABLE:
                raise ValueError("it could not be stored when it came")  # noqa: TRY301 - see below
            value = self.restore(encoded)
        except Exception as error:  # noqa: BLE001 - whatever the codec raises for a wrong type
            self.refuse(number, f"stage {self.stage.name} does not take it: {error}", error)
            return
        item = Item(number, value)
        item.repeated = repeated
        self.put(item)

    def put_stored(self, number: int, encoded: bytes, *, superseded: bool) -> None:
        """Take in an item that waits since an earlier generation."""
        if superseded or number in (self._void_later or ()):
            self.watch()
            self.fail(Item(number, None), SUPERSEDED, None)
        else:
            self.put_encoded(number, encoded, repeated=self.hub.ledger.generation > 1)

    def refuse(self, number: int, message: str, error: BaseException) -> None:
        """End an accepted item that cannot be given to the stage; the others go on."""
        self.watch()
        ended = Ended(Outcome.FAILED, ItemCause.INPUT, codec.words(message))
        self.fail(Item(number, None), ended, error)

    def expect_backlog(self) -> None:
        """Hear that items wait in the database: what is superseded meanwhile is remembered."""
        self._void_later = set()

    def backlog_read(self) -> None:
        """Hear that none waits there any more."""
        self._void_later = None

    def summon(self) -> None:
        """Have a worker look into the mailbox, if one can be had and none is on its way."""
        if self._coming:
            return
        if not self.mailbox.call():
            if len(self._desks) >= self.stage.workers:
                return
            self._hire()
        self._coming = self.stage.resource is None

    def _hire(self) -> None:
        self.watch()
        desk = Desk(self)
        self._desks[desk] = None
        # In the context of the run, not of whoever happens to put an item.
        begin = self.hub.floor.start_soon
        self.hub.context.run(lambda: begin(work, self, desk, name=self._worker_name))

    @property
    def desks(self) -> tuple[Desk, ...]:
        """The workers that are not abandoned, in the order of hiring. Any thread."""
        return tuple(self._desks)

    def close(self) -> None:
        """No more items come; the stage is drained once those that came are settled."""
        self._closed = True
        self.mailbox.release()
        self._look_again()

    def void(self, number: int) -> None:
        """Let an item count no more: what made it was repeated and gave something else."""
        item = self.mailbox.remove(number)
        if item is not None:
            self.fail(item, SUPERSEDED, None)
            if self._closed and self.mailbox.empty:
                self.mailbox.release()
        elif number in self.admitting or self._in_hand(number):
            self._voided.add(number)
        else:
            if self._void_later is not None:
                self._void_later.add(number)
            if self.follower is not None and self.stage.kind is not Kind.MANY:
                self.let_on_early(number)
                self.follower.void(number)  # it has gone on, under the same number

    def _in_hand(self, number: int) -> bool:
        return any(item.number == number for desk in self._desks for item in desk.items)

    # -- the watch ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to look after deadlines and pauses, if that has not begun."""
        if not self._serving:
            self._serving = True
            self._run_nursery.start_soon(self.serve, name=f"stage {self.stage.name}")

    @trio.lowlevel.enable_ki_protection
    async def serve(self) -> None:
        """Cut what overruns its deadline, bring back what paused, until the stage is drained."""
        try:
            await self._serve()
            self._end()
        finally:
            if self.processes is not None:
                in_peace = self.drained.is_set() and self.hub.stop is None
                await self.processes.end(at_once=not in_peace)

    async def _serve(self) -> None:
        self.register.begin()
        speak_at = trio.current_time() + _LONG
        while not self._done():
            now = trio.current_time()
            self.hub.epoch = self.hub.env.wall() - now
            if now >= speak_at:
                speak_at = now + _LONG
                self.register.stand(min((d.started for d in self._desks if d.busy), default=None))
            self.due = min(self.tend(now), speak_at)
            with trio.move_on_at(self.due):
                await self._nudge.wait()
            self._nudge = Flag()

    def come_back(self, at: float) -> None:
        """See ``Settling.come_back``."""
        if at < self.due:
            self.nudge()

    def nudge(self) -> None:
        """Have the watch look again: something is due sooner than it thinks."""
        self._nudge.set()

    def _look_again(self) -> None:
        if self._serving:
            self.nudge()
        else:
            self._end()

    def _end(self) -> None:
        self._over = True
        self.drained.set()

    def _done(self) -> bool:
        if self.hub.stop is not None:
            return not self._desks
        return self._closed and self.mailbox.empty and not self._desks and not self._held

    def tend(self, now: float) -> float:
        """Do what is due; return when something is due next."""
        due = now + self.first_limit  # no first attempt that begins later is due sooner
        for desk in [desk for desk in self._desks if not desk.busy and desk.opening]:
            give_up_at = desk.opening.deadline + self.hub.pipeline.grace if desk.opening else 0.0
            if now >= give_up_at:
                self._abandon(desk)
            else:
                due = min(due, give_up_at)
        for desk in [desk for desk in self._desks if desk.busy]:
            if desk.cut_at is None and now >= desk.deadline and not desk.forgive(now):
                desk.cut(now, "the attempt's deadline has passed")
            if desk.cut_at is None:
                due = min(due, desk.deadline)
            elif now >= desk.cut_at + self.hub.pipeline.grace:
                self._abandon(desk)
            else:
                due = min(due, desk.cut_at + self.hub.pipeline.grace)
        if self.stage.heartbeat_timeout is not None:
            due = min(due, self._cut_stalled(now, self.stage.heartbeat_timeout))
        for _ in range(self.mailbox.unpark_due(now)):
            self.summon()
        return min(due, self.mailbox.wake_at)

    def _cut_stalled(self, now: float, patience: float) -> float:
        """Cut attempts without a sign of life; return when the next one may have to be."""
        clock, due = self.hub.env.monotonic(), now + patience
        for desk in self._desks:
            if desk.busy and desk.cut_at is None:
                left = desk.beat_at + patience - clock
                if left <= _INSTANT:  # unless it could not beat: others block the loop just now
                    left += self.hub.recorder.lateness(desk)
                if left > _INSTANT:
                    due = min(due, now + left)
                    continue
                desk.stalled = True
                desk.cut(now, f"no sign of life for {patience:g} s")
                due = min(due, now + self.hub.pipeline.grace)
        return due

    def _abandon(self, desk: Desk) -> None:
        """Give up on work that refuses to stop: settle its items, replace its worker."""
        if desk.let_go is not None:
            desk.let_go()
            return
        desk.left_behind = survivor = desk.survivor(thread=False)
        self.log.warning("%s does not stop; it is left behind, its worker is replaced", survivor)
        self.hub.leave_behind(survivor)
        if self.hub.tracing is not None:
            self.hub.tracing.abandon(desk)
        self.settle_all(desk, trio.current_time(), (False, None, None))
        self.dismiss(desk)

    def dismiss(self, desk: Desk) -> None:
        """Let a worker go; another one comes if there is still something to do."""
        self._desks.pop(desk, None)
        desk.stand_up()
        if self._closed and self.mailbox.empty:
            self.mailbox.release()  # those who waited for an item that paused
        if self.ready:
            self._hire()
        elif not self._desks:
            self.nudge()

    # -- stopping -------------------------------------------------------------------------------

    def stop(self, *, at_once: bool) -> None:
        """Begin no more; cut everything, or at first only what cannot see the token."""
        assert self.hub.stop is not None  # noqa: S101 - set before anything is stopped
        late = self.hub.stop is Stop.RUN_DEADLINE
        outcome = Outcome.TIMED_OUT if late else Outcome.CANCELLED
        message = "the run stopped while the item waited for its next attempt"
        for item in self.mailbox.shut_down():
            self.fail(item, Ended(outcome, self.hub.stop.value, message), None)
        for desk in self._desks:
            if desk.opening is not None:
                desk.opening.cancel(reason="the run stops")
            if desk.busy and desk.cut_at is None and (at_once or not self.stage.wants_ctx):
                desk.cut(trio.current_time(), "the run stops")
        self._look_again()

    def abandon_all(self) -> None:
        """Leave behind what has not stopped, so that the run can end."""
        for desk in [*self._desks]:
            if desk.busy or desk.opening is not None:
                desk.cut_at = desk.cut_at or trio.current_time()
                self._abandon(desk)
            else:
                self.dismiss(desk)

    # -- what workers ask -----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a worker would find something to do."""
        return self.mailbox.ready

    def wants(self, desk: Desk) -> bool:
        """Whether a worker shall stay: for items here, or still to come."""
        if desk.abandoned or self.hub.stop is not None:
            return False
        return not (self._closed and self.mailbox.empty)

    async def next_items(self, desk: Desk) -> tuple[Item, ...] | None:
        """Return what to work on next; None when the worker may go home. Within a lap."""
        self._coming = False
        while (items := self.take()) is None:
            stays = self.stage.resource is not None or self.mailbox.resting < _RESTING
            if not (stays and self.wants(desk)):
                return None
            desk.stand_up()
            self.press()
            await self.mailbox.arrival()
            desk.sit_down()
            self._coming = False
        if self.ready:
            self.summon()
        return items

    def take(self) -> tuple[Item, ...] | None:
        """Take what one call of the stage gets; None when there is nothing."""
        return self.mailbox.next()

    def perform(self, desk: Desk) -> Awaitable[Any]:
        """Make one attempt at what *desk* has in hand. Defined by the kind of stage."""
        raise NotImplementedError

    @property
    def admitting(self) -> Collection[int]:
        """Items that are taken and whose key is being looked up: not begun yet."""
        return ()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way here, nor waits for its turn or its next attempt."""
        at_work = self.admitting or any(desk.busy for desk in self._desks)
        return self.mailbox.empty and not at_work and not self._held

    def let_on(self) -> None:
        """See ``Settling.let_on``; the stage may be drained with the last one."""
        if self._held:
            super().let_on()
            self.nudge()

    def next_child(self) -> int:
        """Return the number of the next item that this stage makes."""
        self.children += 1
        return self.children

    def limit_of(self, item: Item, now: float) -> float:
        """Seconds that a repeated attempt may take: its own limit within what is left."""
        own = self.stage.retry.attempt_deadline or math.inf
        spent = now - item.started - item.waited
        left = math.inf if self.stage.deadline is None else self.stage.deadline - spent
        return min(own, left)
