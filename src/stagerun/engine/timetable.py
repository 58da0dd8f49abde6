"""The timetable: at each slot of a schedule exactly one of the processes that serve it acts.

A slot is decided in one transaction: it makes the run, or says why there is none, and moves the
schedule on to its next slot. Whoever comes second finds that slot gone. So nothing needs to be
elected, and a process that dies before its commit leaves the slot to the others.

No slot waits for the run before it: that ends at its deadline, whatever it does.
"""

import math
import sys
from collections.abc import Awaitable, Callable, Sequence

import trio
from attrs import evolve

from stagerun.engine.admission import Admission, ClaimedError
from stagerun.engine.env import Env
from stagerun.engine.intake import Order, order_of
from stagerun.engine.recorder import Recorder
from stagerun.engine.runs import Runs
from stagerun.errors import RuntimeClosedError, StoreError, UsageError
from stagerun.logs import RunLog
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.rules.scheduling import Due, Fire, Open, Skip, decide, due, next_slot, put_right
from stagerun.store import codec, slots
from stagerun.store import schedules as rows
from stagerun.store.driver import Store
from stagerun.store.schedules import Standing
from stagerun.store.starting import Claim
from stagerun.store.transaction import Unit

__all__ = ["Timetable"]

_LOOK = 1.0
"""Seconds between two looks at most: a machine may have slept, or somebody else asked for a run."""
_LONG = 3_600_000_000
"""Microseconds of missed slots that are counted without a thread."""


