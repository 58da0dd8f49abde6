"""The runtime: any number of runs beside each other, on one database."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import trio
from attrs import define, field, frozen

from stagerun import logs
from stagerun.engine.admission import Admission, Again, Changed
from stagerun.engine.desk import Desk
from stagerun.engine.env import Env
from stagerun.engine.handle import Run
from stagerun.engine.health import Health
from stagerun.engine.household import Household
from stagerun.engine.hub import Hub, Shared
from stagerun.engine.intake import order_of, refuse
from stagerun.engine.recorder import Recorder
from stagerun.engine.requests import Requests
from stagerun.engine.retention import prune
from stagerun.engine.run import RunActor
from stagerun.engine.token import CancellationToken
from stagerun.errors import RuntimeClosedError, SettingError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Ending, Status
from stagerun.rules.retention import Keep
from stagerun.rules.settings import apply_settings, unknown_settings
from stagerun.store.driver import Store
from stagerun.store.reopening import adoptable, stored_run
from stagerun.store.retention import Prunable

__all__ = ["Runtime", "RuntimeStatistics"]

_SHUT_DOWN = Ending(
    Status.INTERRUPTED, Cause.SHUTDOWN, "the program shut down before the run was done"
)
_LAST_COMMITS = 5.0
"""Seconds beyond the grace that a database which refuses commits may hold up the leaving."""
_NAME_EVERY = 5.0
"""Seconds between two lines that name what keeps the runtime from being left."""


@frozen
class RuntimeStatistics:
    """What a runtime has under way at this moment."""

    runs: int
    in_flight: int
    """Items that a stage works on."""
    survivors: int
    """Cut attempts that have not stopped, also of runs that have ended."""
    survivor_names: tuple[str, ...] = ()
    """What they are, the oldest first."""


@define(eq=False)
class _Birth:
    """How an asked-for run comes to be: an actor, or an error."""

    key: str | None
    over: trio.Event = field(factory=trio.Event)
    actor: RunActor | None = None
    error: BaseException | None = None

    async def outcome(self) -> RunActor:
        """Wait for it, and return the actor or raise the error."""
        await self.over.wait()
        if self.error is not None:
            raise self.error
        assert self.actor is not None  # noqa: S101 - a birth is over with an actor or an error
        return self.actor


class Runtime:
    """Starts runs and knows those under way. Made by ``open_runtime``."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        env: Env,
        floor: trio.Nursery,
        pipelines: Iterable[Pipeline] = (),
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._env = env
        self._floor = floor
        self._shared = Shared()
        self._runs: dict[str, RunActor] = {}
        self._haunted: list[RunActor] = []
        """Runs that have ended while work of theirs had not."""
        self._births: dict[_Birth, None] = {}
        """Runs from their being asked for to their end."""
        self._keyed: dict[str, _Birth] = {}
        """Those of them that were asked for with a key: a second asking waits for the first."""
        self._quiet = trio.lowlevel.ParkingLot()
        self._closing = False
        self._known = {pipeline.name: pipeline for pipeline in pipelines}
        """Pipelines whose runs this runtime takes over when their process has gone."""
        self._refused: set[str] = set()
        """Runs that cannot be taken over, said once."""
        self._household = Household(
            store,
            recorder,
            env,
            floor,
            on_ended=self._stop_all,
            on_look=self._adopt,
            desks=self._desks,
            hubs=self._hubs,
        )
        self._requests = Requests(self._runs, store, recorder, env, self._household.watch)
        self._admission = Admission(
            store,
            recorder,
            env,
            floor,
            runs=self._runs,
            owner=lambda: self._household.owner,
            shared=self._shared,
        )

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
        if self._closing:
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
        birth = self._keyed.get(key) if key is not None else None
        if birth is None:
            birth = self._bear(partial(self._admission.accept, order, token), key)
        actor = await birth.outcome()
        if actor.hub.pipeline.name != pipeline.name:
            name = actor.hub.pipeline.name
            raise UsageError(f"key {key!r} belongs to a run of pipeline {name!r}")
        return Run(actor, self.resume)

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
        if self._closing:
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
        birth = self._bear(partial(self._admission.reopen, stored.id, again, token))
        return Run(await birth.outcome(), self.resume)

    async def prune(
        self, *, runs: int | None = None, days: float | None = None
    ) -> Sequence[Prunable]:
        """Delete ended runs now, beyond the newest *runs* or older than *days*; return them."""
        return await prune(self._store, self._recorder, self._env, Keep(runs, days))

    def health(self) -> Health:
        """Return whether the database takes commits, and if not, why and since when."""
        return self._recorder.health()

    def statistics(self) -> RuntimeStatistics:
        """Return how much is under way now."""
        actors = self._runs.values()
        return RuntimeStatistics(
            runs=len(actors),
            in_flight=sum(sum(actor.hub.ledger.in_flight) for actor in actors),
            survivors=len(self._shared.survivors),
            survivor_names=tuple(str(survivor) for survivor in self._shared.survivors),
        )

    def tree(self) -> str:
        """Draw the supervision tree as it stands now, a task a line."""
        lines = ["runtime", *_branches(self._floor)]
        return "\n".join(lines)

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

    def _hubs(self) -> list[Hub]:
        return [actor.hub for actor in self._runs.values()]

    def _desks(self) -> Iterator[Desk]:
        """Return the workers of all runs, as they stand now."""
        for actor in [*self._runs.values()]:
            for stage in actor.actors:
                yield from stage.desks

    # -- the parts of start() -------------------------------------------------------------------

    def _settled(self, pipeline: Pipeline) -> Pipeline:
        """Return the pipeline with what operators have set; warn of what they may have meant."""
        for warning in unknown_settings(pipeline, self._env.environ):
            logs.RunLog(pipeline=pipeline.name, now=self._env.now_us).warning("%s", warning)
        return apply_settings(pipeline, self._env.environ)

    def _bear(self, make: Callable[[], Awaitable[RunActor]], key: str | None = None) -> "_Birth":
        birth = _Birth(key)
        self._births[birth] = None
        if key is not None:
            self._keyed[key] = birth
        self._floor.start_soon(self._live, make, birth, name="a run is accepted")
        return birth

    @trio.lowlevel.enable_ki_protection
    async def _live(self, make: Callable[[], Awaitable[RunActor]], birth: "_Birth") -> None:
        """Accept a run and conduct it. Whoever asked for it may be gone: it is accepted or not."""
        with trio.CancelScope(shield=True):
            try:
                birth.actor = actor = await make()
                birth.over.set()
                if not actor.begun:
                    trio.lowlevel.current_task().name = f"run {actor.hub.id}"
                    if self._closing:
                        actor.stop(_SHUT_DOWN)
                    await self._conduct(actor)
            except Exception as error:
                if birth.over.is_set():
                    raise  # a defect: it concerns the runtime, not whoever asked for the run
                birth.error = error
            finally:
                birth.over.set()
                del self._births[birth]
                if birth.key is not None:
                    self._keyed.pop(birth.key, None)
                self._quiet.unpark_all()

    # -- beginning and end ----------------------------------------------------------------------

    async def _open(self) -> None:
        await self._household.open()
        self._requests.listen()

    def _stop_all(self, message: str) -> None:
        """Hear that another process has settled the runs of this one."""
        for actor in self._runs.values():
            actor.stop(Ending(Status.INTERRUPTED, Cause.OWNER_DIED, message))

    async def _adopt(self) -> None:
        """Take over the runs of the pipelines known here whose process has gone away."""
        if not self._known or self._closing:
            return
        for identifier in await self._store.ask(adoptable([*self._known])):
            if identifier not in self._runs and identifier not in self._refused:
                self._floor.start_soon(self._take_over, identifier, name="a run is taken over")

    @trio.lowlevel.enable_ki_protection
    async def _take_over(self, identifier: str) -> None:
        """Resume one run for which nobody asked; what cannot go on is said, once."""
        with trio.CancelScope(shield=True):
            try:
                stored = await self._store.ask(stored_run(identifier))
                pipeline = self._settled(self._known[stored.pipeline])
                again = Again(pipeline=pipeline, by_itself=True, joins=True)
                await self._bear(partial(self._admission.reopen, identifier, again, None)).outcome()
            except (UsageError, SettingError, StoreError) as error:
                self._refused.add(identifier)
                log = logs.RunLog(now=self._env.now_us)
                log.warning("run %s is not taken over: %s", identifier, error)

    async def _conduct(self, actor: RunActor) -> None:
        try:
            await actor.conduct()
        finally:
            self._runs.pop(actor.hub.id, None)
            self._haunted = [ended for ended in [*self._haunted, actor] if ended.hub.survivors]

    async def _all_ended(self) -> None:
        while self._births:
            await self._quiet.park()

    async def _shut_down(self) -> None:
        """Interrupt what runs, wait for it, and name what refuses to stop."""
        self._closing = True
        self._household.leave()
        for actor in [*self._runs.values()]:
            actor.stop(_SHUT_DOWN)
        longest = max((a.hub.pipeline.grace for a in self._runs.values()), default=0.0)
        with trio.move_on_after(longest + _LAST_COMMITS):
            await self._all_ended()
        await self._shared.asyncio.close()
        if self._births:  # their work has stopped by now: it is the database that they wait for
            self._store.give_up()
            await self._all_ended()
        try:
            await self._household.close()
        except StoreError:
            return  # it is what open_runtime raises already
        self._floor.start_soon(_name_survivors, self._haunted, name="names what does not stop")


async def _name_survivors(actors: list[RunActor]) -> None:
    """Say every few seconds what keeps the program; ends when nothing does."""
    with trio.CancelScope(shield=True):
        while haunted := [a for a in actors if any(not s.thread for s in a.hub.survivors)]:
            with trio.move_on_after(_NAME_EVERY) as patience:
                await haunted[0].hub.calm.wait()
            if patience.cancelled_caught:
                left = "; ".join(str(s) for a in haunted for s in a.hub.survivors)
                logs.RunLog().error("the runtime cannot be left: %s", left)


def _branches(nursery: trio.Nursery, indent: str = "") -> list[str]:
    lines = []
    for task in sorted(nursery.child_tasks, key=lambda task: task.name):
        lines.append(f"{indent}├── {task.name}")
        for child in task.child_nurseries:
            lines += _branches(child, indent + "│   ")
    return lines
