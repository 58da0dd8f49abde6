"""The actor of one stage: a mailbox, workers on demand, and a watch over their deadlines.

The life of one item reads downward: ``put``, ``next_items``, then ``worker.py`` (begin, attempt),
``settle`` (decide), ``succeed`` or ``fail`` (record), ``pass_on``. How an attempt is made differs
by kind of stage and stands in ``kinds.py``; the decision stands in ``rules/verdict.py``.
"""

import math
from typing import Any

import trio

from stagerun.engine.desk import Desk, Item
from stagerun.engine.hub import Hub
from stagerun.engine.mailbox import Mailbox
from stagerun.engine.register import Register
from stagerun.engine.worker import work
from stagerun.model.outcome import DROP, ItemCause, Outcome
from stagerun.model.stage import Kind, Stage
from stagerun.rules.verdict import Again, Attempt, Done, Ended, Stop, decide
from stagerun.store import codec

__all__ = ["StageActor"]

_PLAIN = frozenset({int, str, float, bool, bytes, type(None)})
"""Types that the store gives back as they were; other results are handed on as it would."""
_LONG = 30.0
"""Seconds after which a stage that is still under way says how it stands."""
_SUPERSEDED = Ended(Outcome.SKIPPED, ItemCause.SUPERSEDED, "its parent gave something else")


