"""The actor of one stage: a mailbox, workers on demand, and a watch over their deadlines.

The life of one item reads downward: ``put``, ``_take``, ``_lap`` (begin, attempt), ``settle``
(decide), ``succeed`` or ``fail`` (record), ``pass_on``. How an attempt is made differs by kind of
stage and stands in ``kinds.py``; what becomes of it is decided in ``rules/verdict.py``.
"""

import heapq
import math
from collections import deque
from typing import Any

import trio

from stagerun.engine.context import CURRENT
from stagerun.engine.desk import Desk, Item
from stagerun.engine.hub import Hub
from stagerun.engine.ledger import Post
from stagerun.errors import PolicyError
from stagerun.model.outcome import DROP, ItemCause, Outcome
from stagerun.model.stage import Stage
from stagerun.model.status import Cause, Counts
from stagerun.phase import PHASE
from stagerun.rules.verdict import Again, Attempt, Done, Ended, Stop, decide
from stagerun.store import codec, writes

__all__ = ["StageActor"]

_PLAIN = frozenset({int, str, float, bool, bytes, type(None)})
"""Types that the store gives back as they were; other results are handed on as it would."""
_INLINE = 512
"""Bytes of a result that still ride in the item's own row."""
_STREAK = 64
"""Items after which a worker lets the others run, however quick its stage is."""
_LONG = 30.0
"""Seconds after which a stage that is still under way says how it stands."""