class Timetable:
    """Serves schedules as long as the runtime lives.

    Args:
        schedules: Those that are served; their names differ.
        store: Where they stand.
        recorder: What writes the decisions.
        env: The world; its wall clock is what slots are compared with.
        admission: Makes the runs.
        runs: Conducts them.
        owner: The number of the owner that this runtime is.
        settled: Gives a pipeline what operators have set.
        look: Settles what dead processes left.
    """

    def __init__(
        self,
        schedules: Sequence[Schedule],
        store: Store,
        recorder: Recorder,
        env: Env,
        *,
        admission: Admission,
        runs: Runs,
        owner: Callable[[], int],
        settled: Callable[[Pipeline], Pipeline],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._schedules = _by_name(schedules)
        self._store = store
        self._recorder = recorder
        self._env = env
        self._admission = admission
        self._runs = runs
        self._owner = owner
        self._settled = settled
        self._look = look
        self._longest = _LOOK * env.pace
        self._served_as = 0
        self._busy = set[str]()
        """Schedules whose slot is being decided."""
        self._news = trio.Event()
        self._foreign = set[str]()
        """Schedules that another process has declared with other times since."""
        self._scope = trio.CancelScope(shield=True)
        self._nursery: trio.Nursery
        self._looked_at = sys.maxsize
        """When it has last looked at the schedules, on the wall clock; then for the first time."""
        self._settling = trio.Lock()
        self._settled_at = -math.inf

    async def open(self, floor: trio.Nursery) -> None:
        """Declare the schedules, and serve them from now on in the background.

        Raises:
            UsageError: One of them could never be started; says why.
        """
        if not self._schedules:
            return
        for schedule in self._schedules.values():
            settled = self._settled(schedule.pipeline)
            if settled.deadline is None:
                raise UsageError(
                    f"schedule {schedule.name!r}: a setting has switched the deadline of pipeline"
                    f" {settled.name!r} off, and each of its runs must end"
                )
            _order(schedule, settled)
        for schedule in self._schedules.values():
            await self._declare(schedule)
        await self._serve()
        floor.start_soon(self._keep, name="timetable")

    def nudge(self) -> None:
        """Hear that something was asked for: look at once."""
        self._news.set()

    def close(self) -> None:
        """Decide nothing more."""
        self._scope.cancel(reason="the runtime is left")

    @trio.lowlevel.enable_ki_protection
    async def _keep(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                while True:
                    pause = self._longest
                    try:
                        await self._serve()
                        pause = await self._decide_all()
                    except StoreError as error:
                        self._log().warning("schedules are looked at again: %s", error)
                    with trio.move_on_after(pause):
                        await self._news.wait()
                    self._news = trio.Event()

    async def _declare(self, schedule: Schedule) -> None:
        now = self._env.now_us()
        unit = rows.declare(schedule, schedule.after(now), self._owner(), now)
        await self._recorder.write(unit)

    async def _serve(self) -> None:
        """Say that this process serves them; again when it has become another owner."""
        owner = self._owner()
        if owner and owner != self._served_as:
            names = [name for name in self._schedules if name not in self._foreign]
            await self._recorder.write(rows.serve(names, owner))
            self._served_as = owner

    async def _decide_all(self) -> float:
        """Begin to decide what is due; return the seconds until the next look."""
        now, pause = self._env.now_us(), self._longest
        # At first, and whenever the clock on the wall has gone back.
        doubtful, self._looked_at = now < self._looked_at, now
        for at in await self._store.ask(rows.standing([*self._schedules])):
            if at.name in self._busy or not await self._is_ours(at):
                continue
            if at.asked or (not at.paused and (at.next_at is None or at.next_at <= now)):
                self._busy.add(at.name)
                self._nursery.start_soon(self._decide, at, name=f"schedule {at.name}")
            if not at.paused and at.next_at is not None and at.next_at > now:
                pause = min(pause, (at.next_at - now) / 1e6)
                if doubtful:
                    await self._put_right(at, at.next_at, now)
        return pause

    async def _is_ours(self, at: Standing) -> bool:
        """Whether the schedule's times are those that this process knows.

        Whoever has declared it last serves it. When that process has ended, as after a deployment
        that was taken back, the ones that are left declare it again.
        """
        schedule, owner = self._schedules[at.name], self._owner()
        ours = rows.timing(schedule) == at.timing
        if not ours and at.abandoned and owner:
            await self._declare(schedule)
            self.nudge()
        elif not ours and at.name not in self._foreign:
            self._foreign.add(at.name)
            await self._recorder.write(rows.desert(at.name, owner))
            words = "schedule %s: another process has declared other times since; it serves it now"
            self._log().warning(words, at.name)
        elif ours and at.name in self._foreign:
            self._foreign.remove(at.name)
            await self._recorder.write(rows.serve([at.name], owner))
            self._log().warning("schedule %s is served by this process again", at.name)
        return ours

    async def _put_right(self, at: Standing, slot: int, now: int) -> None:
        decided = await self._store.ask(rows.decided_after(at.schedule, now))
        better = put_right(self._schedules[at.name], slot, now, decided)
        if better is not None and await self._recorder.write(slots.move(at, better)) is not None:
            words = "schedule %s: a clock was ahead, or was set back: its next slot is put right"
            self._log().warning(words, at.name)

    # -- one slot -------------------------------------------------------------------------------

    async def _decide(self, at: Standing) -> None:
        """Decide about what was asked for, then about the slot that is due."""
        schedule = self._schedules[at.name]
        try:
            for slot in at.asked:
                await self._decide_asked(schedule, at, slot)
            if at.paused:
                return
            now = self._env.now_us()
            if at.next_at is None:
                decided = await self._store.ask(rows.decided_after(at.schedule, now))
                await self._recorder.write(slots.move(at, next_slot(schedule, now, decided)))
            elif (found := await self._due(schedule, at.next_at, now)) is not None:
                await self._decide_due(schedule, at, found)
        except StoreError as error:
            self._log().warning("schedule %s is looked at again: %s", at.name, error)
        except Exception as error:  # noqa: BLE001 - for one, no thread can be had: next time it may
            self._log().error("schedule %s is looked at again", at.name, exc_info=error)
        finally:
            self._busy.discard(at.name)

    async def _due(self, schedule: Schedule, slot: int, now: int) -> Due | None:
        if now - slot > _LONG and self._env.threads:  # thousands of missed slots take their time
            limiter = trio.CapacityLimiter(1)  # others' hung threads must not take its place
            return await trio.to_thread.run_sync(due, schedule, slot, now, limiter=limiter)
        return due(schedule, slot, now)

    async def _decide_due(self, schedule: Schedule, at: Standing, found: Due) -> None:
        if found.slot in await self._store.ask(rows.decided_after(at.schedule, found.slot - 1)):
            await self._recorder.write(slots.move(at, found.next_at))  # by a clock that was ahead
            return
        run, times = self._env.new_id(), (found.slot, found.missed, found.next_at)
        claim = slots.claim_slot(at, times, run, self._env.now_us())

        def skipped(reason: str) -> Unit:
            return slots.skip_slot(at, times, reason, self._env.now_us())

        if await self._act(schedule, run, claim, skipped) and found.missed:
            words = "schedule %s: nobody was there for %d slots before this one: it stands for them"
            self._log().warning(words, at.name, found.missed)

    async def _decide_asked(self, schedule: Schedule, at: Standing, slot: int) -> None:
        run = self._env.new_id()
        claim = slots.fire_asked(at, slot, run, self._env.now_us())

        def skipped(reason: str) -> Unit:
            return slots.skip_asked(at, slot, reason, self._env.now_us())

        await self._act(schedule, run, claim, skipped)

    async def _act(
        self, schedule: Schedule, run: str, claim: Claim, skipped: Callable[[str], Unit]
    ) -> bool:
        """Start the run that a slot asks for, or store why there is none; False: others did."""
        decision = await self._decision(schedule)
        if isinstance(decision, Skip):
            ours = await self._recorder.write(skipped(decision.reason)) is not None
            if ours:
                self._log().info("schedule %s skips a slot: %s", schedule.name, decision.reason)
            return ours
        reason = f"schedule {schedule.name} has started its next run (cancel_previous)"
        room = slots.make_room(decision.cancel, reason, self._env.now_us())
        try:
            order = _order(schedule, self._settled(schedule.pipeline))
            claim = evolve(claim, body=(*claim.body, *room))
            order = evolve(order, identifier=run, claim=claim)
            await self._runs.born(lambda: self._admission.accept(order, None))
        except (ClaimedError, RuntimeClosedError):
            return False  # another process decides about it, or this one when it is back
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a user's items raise is the slot's own
            self._log().error("schedule %s: %s", schedule.name, codec.words(error))
            # Refused when the run is there: then that tells it.
            await self._recorder.write(skipped(f"it could not be started: {codec.words(error)}"))
        return True

    async def _decision(self, schedule: Schedule) -> Fire | Skip:
        others = await self._store.ask(rows.open_runs(schedule.name))
        if len(others) >= schedule.active:  # they may be those of a process that has died
            await self._settle_dead()
            others = await self._store.ask(rows.open_runs(schedule.name))
        return decide(schedule.overlap, schedule.active, [Open(*other) for other in others])

    async def _settle_dead(self) -> None:
        """Settle what dead processes left, once for all slots of the same moment."""
        async with self._settling:
            if self._env.monotonic() - self._settled_at > _LOOK:
                await self._look()
                self._settled_at = self._env.monotonic()

    def _log(self) -> RunLog:
        return RunLog(now=self._env.now_us)


def _order(schedule: Schedule, pipeline: Pipeline) -> Order:
    return order_of(
        pipeline,
        schedule.items,
        schedule.params,
        {**schedule.labels, "schedule": schedule.name},
        key=None,
        target=None,
        concurrency_key=rows.place(schedule.name),
        concurrency=schedule.active,
    )


def _by_name(schedules: Sequence[Schedule]) -> dict[str, Schedule]:
    found: dict[str, Schedule] = {}
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise UsageError(f"schedules takes schedules, got {schedule!r}")
        if schedule.name in found:
            raise UsageError(f"two schedules are named {schedule.name!r}: which one is meant?")
        found[schedule.name] = schedule
    return found