class StageActor:
    """One stage of one run. Its tasks: ``serve`` in the run's nursery, workers on the floor."""

    def __init__(self, stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> None:
        self.stage = stage
        self.index = index
        self.hub = hub
        self.follower: StageActor | None = None
        self.register = Register(stage, index, hub)
        self.log = self.register.log
        self.mailbox = Mailbox(self.room_needed(stage))
        self.drained = trio.Event()
        """Set when nothing is left to do here, now and later."""
        self.finished = False
        self.due = math.inf
        """When ``serve`` looks next. Invariant: <= every deadline of a busy desk, after a nudge."""
        self.first_limit = math.inf if stage.attempt_limit is None else stage.attempt_limit
        """Seconds that a first attempt may take."""
        self.resource_failures = 0
        """Openings of the resource in a row without a returned attempt."""
        self._run_nursery = run_nursery
        self._desks: dict[Desk, None] = {}
        """Workers that are not abandoned, in the order of hiring."""
        self._voided: set[int] = set()
        """Items in flight whose outcome will not count."""
        self._children = 0
        self._closed = False
        self._serving = False
        self._nudge = trio.Event()
        self._decode = codec.decoder(stage.value_type)
        self._plain = {t for t in _PLAIN if stage.value_type in (Any, t)}

    @staticmethod
    def room_needed(stage: Stage) -> int:
        """Return how many items may wait in front of *stage*."""
        return stage.buffer

    # -- items come in --------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Take an item in; whoever puts waits for the mailbox's room afterwards."""
        self.mailbox.put(item)
        self.summon()

    def summon(self) -> None:
        """Have a worker look into the mailbox, if one can be had."""
        if not self.mailbox.call() and len(self._desks) < self.stage.workers:
            self._hire()

    def _hire(self) -> None:
        self.watch()
        desk = Desk(self)
        self._desks[desk] = None
        # In the context of the run, not of whoever happens to put an item.
        name = f"worker of stage {self.stage.name}"
        self.hub.context.run(lambda: self.hub.floor.start_soon(work, self, desk, name=name))

    def close(self) -> None:
        """No more items come; the stage is drained once those that came are settled."""
        self._closed = True
        self.mailbox.release()
        self._look_again()

    def void(self, number: int) -> None:
        """Let an item count no more: what made it was repeated and gave something else."""
        item = self.mailbox.remove(number)
        if item is not None:
            self.fail(item, _SUPERSEDED, None)
        elif any(item.number == number for desk in self._desks for item in desk.items):
            self._voided.add(number)
        elif self.follower is not None and self.stage.kind is not Kind.MANY:
            self.follower.void(number)  # it has gone on, under the same number

    # -- the watch ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to look after deadlines and pauses, if that has not begun."""
        if not self._serving:
            self._serving = True
            self._run_nursery.start_soon(self.serve, name=f"stage {self.stage.name}")

    async def serve(self) -> None:
        """Cut what overruns its deadline, bring back what paused, until the stage is drained."""
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
            self._nudge = trio.Event()
        self.drained.set()

    def nudge(self) -> None:
        """Have the watch look again: something is due sooner than it thinks."""
        self._nudge.set()

    def _look_again(self) -> None:
        if self._serving:
            self.nudge()
        else:
            self.drained.set()

    def _done(self) -> bool:
        if self.hub.stop is not None:
            return not self._desks
        return self._closed and self.mailbox.empty and not self._desks

    def tend(self, now: float) -> float:
        """Do what is due; return when something is due next."""
        due = now + self.first_limit  # no first attempt that begins later is due sooner
        for desk in [desk for desk in self._desks if desk.busy]:
            if desk.cut_at is None and now >= desk.deadline:
                desk.cut(now, "the attempt's deadline has passed")
            if desk.cut_at is None:
                due = min(due, desk.deadline)
            elif now >= desk.cut_at + self.hub.pipeline.grace:
                self._abandon(desk)
            else:
                due = min(due, desk.cut_at + self.hub.pipeline.grace)
        for _ in range(self.mailbox.unpark_due(now)):
            self.summon()
        return min(due, self.mailbox.wake_at)

    def _abandon(self, desk: Desk) -> None:
        """Give up on work that refuses to stop: settle its items, replace its worker."""
        desk.left_behind = survivor = desk.survivor(thread=False)
        self.log.warning("%s does not stop; it is left behind, its worker is replaced", survivor)
        self.hub.leave_behind(survivor)
        self.settle_all(desk, returned=False, value=None, error=None)
        self.dismiss(desk)

    def dismiss(self, desk: Desk) -> None:
        """Let a worker go; another one comes if there is still something to do."""
        self._desks.pop(desk, None)
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
            if desk.busy:
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
        """Whether a worker that holds a resource shall stay: for items here, or still to come."""
        if desk.abandoned or self.hub.stop is not None:
            return False
        return not (self._closed and self.mailbox.empty)

    async def next_items(self, desk: Desk) -> tuple[Item, ...] | None:
        """Return what to work on next; None when the worker may go home."""
        while (items := self.take()) is None:
            if self.stage.resource is None or not self.wants(desk):
                return None
            await self.mailbox.arrival()  # under the shield of the resource; see worker.py
        return items

    def more_items(self) -> tuple[Item, ...] | None:
        """Return what to work on next without leaving the scope; None leaves it."""
        return self.take()

    def take(self) -> tuple[Item, ...] | None:
        """Take what one call of the stage gets; None when there is nothing."""
        return (self.mailbox.take(),) if self.mailbox.ready else None

    async def perform(self, desk: Desk) -> Any:
        """Make one attempt at what *desk* has in hand. Defined by the kind of stage."""
        raise NotImplementedError

    @property
    def must_wait(self) -> bool:
        """Whether there is no room behind the stage."""
        follower = self.follower
        return self.hub.recorder.full or (follower is not None and follower.mailbox.full)

    async def flow(self) -> None:
        """Wait for room behind the stage, and let other tasks run. Nothing can cut this."""
        with trio.CancelScope(shield=True):
            await self.room_behind()

    async def room_behind(self) -> None:
        """Wait for room in the next mailbox and in the recorder."""
        if self.follower is not None:
            await self.follower.mailbox.room()
        await self.hub.recorder.room()
        await trio.lowlevel.checkpoint()

    # -- what becomes of an item ----------------------------------------------------------------

    def settle_all(
        self, desk: Desk, *, returned: bool, value: Any, error: BaseException | None
    ) -> None:
        """Settle what is in hand, and lay it down."""
        for item in desk.items:
            self.settle(desk, item, returned=returned, value=value, error=error)
        desk.end()

    def settle(
        self, desk: Desk, item: Item, *, returned: bool, value: Any, error: BaseException | None
    ) -> None:
        """Decide what becomes of an item after an attempt, and do it."""
        now = trio.current_time()
        if item.number in self._voided:
            self._voided.discard(item.number)
            self.fail(item, _SUPERSEDED, None)
        elif returned and now < desk.deadline:  # decide() would say Done
            self.succeed(item, value, now)
        elif desk.cut_at is not None and self.hub.stop is None and desk.cut_for_another(item):
            item.attempts -= 1  # the deadline of another item in its batch was not its own
            self._try_again(item, now)
        else:
            verdict = self._judge(desk, item, now, error, returned=returned)
            late = None if desk.cut_at is None or desk.abandoned else now - desk.cut_at
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
                self._try_again(item, at)
            case Ended():
                self.fail(item, verdict, error, late)

    def _try_again(self, item: Item, at: float) -> None:
        item.due = at
        self.mailbox.park(item, at)
        if at < self.due:
            self.nudge()

    def succeed(self, item: Item, value: Any, now: float) -> None:
        """Record a result and pass it on, if it can be stored; else the item fails."""
        if value is DROP:
            self.register.outcome(item, Outcome.SKIPPED, None, now)
            self.pass_nothing_on(item, Outcome.SKIPPED)
            return
        try:
            encoded = codec.encode_result(value, self.stage.result_limit)
            onward = self._check(value, encoded)
        except BaseException as error:  # noqa: BLE001 - strange values, and `by` of a collector
            message = _unstorable(self, value, error)
            self.fail(item, Ended(Outcome.FAILED, ItemCause.RESULT, message), error)
            return
        self.register.outcome(item, Outcome.OK, encoded, now)
        self.pass_on(item, onward)

    def _check(self, value: Any, encoded: bytes) -> Any:
        """Return a result as it goes on. Raises when it cannot be read back."""
        if self.follower is not None:
            return self.follower.welcome(value, encoded)
        return value if type(value) in _PLAIN else codec.decode(encoded)

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

    def pass_on(self, item: Item, value: Any) -> None:
        """Hand a result to the next stage."""
        if self.follower is not None:
            item.hand_on(value)
            self.follower.receive(item)

    def pass_nothing_on(self, item: Item, outcome: Outcome) -> None:
        """Let the next stage know that an item has no result; only a collect stage cares."""
        if self.follower is not None:
            self.follower.miss(item, outcome)

    def welcome(self, value: Any, encoded: bytes) -> Any:
        """Return a result as this stage gets it: as the store would give it after a restart."""
        return value if type(value) in self._plain else self._decode(encoded)

    def restore(self, encoded: bytes) -> Any:
        """Return a stored value as this stage gets it."""
        return self._decode(encoded)

    def receive(self, item: Item) -> None:
        """Take over an item from the stage before. A collect stage enlists it instead."""
        self.put(item)

    def miss(self, item: Item, outcome: Outcome) -> None:
        """Hear that an item of the stage before has no result."""

    def next_child(self) -> int:
        """Return the number of the next item that this stage makes."""
        self._children += 1
        return self._children

    def limit_of(self, item: Item, now: float) -> float:
        """Seconds that a repeated attempt may take: its own limit within what is left."""
        own = self.stage.retry.attempt_deadline or math.inf
        spent = now - item.started - item.waited
        left = math.inf if self.stage.deadline is None else self.stage.deadline - spent
        return min(own, left)


def _unstorable(actor: StageActor, value: Any, error: BaseException) -> str:
    follower = "" if actor.follower is None else f", or not given to {actor.follower.stage.name}"
    return (
        f"stage {actor.stage.name} returned a {type(value).__name__} that cannot be stored"
        f"{follower} ({codec.words(error, 300)}): return numbers, text, bytes, lists, dicts,"
        f" dataclasses or attrs classes of at most {actor.stage.result_limit} bytes,"
        " or the place of a file"
    )