class StageActor:
    """One stage of one run. Its tasks: ``serve`` in the run's nursery, workers in the floor's."""

    def __init__(self, stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> None:
        self.stage = stage
        self.index = index
        self.hub = hub
        self.follower: StageActor | None = None
        self.log = hub.log.for_stage(stage.name)
        self.drained = trio.Event()
        """Set when nothing is left to do here, now and later."""
        self.finished_as: str | None = None
        """The status that the stage ended with."""
        self.due = math.inf
        """When ``serve`` looks next. Invariant: <= every deadline of a busy desk, after a nudge."""
        self.first_limit = math.inf if stage.attempt_limit is None else stage.attempt_limit
        self._run_nursery = run_nursery
        self._mailbox: deque[Item] = deque()
        self._parked: list[tuple[float, int, Item]] = []  # a heap: items between two attempts
        self._desks: dict[Desk, None] = {}
        self._voided: set[int] = set()
        self._children = 0
        self._started = 0.0
        self._last_error: str | None = None
        self._closed = False
        self._serving = False
        self._nudge = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._arrivals = trio.lowlevel.ParkingLot()
        self._resource_failures = 0
        self._decode = codec.decoder(stage.value_type)
        self._plain = {t for t in _PLAIN if stage.value_type in (Any, t)}

    # -- the mailbox ----------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Take an item in; whoever puts waits for ``room()`` afterwards."""
        self._mailbox.append(item)
        self.summon()

    def summon(self) -> None:
        """Have a worker look into the mailbox, if one can be had."""
        if self._arrivals:
            self._arrivals.unpark()
        elif len(self._desks) < self.stage.workers:
            self._hire()

    @property
    def full(self) -> bool:
        """Whether to wait for ``room()`` before the next ``put()``."""
        return len(self._mailbox) >= self.stage.buffer

    async def room(self) -> None:
        """Wait until fewer items wait than may wait."""
        while self.full and self.hub.stop is None:
            await self._room.park()

    def close(self) -> None:
        """No more items come; the stage is drained once those that came are settled."""
        self._closed = True
        self._arrivals.unpark_all()
        if self._serving:
            self.nudge()
        else:
            self.drained.set()

    def void(self, number: int) -> None:
        """Let an item count no more: what made it was repeated and gave something else."""
        ended = Ended(Outcome.SKIPPED, ItemCause.SUPERSEDED, "its parent gave something else")
        for item in [item for item in self._mailbox if item.number == number]:
            self._mailbox.remove(item)
            self.fail(item, ended, None)
        for entry in [entry for entry in self._parked if entry[2].number == number]:
            self._parked.remove(entry)
            heapq.heapify(self._parked)
            self.fail(entry[2], ended, None)
        if any(item.number == number for desk in self._desks for item in desk.items):
            self._voided.add(number)

    def watch(self) -> None:
        """Begin to look after deadlines and pauses, if that has not begun."""
        if not self._serving:
            self._serving = True
            self._run_nursery.start_soon(self.serve, name=f"stage {self.stage.name}")

    def _hire(self) -> None:
        self.watch()
        desk = Desk(self)
        self._desks[desk] = None
        self.hub.floor.start_soon(self._work, desk, name=f"worker of stage {self.stage.name}")

    # -- the watch ------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Cut what overruns its deadline, bring back what paused, until the stage is drained."""
        started = self._started = trio.current_time()
        self.log.info("stage %s started", self.stage.name)
        self._post_status("running", started_at=self.hub.env.now_us())
        speak_at = started + _LONG
        while not self._done():
            now = trio.current_time()
            self.hub.epoch = self.hub.env.wall() - now
            if now >= speak_at:
                speak_at = now + _LONG
                self._speak(now - started)
            self.due = min(self._tend(now), speak_at)
            with trio.move_on_at(self.due):
                await self._nudge.wait()
            self._nudge = trio.Event()
        self.drained.set()

    def nudge(self) -> None:
        """Have the watch look again: something is due sooner than it thinks."""
        self._nudge.set()

    def _done(self) -> bool:
        if self.hub.stop is not None:
            return not self._desks
        return self._closed and not (self._mailbox or self._parked or self._desks)

    def _tend(self, now: float) -> float:
        """Do what is due; return when something is due next."""
        due = now + self.first_limit
        for desk in [*self._desks]:
            if not desk.busy:
                continue
            if desk.cut_at is not None:
                give_up_at = desk.cut_at + self.hub.pipeline.grace
                if now >= give_up_at:
                    self._abandon(desk)
                else:
                    due = min(due, give_up_at)
            elif now >= desk.deadline:
                desk.cut(now, "the attempt's deadline has passed")
                due = min(due, now + self.hub.pipeline.grace)
            else:
                due = min(due, desk.deadline)
        while self._parked and self._parked[0][0] <= now:
            self.put(heapq.heappop(self._parked)[2])
        return min(due, self._parked[0][0]) if self._parked else due

    def _abandon(self, desk: Desk) -> None:
        """Give up on work that refuses to stop: settle its items, replace its worker."""
        desk.abandoned = True
        survivor = desk.survivor(thread=False)
        self.log.warning("%s does not stop; it is abandoned and its worker replaced", survivor)
        self.hub.leave_behind(survivor)
        desk.resource = survivor  # the desk's last memory, for the day it returns
        self._settle_all(desk, returned=False, value=None, error=None)
        self._dismiss(desk)

    def _dismiss(self, desk: Desk) -> None:
        del self._desks[desk]
        if self._ready():
            self._hire()
        elif not self._desks:
            self.nudge()

    def _speak(self, seconds: float) -> None:
        oldest = min((d.started for d in self._desks if d.busy), default=None)
        age = 0.0 if oldest is None else trio.current_time() - oldest
        counts = self.hub.ledger.published.counts[self.index]
        self.log.info(
            "stage %s under way for %.0f s: %d of %d settled, %d under way, oldest for %.1f s",
            self.stage.name,
            seconds,
            counts.settled,
            counts.accepted,
            counts.in_flight,
            age,
        )

    # -- stopping -------------------------------------------------------------------------------

    def stop(self, *, at_once: bool) -> None:
        """Begin no more; cut at once what cannot see the token, or everything."""
        self._room.unpark_all()
        self._arrivals.unpark_all()
        for _, _, item in self._parked:
            self._end_between_attempts(item)
        self._parked.clear()
        for desk in self._desks:
            if desk.opening is not None:
                desk.opening.cancel(reason="the run stops")
            if desk.busy and desk.cut_at is None and (at_once or not self.stage.wants_ctx):
                desk.cut(trio.current_time(), "the run stops")
        if self._serving:
            self.nudge()
        else:
            self.drained.set()

    def abandon_all(self) -> None:
        """Leave behind what has not stopped, so that the run can end."""
        for desk in [*self._desks]:
            if desk.busy:
                desk.cut_at = desk.cut_at if desk.cut_at is not None else trio.current_time()
                self._abandon(desk)
            else:
                self._desks.pop(desk)
        self.nudge()

    def _end_between_attempts(self, item: Item) -> None:
        assert self.hub.stop is not None  # noqa: S101 - stop() comes after it is set
        outcome = Outcome.TIMED_OUT if self.hub.stop is Stop.RUN_DEADLINE else Outcome.CANCELLED
        message = "the run stopped while the item waited for its next attempt"
        self.fail(item, Ended(outcome, self.hub.stop.value, message), None)

    # -- workers --------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _work(self, desk: Desk) -> None:
        """One worker. Ctrl-C in the middle of a stage belongs to the program, not to an item."""
        CURRENT.set(desk)
        if self.stage.resource is None:
            await self._carry(desk)
        else:
            while self._wanted(desk) and await self._with_resource(desk):
                pass
        if not desk.abandoned:
            self._dismiss(desk)

    def _wanted(self, desk: Desk) -> bool:
        return (
            not desk.abandoned
            and self.hub.stop is None
            and not (self._closed and not self._mailbox and not self._parked)
        )

    async def _with_resource(self, desk: Desk) -> bool:
        """Open the resource, carry until an attempt is cut, close it; False: give up."""
        assert self.stage.resource is not None  # noqa: S101 - asked by _work
        limit = self.stage.restart.deadline
        state = "open"
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limit) as scope:
                desk.opening = scope
                async with self.stage.resource() as desk.resource:
                    desk.opening, scope.deadline = None, math.inf
                    self._resource_failures = 0
                    state = "use"
                    await self._carry(desk)
                    state = "close"
                    scope.deadline = trio.current_time() + limit
        except Exception as error:
            desk.opening = None
            if state == "use":
                raise  # a defect of the engine: stages cannot raise through _carry
            return state == "close" or await self._opening_failed(error)
        desk.opening = None
        if scope.cancelled_caught and state == "open" and self.hub.stop is None:
            return await self._opening_failed(TimeoutError(f"not open after {limit:g} s"))
        return True

    async def _opening_failed(self, error: Exception) -> bool:
        """Wait before the next try; after too many in a row give the run up."""
        self._resource_failures += 1
        restart = self.stage.restart
        self.log.error(
            "stage %s cannot open its resource (%d. time)",
            self.stage.name,
            self._resource_failures,
            exc_info=error,
        )
        if self._resource_failures >= restart.attempts:
            self.hub.fail(
                Cause.RESOURCE,
                f"stage {self.stage.name} could not open its resource"
                f" {self._resource_failures} times in a row: {codec.words(error)}",
                error,
            )
            return False
        longest = min(restart.cap, restart.base * 2 ** (self._resource_failures - 1))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + longest):
            await self.hub.token.wait()
        return True

    async def _carry(self, desk: Desk) -> None:
        """Carry items until none waits, or, with a resource, until an attempt was cut."""
        while (items := await self._next(desk)) is not None:
            returned, value, error = await self._lap(desk, items)
            # No scope can fire here: what an attempt has left behind is recorded for certain.
            if desk.abandoned:
                self.hub.returned(desk.resource, self.index)
                return
            if desk.busy:
                self._settle_all(desk, returned=returned, value=value, error=error)
                await self._flow()
                if self.stage.resource is not None:
                    return

    async def _next(self, desk: Desk) -> tuple[Item, ...] | None:
        """Return what to work on next; None when the worker may go home."""
        while (items := self._take()) is None:
            if self.stage.resource is None or not self._wanted(desk):
                return None
            with trio.CancelScope(shield=True):
                await self._arrivals.park()
        return items

    def _ready(self) -> bool:
        """Whether a worker would find something to do. Too many pausing items hold up new ones."""
        parked = len(self._parked)
        return bool(self._mailbox) and self.hub.stop is None and parked < self.stage.buffer

    def _take(self) -> tuple[Item, ...] | None:
        if not self._ready():
            return None
        item = self._mailbox.popleft()
        if self._room and len(self._mailbox) <= self.stage.buffer // 2:
            self._room.unpark_all()
        return (item,)

    def _more(self) -> tuple[Item, ...] | None:
        """Return what to work on next without leaving the scope; None leaves it."""
        return self._take()

    async def _lap(
        self, desk: Desk, items: tuple[Item, ...] | None
    ) -> tuple[bool, Any, BaseException | None]:
        """Attempt one item after the other under one long-lived scope, until an attempt is cut.

        What is still in hand afterwards was cut; the return value is how that attempt ended.
        """
        returned, value, error = False, None, None
        streak = 0
        desk.cut_at, desk.bound = None, math.inf
        try:
            with trio.CancelScope(shield=True) as desk.scope:
                while items is not None:
                    desk.begin(items)
                    self.hub.ledger.in_flight[self.index] += len(items)
                    returned, value, error = await self._attempt(desk)
                    if desk.cut_at is not None or desk.scope.cancel_called:
                        break
                    self._settle_all(desk, returned=returned, value=value, error=error)
                    streak += 1
                    if streak >= _STREAK or self._must_wait():
                        streak = 0
                        desk.rest()
                        await self._flow()
                    items = self._more()
        except BaseException as escaped:
            if not desk.scope.cancel_called:
                raise  # a defect of the engine
            returned, value, error = False, None, escaped
        return returned, value, error

    async def _attempt(self, desk: Desk) -> tuple[bool, Any, BaseException | None]:
        """Call the stage once. Whatever it raises is the item's, never the worker's."""
        PHASE.set(None)
        try:
            return True, await self.perform(desk), None
        except BaseException as error:
            if desk.scope.cancel_called:
                raise  # through the scope, which takes its own Cancelled out of it
            return False, None, error

    async def perform(self, desk: Desk) -> Any:
        """Make one attempt at what *desk* has in hand. Defined by the kind of stage."""
        raise NotImplementedError

    def _must_wait(self) -> bool:
        return self.hub.recorder.full or (self.follower is not None and self.follower.full)

    async def _flow(self) -> None:
        """Wait for room behind the stage, and let other tasks run."""
        with trio.CancelScope(shield=True):
            if self.follower is not None and self.follower.full:
                await self.follower.room()
            if self.hub.recorder.full:
                await self.hub.recorder.room()
            await trio.lowlevel.checkpoint()

    # -- what becomes of an item ----------------------------------------------------------------

    def _settle_all(
        self, desk: Desk, *, returned: bool, value: Any, error: BaseException | None
    ) -> None:
        """Settle what is in hand, and lay it down."""
        self.hub.ledger.in_flight[self.index] -= len(desk.items)
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
            superseded = "its parent gave something else while it was under way"
            self.fail(item, Ended(Outcome.SKIPPED, ItemCause.SUPERSEDED, superseded), None)
            return
        if returned and now <= desk.deadline:  # decide() would say Done
            self.succeed(item, value, now)
            return
        attempt = Attempt(
            number=item.attempts,
            first_started=item.started,
            started=desk.started,
            ended=now,
            deadline=desk.deadline,
            cut=desk.cut_at is not None or desk.scope.cancel_called,
            error=error,
            returned=returned,
        )
        match self._judge(attempt):
            case Done():
                self.succeed(item, value, now)
            case Again(at, why):
                self.log.debug("item %d: %s; tried again in %.3f s", item.number, why, at - now)
                heapq.heappush(self._parked, (at, item.number, item))
                if at < self.due:
                    self.nudge()
            case Ended() as ended:
                self.fail(item, ended, error)

    def _judge(self, attempt: Attempt) -> Done | Again | Ended:
        try:
            return decide(attempt, self.stage, self.hub.stop, self.hub.env.jitter())
        except Exception as broken:  # noqa: BLE001 - the user's Retry.on may raise anything
            message = f"Retry.on of stage {self.stage.name} raised {codec.words(broken)}"
            return Ended(Outcome.FAILED, ItemCause.ERROR, message)

    def succeed(self, item: Item, value: Any, now: float) -> None:
        """Record a result and pass it on, if it can be stored; else the item fails."""
        if value is DROP:
            self._record(item, Outcome.SKIPPED, None, now)
            self.pass_nothing_on(item, Outcome.SKIPPED)
            return
        try:
            encoded = codec.encode(value)
            if len(encoded) > self.stage.result_limit:
                raise PolicyError("result_limit", f"is {self.stage.result_limit} bytes")  # noqa: TRY301 - one place says it
            onward = None if self.follower is None else self.follower.welcome(value, encoded)
        except Exception as error:  # noqa: BLE001 - whatever a strange value makes the codec raise
            self.fail(item, _unstorable(self, value, error), error)
            return
        self._record(item, Outcome.OK, encoded, now)
        self.pass_on(item, onward)

    def welcome(self, value: Any, encoded: bytes) -> Any:
        """Return a result as this stage gets it: as the store would give it after a restart."""
        return value if type(value) in self._plain else self._decode(encoded)

    def restore(self, encoded: bytes) -> Any:
        """Return a stored value as this stage gets it."""
        return self._decode(encoded)

    def pass_on(self, item: Item, value: Any) -> None:
        """Hand a result to the next stage."""
        if self.follower is not None:
            item.value, item.attempts, item.key = value, 0, None
            self.follower.receive(item)

    def receive(self, item: Item) -> None:
        """Take over an item from the stage before. A collect stage enlists it instead."""
        self.put(item)

    def pass_nothing_on(self, item: Item, outcome: Outcome) -> None:
        """Let the next stage know that an item has no result; only a collect stage cares."""
        if self.follower is not None:
            self.follower.miss(item, outcome)

    def miss(self, item: Item, outcome: Outcome) -> None:
        """Hear that an item of the stage before has no result."""

    def fail(self, item: Item, ended: Ended, error: BaseException | None) -> None:
        """Record that an item ends here without a result, with its cause and its error."""
        name = None if error is None else f"{type(error).__module__}.{type(error).__qualname__}"
        message = ended.message or codec.words(error)
        phase = PHASE.get() or getattr(error, "phase", None)
        if phase and ended.outcome is Outcome.TIMED_OUT:
            message = f"{message} (HTTP phase: {codec.words(phase)})"
        if ended.outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            self._last_error = name or ended.cause.value
        self._record(item, ended.outcome, None, trio.current_time())
        self.hub.post(
            Post.FAILURE,
            (
                *self._place(item),
                ended.cause.value,
                codec.words(message),
                name,
                None if error is None else codec.detail(error),
                None,
            ),
            len(message),
        )
        speak = (
            self.log.info if ended.outcome.label in ("cancelled", "skipped") else self.log.warning
        )
        speak(
            "item %d %s (%s): %s",
            item.number,
            ended.outcome.label,
            name or ended.cause.value,
            message,
            item=item.number,
        )
        self.pass_nothing_on(item, ended.outcome)

    def _record(self, item: Item, outcome: Outcome, encoded: bytes | None, now: float) -> None:
        """Post the item's one row for this stage and generation."""
        size = 0 if encoded is None else len(encoded)
        if size > _INLINE:
            self.hub.post(Post.RESULT, (*self._place(item), encoded), size)
            encoded, size = None, 0
        hub, ledger, started = self.hub, self.hub.ledger, item.started or now
        hub.recorder.post(
            ledger,
            Post.ITEM,
            (
                ledger.run,
                self.index,
                item.number,
                ledger.generation,
                int(outcome),
                item.attempts,
                int((started + hub.epoch) * 1e6),
                int((now - started) * 1e6),
                encoded,
            ),
            size,
        )

    def _place(self, item: Item) -> tuple[int, int, int, int]:
        return (self.hub.ledger.run, self.index, item.number, self.hub.ledger.generation)

    def limit_of(self, item: Item, now: float) -> float:
        """Seconds that a repeated attempt may take: its own limit within what is left."""
        own = self.stage.retry.attempt_deadline or math.inf
        left = math.inf if self.stage.deadline is None else item.started + self.stage.deadline - now
        return min(own, left)

    def next_child(self) -> int:
        """Return the number of the next item that this stage makes."""
        self._children += 1
        return self._children

    def finish(self, status: str, counts: Counts) -> None:
        """Record and say how the stage ended."""
        self.finished_as = status
        self._post_status(status, finished_at=self.hub.env.now_us())
        if status == "skipped":
            return
        speak = self.log.error if status in ("failed", "timed_out") else self.log.info
        lost = {
            word: getattr(counts, word) for word in ("failed", "timed_out", "cancelled", "crashed")
        }
        speak(
            "stage %s %s after %.3f s: %d of %d ok%s%s",
            self.stage.name,
            status,
            trio.current_time() - self._started,
            counts.ok,
            counts.accepted,
            "".join(f", {number} {word}" for word, number in lost.items() if number),
            f"; last error {self._last_error}"
            if self._last_error and status != "succeeded"
            else "",
        )

    def _post_status(self, status: str, **times: Any) -> None:
        ledger = self.hub.ledger
        statement = writes.stage_status(ledger.run, ledger.generation, self.index, status, **times)
        self.hub.post(Post.STAGE, (self.hub.env.now_us(), self.stage.name, status, statement))


def _unstorable(actor: StageActor, value: Any, error: Exception) -> Ended:
    follower = "" if actor.follower is None else f", or not given to {actor.follower.stage.name}"
    message = (
        f"stage {actor.stage.name} returned a {type(value).__name__} that cannot be stored{follower}"
        f" ({codec.words(error, 300)}): return numbers, text, bytes, lists, dicts, dataclasses or"
        f" attrs classes of at most {actor.stage.result_limit} bytes, or the place of a file"
    )
    return Ended(Outcome.FAILED, ItemCause.RESULT, message)
