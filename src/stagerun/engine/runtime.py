"""The runtime: any number of runs beside each other, on one database."""

from collections.abc import Mapping
from typing import Any

import trio
from attrs import define, field, frozen

from stagerun import logs
from stagerun.engine.env import Env
from stagerun.engine.handle import Run
from stagerun.engine.household import Household
from stagerun.engine.hub import Hub
from stagerun.engine.intake import Order, accept, order_of, refuse
from stagerun.engine.ledger import Ledger, Line, Snapshot
from stagerun.engine.recorder import Recorder
from stagerun.engine.run import RunActor
from stagerun.engine.token import CancellationToken
from stagerun.errors import RuntimeClosedError, SettingError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Ending, Status
from stagerun.rules.settings import apply_settings, unknown_settings
from stagerun.store import questions
from stagerun.store.driver import Store

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


@define(eq=False)
class _Birth:
    """How an asked-for run comes to be: an actor, or an error."""

    key: str | None
    over: trio.Event = field(factory=trio.Event)
    actor: RunActor | None = None
    error: BaseException | None = None


class Runtime:
    """Starts runs and knows those under way. Made by ``open_runtime``."""

    def __init__(self, store: Store, recorder: Recorder, env: Env, floor: trio.Nursery) -> None:
        self._store = store
        self._recorder = recorder
        self._env = env
        self._floor = floor
        self._runs: dict[str, RunActor] = {}
        self._haunted: list[RunActor] = []
        """Runs that have ended while work of theirs had not."""
        self._births: dict[_Birth, None] = {}
        """Runs from their being asked for to their end."""
        self._keyed: dict[str, _Birth] = {}
        """Those of them that were asked for with a key: a second asking waits for the first."""
        self._quiet = trio.lowlevel.ParkingLot()
        self._closing = False
        self._household = Household(
            store, recorder, env, floor, on_ended=self._stop_all, on_look=self._adopt
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
        order = order_of(settled, items, params, labels or {}, key=key, target=target)
        birth = self._keyed.get(key) if key is not None else None
        if birth is None:
            birth = _Birth(key)
            self._births[birth] = None
            if key is not None:
                self._keyed[key] = birth
            self._floor.start_soon(self._live, order, token, birth, name="a run is accepted")
        await birth.over.wait()
        if birth.error is not None:
            raise birth.error
        assert birth.actor is not None  # noqa: S101 - a birth is over with an actor or an error
        owner_of_key = birth.actor.hub.pipeline.name
        if owner_of_key != pipeline.name:
            raise UsageError(f"key {key!r} belongs to a run of pipeline {owner_of_key!r}")
        return Run(birth.actor)

    def statistics(self) -> RuntimeStatistics:
        """Return how much is under way now."""
        actors = self._runs.values()
        return RuntimeStatistics(
            runs=len(actors),
            in_flight=sum(sum(actor.hub.ledger.in_flight) for actor in actors),
            survivors=sum(len(actor.hub.survivors) for actor in [*actors, *self._haunted]),
        )

    def tree(self) -> str:
        """Draw the supervision tree as it stands now, a task a line."""
        lines = ["runtime", *_branches(self._floor)]
        return "\n".join(lines)

    # -- the parts of start() -------------------------------------------------------------------

    def _settled(self, pipeline: Pipeline) -> Pipeline:
        """Return the pipeline with what operators have set; warn of what they may have meant."""
        for warning in unknown_settings(pipeline, self._env.environ):
            logs.RunLog(pipeline=pipeline.name, now=self._env.now_us).warning("%s", warning)
        return apply_settings(pipeline, self._env.environ)

    @trio.lowlevel.enable_ki_protection
    async def _live(self, order: Order, token: CancellationToken | None, birth: "_Birth") -> None:
        """Accept a run and conduct it. Whoever asked for it may be gone: it is accepted or not."""
        with trio.CancelScope(shield=True):
            try:
                birth.actor = actor = await self._accept(order, token)
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

    async def _accept(self, order: Order, token: CancellationToken | None) -> RunActor:
        identifier = self._env.new_id()
        number = await accept(order, identifier, self._household.owner, self._recorder, self._env)
        if number is None:
            return await self._known(order, token)
        hub = self._hub(identifier=identifier, number=number, order=order, token=token)
        actor = RunActor(hub, order.source)
        hub.on_fail = actor.stop
        self._runs[identifier] = actor
        self._recorder.live[hub.ledger] = None
        return actor

    def _hub(
        self, *, identifier: str, number: int, order: Order, token: CancellationToken | None
    ) -> Hub:
        pipeline, source = order.pipeline, order.source
        ledger = Ledger(
            number, 1, pipeline, [0] * len(pipeline.stages), source_length=source.length
        )
        if source.kind == "stored":
            ledger.accept_stored(source.length or 0)

        def keep(at: int, level: int, stage: str | None, item: Any, text: str) -> None:
            name = _LEVELS.get(level, str(level))
            ledger.lines.append(
                Line(at, name, stage, item if isinstance(item, int) else None, text)
            )
            self._recorder.nudge(ledger)

        log = logs.RunLog(pipeline=pipeline.name, run=identifier, sink=keep, now=self._env.now_us)
        return Hub(
            id=identifier,
            pipeline=pipeline,
            params=order.params,
            token=CancellationToken() if token is None else CancellationToken(token),
            ledger=ledger,
            recorder=self._recorder,
            store=self._store,
            env=self._env,
            floor=self._floor,
            log=log,
            on_fail=_unreachable,
        )

    async def _known(self, order: Order, token: CancellationToken | None) -> RunActor:
        key = order.key
        assert key is not None  # noqa: S101 - only a key makes a start be refused
        known = await self._store.ask(questions.run_of_key(key))
        assert known is not None  # noqa: S101 - runs are not deleted
        if known.pipeline != order.pipeline.name:
            raise UsageError(f"key {key!r} belongs to a run of pipeline {known.pipeline!r}")
        if known.id in self._runs:
            return self._runs[known.id]
        if known.ending is None:
            raise UsageError(
                f"key {key!r} belongs to run {known.id}, which is under way in another process:"
                f" `stagerun watch {known.id}` follows it"
            )
        return self._ended(known, order, token)

    def _ended(
        self, known: questions.KnownRun, order: Order, token: CancellationToken | None
    ) -> RunActor:
        """Return the actor of a run that has ended, for its handle: it tells, and does nothing."""
        hub = self._hub(identifier=known.id, number=known.run, order=order, token=token)
        hub.ledger.generation = known.generation
        hub.ledger.publish(Snapshot(known.counts, ending=known.ending))
        return RunActor.ended(hub, order.source, known.seconds)

    # -- beginning and end ----------------------------------------------------------------------

    async def _open(self) -> None:
        await self._household.open()

    def _stop_all(self, message: str) -> None:
        """Hear that another process has settled the runs of this one."""
        for actor in self._runs.values():
            actor.stop(Ending(Status.INTERRUPTED, Cause.OWNER_DIED, message))

    async def _adopt(self) -> None:
        """Take over what waits for a process that knows its pipeline."""

    async def _conduct(self, actor: RunActor) -> None:
        try:
            await actor.conduct()
        finally:
            self._runs.pop(actor.hub.id, None)
            self._recorder.live.pop(actor.hub.ledger, None)
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


_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


def _branches(nursery: trio.Nursery, indent: str = "") -> list[str]:
    lines = []
    for task in sorted(nursery.child_tasks, key=lambda task: task.name):
        lines.append(f"{indent}├── {task.name}")
        for child in task.child_nurseries:
            lines += _branches(child, indent + "│   ")
    return lines


def _unreachable(_ending: Ending) -> None:
    raise AssertionError("the run's actor takes its place before anything can fail")
