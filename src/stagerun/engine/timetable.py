"""The timetable: at each slot of a schedule exactly one of the processes that serve it acts.

A slot is decided in one transaction: it makes the run, or says why there is none, and moves the
schedule on to its next slot. Whoever comes second finds that slot gone. So nothing needs to be
elected, and a process that dies before its commit leaves the slot to the others.

No slot waits for the run before it: that ends at its deadline, whatever it does.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

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
        cancel: Cancels a run of any process.
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
        cancel: Callable[[str, str], Awaitable[Any]],
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
        self._cancel = cancel
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
            now = self._env.now_us()
            await self._recorder.write(rows.declare(schedule, schedule.after(now), now))
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

    async def _serve(self) -> None:
        """Say that this process serves them; again when it has become another owner."""
        owner = self._owner()
        if owner and owner != self._served_as:
            await self._recorder.write(rows.serve([*self._schedules], owner))
            self._served_as = owner

    async def _decide_all(self) -> float:
        """Begin to decide what is due; return the seconds until the next look."""
        now, pause = self._env.now_us(), self._longest
        for at in await self._store.ask(rows.standing([*self._schedules])):
            if at.name in self._busy or not self._is_ours(at):
                continue
            if at.asked or (not at.paused and (at.next_at is None or at.next_at <= now)):
                self._busy.add(at.name)
                self._nursery.start_soon(self._decide, at, name=f"schedule {at.name}")
            if not at.paused and at.next_at is not None:
                if at.next_at > now:
                    pause = min(pause, (at.next_at - now) / 1e6)
                await self._put_right(at, now)
        return pause

    def _is_ours(self, at: Standing) -> bool:
        """Whether the schedule's times are still those that this process knows."""
        ours = rows.timing(self._schedules[at.name]) == at.timing
        if not ours and at.name not in self._foreign:
            words = "schedule %s: another process has declared other times since; it serves it now"
            self._log().warning(words, at.name)
        (self._foreign.discard if ours else self._foreign.add)(at.name)
        return ours

    async def _put_right(self, at: Standing, now: int) -> None:
        assert at.next_at is not None  # noqa: S101 - looked at just now
        better = put_right(self._schedules[at.name], at.next_at, now)
        if better is not None and await self._recorder.write(rows.move(at, better)) is not None:
            words = "schedule %s: its next slot was far in the future (was a clock ahead?)"
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
                last = await self._store.ask(rows.last_slot(at.schedule))
                await self._recorder.write(rows.move(at, next_slot(schedule, last, now)))
            elif (found := await self._due(schedule, at.next_at, now)) is not None:
                await self._decide_due(schedule, at, found)
        except StoreError as error:
            self._log().warning("schedule %s is looked at again: %s", at.name, error)
        finally:
            self._busy.discard(at.name)

    async def _due(self, schedule: Schedule, slot: int, now: int) -> Due | None:
        if now - slot > _LONG and self._env.threads:  # thousands of missed slots take their time
            return await trio.to_thread.run_sync(due, schedule, slot, now)
        return due(schedule, slot, now)

    async def _decide_due(self, schedule: Schedule, at: Standing, found: Due) -> None:
        run, times = self._env.new_id(), (found.slot, found.missed, found.next_at)
        claim = rows.claim_slot(at, times, run, self._env.now_us())

        def skipped(reason: str) -> Unit:
            return rows.skip_slot(at, times, reason, self._env.now_us())

        if await self._act(schedule, run, claim, skipped) and found.missed:
            words = "schedule %s: nobody was there for %d slots before this one: it stands for them"
            self._log().warning(words, at.name, found.missed)

    async def _decide_asked(self, schedule: Schedule, at: Standing, slot: int) -> None:
        run = self._env.new_id()
        claim = rows.fire_asked(at, slot, run, self._env.now_us())

        def skipped(reason: str) -> Unit:
            return rows.skip_asked(at, slot, reason, self._env.now_us())

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
        try:
            order = _order(schedule, self._settled(schedule.pipeline))
            order = evolve(order, identifier=run, claim=claim)
            await self._runs.born(lambda: self._admission.accept(order, None))
        except (ClaimedError, RuntimeClosedError):
            return False  # another process decides about it, or this one when it is back
        except UsageError as error:  # an item of a list; the run is there, and tells it as well
            self._log().error("schedule %s: %s", schedule.name, error)
        for other in decision.cancel:
            self._nursery.start_soon(self._make_room, schedule, other, name="makes room")
        return True

    async def _decision(self, schedule: Schedule) -> Fire | Skip:
        others = await self._store.ask(rows.open_runs(schedule.name))
        if len(others) >= schedule.active:  # they may be those of a process that has died
            await self._look()
            others = await self._store.ask(rows.open_runs(schedule.name))
        return decide(schedule.overlap, schedule.active, [Open(*other) for other in others])

    async def _make_room(self, schedule: Schedule, run: str) -> None:
        reason = f"schedule {schedule.name} has started its next run (cancel_previous)"
        try:
            await self._cancel(run, reason)
        except (UsageError, StoreError) as error:  # for one, it has ended and was pruned
            self._log().warning("schedule %s: %s", schedule.name, error)

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
