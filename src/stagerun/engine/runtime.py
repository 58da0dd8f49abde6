"""The runtime: any number of runs beside each other, on one database."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import trio

from stagerun import logs
from stagerun.engine.admission import Admission, Again, Changed
from stagerun.engine.elsewhere import Elsewhere
from stagerun.engine.env import Env
from stagerun.engine.handle import Run
from stagerun.engine.health import Health
from stagerun.engine.heir import Heir
from stagerun.engine.household import Household
from stagerun.engine.hub import Shared
from stagerun.engine.intake import order_of, refuse
from stagerun.engine.recorder import Recorder
from stagerun.engine.requests import Requests
from stagerun.engine.retention import prune
from stagerun.engine.runs import Runs
from stagerun.engine.statistics import RuntimeStatistics, drawn
from stagerun.engine.token import CancellationToken
from stagerun.engine.triggering import ask_to_pause, ask_to_trigger, ask_to_unpause
from stagerun.errors import RuntimeClosedError, SettingError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.offload.loop import AsyncioLoop
from stagerun.rules.retention import Keep
from stagerun.rules.settings import apply_settings, unknown_settings
from stagerun.store import questions
from stagerun.store.driver import Store
from stagerun.store.reopening import stored_run
from stagerun.store.retention import Prunable
from stagerun.store.schedulelist import schedule_list

if TYPE_CHECKING:
    from stagerun.engine.services import Services
    from stagerun.model.alert import Alerts
    from stagerun.model.schedule import Schedule

__all__ = ["Runtime"]

_LAST_COMMITS = 5.0
"""Seconds beyond the grace that a database which refuses commits may hold up the leaving."""


class Runtime:
    """Starts runs and knows those under way. Made by ``open_runtime``."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        env: Env,
        floor: trio.Nursery,
        *,
        pipelines: Iterable[Pipeline] = (),
        schedules: "Iterable[Schedule]" = (),
        alerts: "Alerts | Iterable[Alerts] | None" = None,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._env = env
        self._floor = floor
        self._shared = Shared(asyncio=AsyncioLoop(env.host_loop))
        self._runs = Runs(floor)
        self._household = Household(
            store,
            recorder,
            env,
            floor,
            on_ended=self._runs.ended_by_others,
            on_look=self._take_over,
            desks=self._runs.desks,
            hubs=self._runs.hubs,
        )
        self._requests = Requests(self._runs.actors, store, recorder, env, self._household.watch)
        self._admission = Admission(
            store,
            recorder,
            env,
            floor,
            runs=self._runs.actors,
            owner=lambda: self._household.owner,
            shared=self._shared,
        )
        self._heir = Heir(store, env, floor, self._runs, self._admission)
        self._services = self._services_for(schedules, alerts)
        beside = () if self._services is None else self._services.pipelines
        self._known = {pipeline.name: pipeline for pipeline in (*beside, *pipelines)}
        self.closed = False
        """Whether all runs have ended and the owner's end is on disk: what is left is work that
        does not stop. Any thread."""

    async def start(
        self,
        pipeline: Pipeline,
        items: Any = None,
        *,
        params: Any = None,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        token: CancellationToken | None = None,
        target: str | None = None,
        concurrency_key: str | None = None,
        concurrency: int = 1,
    ) -> Run:
        """Start a run; when this returns, the run is on disk, and so are items given as a list.

        Args:
            pipeline: What to run.
            items: A list (stored now), an iterator (each item stored when accepted) or a function
                giving an iterable; None: the pipeline's own source.
            params: Anything storable; given to the source and, as ``ctx.params``, to every stage.
            labels: Text to text, for example project and customer; runs can be filtered by them.
            key: Makes repeated starts one: a second call returns the first run.
            token: The host's own token; its cancellation cancels the run.
            target: Where the pipeline can be found again, ``module:name``; for commands.
            concurrency_key: Runs with the same key share places; without a free one the run stays
                ``queued``, for its pipeline's ``deadline`` at most. First come, first served.
            concurrency: How many of them may be under way at once, in all processes together.

        Raises:
            RuntimeClosedError: The runtime is being left.
            SettingError: An environment variable holds a bad value. A run that says so is on disk,
                as ``failed`` with cause ``settings``.
            UsageError: Items, params or labels are not of a kind that can be used.
        """
        if self._runs.closing:
            raise RuntimeClosedError("the runtime is being left and takes no new runs")
        if not isinstance(pipeline, Pipeline):
            raise UsageError(f"start() takes a Pipeline, got {pipeline!r}")
        if token is not None and not isinstance(token, CancellationToken):
            raise UsageError(f"token must be a CancellationToken, got {token!r}")
        try:
            settled = self._settled(pipeline)
        except SettingError as error:
            await refuse(pipeline, error, self._env, self._household.owner, self._recorder)
            raise
        order = order_of(
            settled,
            items,
            params,
            labels or {},
            key=key,
            target=target,
            concurrency_key=concurrency_key,
            concurrency=concurrency,
        )
        actor = await self._runs.born(partial(self._admission.accept, order, token), key)
        if actor.pipeline_name != pipeline.name:
            raise UsageError(f"key {key!r} belongs to a run of pipeline {actor.pipeline_name!r}")
        return Run(actor, self._store, self)

    async def find(self, run: str) -> Run:
        """Return the handle of a run, of this process or any other, under way or ended.

        Args:
            run: The run's identifier, or the beginning of it.

        Raises:
            RuntimeClosedError: The runtime is being left.
            UsageError: There is no such run, or more than one.
        """
        if self._runs.closing:
            raise RuntimeClosedError("the runtime is being left")
        known = await self._store.ask(questions.run_of_id(run))
        if known.id in self._runs.actors:
            return Run(self._runs.actors[known.id], self._store, self)
        seen = self._admission.elsewhere(known, self._known.get(known.pipeline))

        async def make() -> Elsewhere:
            return seen

        return Run(await self._runs.born(make), self._store, self)

    async def resume(
        self,
        run: str,
        pipeline: Pipeline | None = None,
        *,
        failed: bool = False,
        changed: Changed = "refuse",
        items: Any = None,
        token: CancellationToken | None = None,
    ) -> Run:
        """Go on with a run that has ended, in a new generation; only what is not final runs.

        Args:
            run: The run's identifier, or the beginning of it.
            pipeline: Its pipeline; None: the one of its name that this runtime knows.
            failed: Whether failed, timed-out and crashed items run again, too.
            changed: What to do when stages have changed since: ``refuse``, or ``repeat`` from the
                first changed one on.
            items: What gives the items again, if they came from a function that is not the
                pipeline's own source.
            token: The host's own token; its cancellation cancels the run.

        Raises:
            RuntimeClosedError: The runtime is being left.
            UsageError: There is no such run, it has not ended, or it cannot go on so; says why.
        """
        if self._runs.closing:
            raise RuntimeClosedError("the runtime is being left and takes no new runs")
        if changed not in ("refuse", "repeat"):
            raise UsageError(f"changed must be 'refuse' or 'repeat', got {changed!r}")
        await self._household.look()  # a dead process's run is settled first
        stored = await self._store.ask(stored_run(run))
        known = pipeline or self._known.get(stored.pipeline)
        if known is None:
            raise UsageError(
                f"run {stored.id} is of pipeline {stored.pipeline!r}, which this runtime does not"
                " know: give it to resume(), or to open_runtime(pipelines=[...])"
            )
        again = Again(pipeline=self._settled(known), failed=failed, changed=changed, items=items)
        actor = await self._runs.born(partial(self._admission.reopen, stored.id, again, token))
        return Run(actor, self._store, self)

    async def prune(
        self, *, runs: int | None = None, days: float | None = None
    ) -> Sequence[Prunable]:
        """Delete ended runs now, beyond the newest *runs* or older than *days*; return them."""
        return await prune(self._store, self._recorder, self._env, Keep(runs, days))

    def blame_nobody(self) -> None:
        """Hear that somebody ends this program: what is under way is not to blame for its death.

        For handlers of signals. Leaving the runtime says the same.
        """
        self._store.page.blame_nobody()

    def health(self) -> Health:
        """Return whether the database takes commits, and if not, why and since when."""
        return self._recorder.health()

    def statistics(self) -> RuntimeStatistics:
        """Return how much is under way now. Any thread."""
        actors, survivors = [*self._runs.actors.values()], [*self._shared.survivors]
        return RuntimeStatistics(
            runs=len(actors),
            in_flight=sum(sum(actor.hub.ledger.in_flight) for actor in actors),
            survivors=len(survivors),
            survivor_names=tuple(map(str, survivors)),
            loop_lag=self._household.watch.lag,
        )

    @property
    def leaves_within(self) -> float:
        """Seconds that leaving may take at most if stages do not block the event loop."""
        services = 0.0 if self._services is None else self._services.close_within
        return self._runs.longest_grace + _LAST_COMMITS + services

    def tree(self) -> str:
        """Draw the supervision tree as it stands now, a task a line."""
        return drawn("runtime", self._floor)

    async def why(self, run: str) -> dict[str, Any]:
        """Tell why a run of any process stands where it does, or how it ended.

        Raises:
            UsageError: There is no such run.
        """
        return await self._requests.why(run)

    async def cancel(self, run: str, reason: str = "cancelled") -> dict[str, Any]:
        """Ask a run of any process to stop; return, once it is heard, what has become of it.

        Cancelling again, or a run that has ended, changes nothing and tells the same.

        Raises:
            UsageError: There is no such run.
        """
        return await self._requests.cancel(run, reason)

    async def schedules(self) -> list[dict[str, Any]]:
        """Return a document of each schedule in the database, served here or not, by name."""
        return await self._store.ask(schedule_list())

    async def trigger_schedule(self, name: str) -> dict[str, Any]:
        """Have a schedule's run started now, by any process; return what has become of it.

        Its ``overlap`` holds as for any slot; a schedule that is paused can be triggered, too.

        Raises:
            UsageError: There is no such schedule, or no process serves it.
        """
        asked = ask_to_trigger(name, "a program", self._env.now_us, self._nudge)
        return await self._requests.hold(asked)

    async def pause_schedule(self, name: str) -> dict[str, Any]:
        """Let no slot of a schedule come until it is resumed; return its document.

        Raises:
            UsageError: There is no such schedule.
        """
        return await self._requests.hold(ask_to_pause(name, self._env.now_us))

    async def resume_schedule(self, name: str) -> dict[str, Any]:
        """Let slots come again from now on; return the schedule's document.

        Raises:
            UsageError: There is no such schedule.
        """
        return await self._requests.hold(ask_to_unpause(name, self._nudge))

    # -- the parts of start() -------------------------------------------------------------------

    def _settled(self, pipeline: Pipeline) -> Pipeline:
        """Return the pipeline with what operators have set; warn of what they may have meant."""
        for warning in unknown_settings(pipeline, self._env.environ):
            logs.RunLog(pipeline=pipeline.name, now=self._env.now_us).warning("%s", warning)
        return apply_settings(pipeline, self._env.environ)

    async def _take_over(self) -> None:
        """Take over the runs of the pipelines known here whose process has gone away."""
        await self._heir.look(self._ready)

    @cached_property
    def _ready(self) -> dict[str, Pipeline]:
        """The known pipelines with what operators have set. That was read once, so is this."""
        return {name: self._settled(pipeline) for name, pipeline in self._known.items()}

    # -- what runs beside the runs --------------------------------------------------------------

    def _services_for(
        self, schedules: "Iterable[Schedule]", alerts: "Alerts | Iterable[Alerts] | None"
    ) -> "Services | None":
        if not isinstance(schedules, Iterable):
            raise UsageError(f"schedules takes a list of schedules, got {schedules!r}")
        schedules = tuple(schedules)
        if not schedules and alerts is None:
            return None
        from stagerun.engine.services import Services  # noqa: PLC0415 - most programs have none

        return Services(
            schedules,
            alerts,
            self._store,
            self._recorder,
            self._env,
            watch=self._household.watch,
            admission=self._admission,
            runs=self._runs,
            owner=lambda: self._household.owner,
            settled=self._settled,
            look=self._household.look,
        )

    def _nudge(self) -> None:
        """Have what was asked of a schedule done at once, if it is served here."""
        if self._services is not None:
            self._services.nudge()

    # -- beginning and end ----------------------------------------------------------------------

    async def _open(self) -> None:
        await self._household.open()
        self._requests.listen()
        if self._services is not None:
            await self._services.open(self._floor)

    async def _shut_down(self) -> None:
        """Interrupt what runs, wait for it, and name what refuses to stop."""
        self._household.leave()
        if self._services is not None:
            self._services.start_no_more()
        longest = self.leaves_within
        self._runs.close()
        with trio.move_on_after(longest):
            await self._runs.all_ended()
        await self._shared.asyncio.close()
        if self._runs.unborn_or_alive:  # their work has stopped: they wait for the database
            self._store.give_up()
            await self._runs.all_ended()
        if self._services is not None:
            await self._services.close()
        try:
            await self._household.close(_LAST_COMMITS)
        except StoreError:
            return  # it is what open_runtime raises already
        finally:
            self.closed = True
        self._floor.start_soon(self._runs.name_survivors, name="names what does not stop")
