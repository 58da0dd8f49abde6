"""One run: its supervision tree, its life from the first item to its ending, and its handle.

The tree, as it stands while a run is under way::

    ground
    ├── persistence actor            store.run, see store/aio.py
    └── floor
        ├── housekeeping             ticker and recovery, see runtime.py
        ├── run 3f2a…                RunActor.conduct: draining stage after stage
        │   └── the run's nursery
        │       ├── stage fetch      StageActor.serve: deadlines, pauses, batches
        │       └── stage parse      (begun with its first item, ended when it is drained)
        ├── source of run 3f2a…      SourceActor: the user's source, under a scope of its own
        ├── worker of stage fetch    worker.work, under a scope that its stage actor cancels
        └── worker of stage parse    (begun for waiting items, gone when there are none)

User code runs in workers and sources only. What restarts owns something foreign: a resource.
"""

import math
from collections.abc import AsyncIterator
from typing import Any

import trio
from attrs import evolve

from stagerun.engine.desk import Item
from stagerun.engine.hub import Hub
from stagerun.engine.kinds import actor_for
from stagerun.engine.ledger import Post
from stagerun.engine.source import Source, SourceActor
from stagerun.engine.stage import StageActor
from stagerun.engine.unwrap import sole
from stagerun.errors import StoreError
from stagerun.logs import RunLog
from stagerun.model.stage import Kind
from stagerun.model.status import Cause, Counts, Ending, Result, Status
from stagerun.rules.lifecycle import conclude, stage_status
from stagerun.rules.lineage import origin
from stagerun.rules.verdict import Stop
from stagerun.store import codec, questions, writes

__all__ = ["RunActor"]

_MARGIN = 0.5
"""Seconds beyond the grace after which a run's ending is written whatever still runs."""

_VOICE = {Status.SUCCEEDED: RunLog.info, Status.CANCELLED: RunLog.warning}
"""How loudly an ending is said; the others are errors."""
_STOPS = {
    Status.CANCELLED: Stop.REQUESTED,
    Status.TIMED_OUT: Stop.RUN_DEADLINE,
    Status.INTERRUPTED: Stop.SHUTDOWN,
    Status.FAILED: Stop.RUN_FAILED,
}


class RunActor:
    """Conducts one generation of a run."""

    def __init__(self, hub: Hub, source: Source) -> None:
        self.hub = hub
        self.source = source
        self.actors: list[StageActor] = []
        self.begun = False
        """Set when it is conducted, or had ended before."""
        self.done = trio.Event()
        """Set when the ending is committed, or known never to be."""
        self.error: StoreError | None = None
        self._scope = trio.CancelScope(shield=True)
        self._asked: Ending | None = None
        """The ending that a stop asks for. Invariant: set once, the first stop wins."""
        self._asked_at = 0.0
        self._began = 0.0
        self._seconds = 0.0

    @classmethod
    def ended(cls, hub: Hub, source: Source, seconds: float) -> "RunActor":
        """Return the actor of a run that had ended before; it only tells how."""
        actor = cls(hub, source)
        actor.begun, actor._seconds = True, seconds
        actor.done.set()
        return actor

    # -- the life of a run ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def conduct(self) -> None:
        """Work off the source, stage after stage, and write the ending once and for all."""
        self.begun = True
        self._began = trio.current_time()
        hub = self.hub
        hub.epoch = hub.env.wall() - self._began
        hub.log.info("run started: pipeline %s", hub.pipeline.name)
        hub.ledger.listener = self._heard
        remove = hub.token.add_callback(self._token_cancelled())
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    source = self._cast(nursery)
                    try:
                        ending = await self._work(source)
                    except BaseException:
                        self._drop(source)
                        raise
                await self._write_ending(ending)
        except StoreError as error:
            self.error = error  # open_runtime raises it; whoever waits for this run gets it too
        except BaseExceptionGroup as group:
            lost = sole(group)
            if not isinstance(lost, StoreError):
                message = f"a defect of stagerun: {codec.words(lost or group)}"
                with trio.CancelScope(shield=True):
                    await self._write_ending(Ending(Status.FAILED, Cause.INTERNAL, message))
                raise
            self.error = lost
        finally:
            remove()
            self.done.set()

    def _drop(self, source: SourceActor) -> None:
        """Stop all work without a word: the database, or the engine itself, has failed."""
        self.hub.stop = self.hub.stop or Stop.RUN_FAILED
        source.stop()
        for actor in self.actors:
            actor.stop(at_once=True)

    def _cast(self, nursery: trio.Nursery) -> SourceActor:
        """Make the stage actors, each knowing the one behind it, and the source before them."""
        stages = enumerate(self.hub.pipeline.stages)
        self.actors = [actor_for(stage, index, self.hub, nursery) for index, stage in stages]
        for actor, follower in zip(self.actors, self.actors[1:], strict=False):
            actor.follower = follower
        return SourceActor(self.source, self.hub, self.actors[0])

    async def _work(self, source: SourceActor) -> Ending:
        """Feed and drain under the run's deadline; return how the run ends."""
        limit = self.hub.pipeline.deadline
        deadline = math.inf if limit is None else self._began + limit
        with self._scope:
            self._scope.deadline = deadline
            if self._asked is None:
                source.start()
                await source.exhausted()
                for actor in self.actors:
                    await self._drain(actor)
                await self._take_back_grandchildren()
                await self._leave(source)
        if self._asked is None and self._scope.cancelled_caught:
            message = f"the run's deadline of {limit:g} s passed"
            self.stop(Ending(Status.TIMED_OUT, Cause.RUN_DEADLINE, message))
        if self._asked is not None:
            await self._halt(source)
            return self._asked
        return conclude(self.hub.pipeline, self.hub.ledger.published.counts, source.broken)

    async def _leave(self, source: SourceActor) -> None:
        """Let the source close what it has opened for the run."""
        source.over.set()
        with trio.move_on_after(self.hub.pipeline.source_deadline + self.hub.pipeline.grace):
            await source.gone.wait()
        source.abandon()

    async def _drain(self, actor: StageActor) -> None:
        """Wait until nothing is left to do in a stage. A collect stage begins only now."""
        if actor.stage.kind is Kind.COLLECT:
            await self._feed_groups(actor)
        actor.close()
        await actor.drained.wait()
        await self.hub.recorder.flush(self.hub.ledger)
        self._finish_stage(actor, self.hub.ledger.published.counts[actor.index], None)

    async def _feed_groups(self, actor: StageActor) -> None:
        """Make the groups of a collect stage its items: all members are stored by now."""
        hub, index = self.hub, actor.index
        await self._take_back_grandchildren()
        count = await hub.store.ask(questions.group_count(hub.ledger.run, index))
        if not count:
            return
        hub.post(
            Post.GROUPS,
            (index, count, writes.groups(hub.ledger.run, hub.ledger.generation, index, count)),
        )
        await hub.recorder.flush(hub.ledger)
        after = 0
        while page := await hub.store.ask(questions.made_items(hub.ledger.run, index, after)):
            for number, key in page:
                after, group = number, codec.decode(key)
                actor.put(Item(number, group, key=group))
                await actor.mailbox.room()

    async def _take_back_grandchildren(self) -> None:
        """Let nothing count that was made of superseded items, however far behind them it is."""
        hub, stages = self.hub, self.hub.pipeline.stages
        makers = [n for n, stage in enumerate(stages) if stage.kind is Kind.MANY]
        for maker in makers[1:]:
            made = writes.supersede_children(hub.ledger.run, origin(stages, maker), maker + 1)
            hub.post(Post.STATEMENT, made)
        await hub.recorder.flush(hub.ledger)

    # -- stopping -------------------------------------------------------------------------------

    def stop(self, ending: Ending) -> None:
        """Ask the run to end in this way. The first one wins; a finished run does not hear it."""
        if self._asked is not None or self.done.is_set():
            return
        ending = evolve(ending, message=codec.words(ending.message))
        self._asked, self._asked_at = ending, trio.current_time()
        self.hub.stop = _STOPS[ending.status]
        self.hub.log.info("run is asked to stop (%s): %s", ending.cause.value, ending.message)
        ledger = self.hub.ledger
        statement = writes.request_stop(ledger.run, ledger.generation, self.hub.env.now_us())
        self.hub.post(Post.STATEMENT, statement)
        self._scope.cancel(reason=ending.message)
        self.hub.cancel(self.hub.token, ending.message)

    async def _halt(self, source: SourceActor) -> None:
        """Stop the stages: by the token, then by their scopes, then by leaving them behind."""
        assert self._asked is not None  # noqa: S101 - set by stop()
        at_once = self._asked.status in (Status.TIMED_OUT, Status.FAILED)
        forced_at = self._asked_at + (0.0 if at_once else self.hub.pipeline.grace)
        end_at = self._asked_at + self.hub.pipeline.grace + _MARGIN
        source.stop()
        for actor in self.actors:
            actor.stop(at_once=at_once)
        with trio.move_on_at(forced_at):
            await self._all_quiet(source)
        for actor in self.actors:
            actor.stop(at_once=True)
        with trio.move_on_at(end_at):
            await self._all_quiet(source)
        source.abandon()
        for actor in self.actors:
            actor.abandon_all()

    async def _all_quiet(self, source: SourceActor) -> None:
        await source.gone.wait()
        for actor in self.actors:
            await actor.drained.wait()
        while self.hub.survivors:
            await self.hub.calm.wait()

    def _heard(self) -> None:
        """Hear of a commit. One that the fence refused: somebody else has ended this generation."""
        if self.hub.ledger.fenced and self.hub.ledger.published.ending is None:
            message = "its commits are refused: another process has ended it (or see the log)"
            self.stop(Ending(Status.INTERRUPTED, Cause.OWNER_DIED, message))

    def _token_cancelled(self) -> Any:
        """Return the callback for a token that somebody else cancels, in whichever thread."""
        host = trio.lowlevel.current_trio_token()

        def hear() -> None:
            reason = self.hub.token.reason or "cancelled"
            self.stop(Ending(Status.CANCELLED, Cause.TOKEN, reason))

        def callback() -> None:
            if self._asked is not None:
                return
            try:
                host.run_sync_soon(hear)
            except trio.RunFinishedError:
                return

        return callback

    # -- the ending -----------------------------------------------------------------------------

    async def _write_ending(self, ending: Ending) -> None:
        """Write how the generation ends. Once committed it never changes."""
        hub, ledger = self.hub, self.hub.ledger
        await hub.recorder.flush(ledger)
        counts = ledger.published.counts
        for actor in self.actors:
            if not actor.finished:
                self._finish_stage(actor, counts[actor.index], ending)
        now = hub.env.now_us()
        statement = writes.end(
            ledger.run,
            ledger.generation,
            ending,
            now=now,
            stopped_at=None if hub.survivors else now,
            survivors=[str(survivor) for survivor in hub.survivors],
        )
        self._seconds = seconds = trio.current_time() - self._began
        speak = _VOICE.get(ending.status, RunLog.error)
        speak(hub.log, "run %s after %.3f s: %s", ending.status.value, seconds, ending.message)
        hub.post(Post.ENDING, (now, ending, statement))
        await hub.recorder.flush(ledger)

    def _finish_stage(self, actor: StageActor, counts: Counts, ending: Ending | None) -> None:
        actor.finished = True
        actor.register.finish(stage_status(actor.stage, counts, ending), counts)

    def result(self) -> Result:
        """Return how the run ended, from committed data.

        Raises:
            StoreError: The database was lost before the ending could be written.
        """
        if self.error is not None:
            raise self.error
        published = self.hub.ledger.published
        if published.ending is None:
            raise StoreError(
                f"run {self.hub.id} was ended by another process: `stagerun show` has its ending"
            )
        return Result(
            id=self.hub.id,
            pipeline=self.hub.pipeline.name,
            generation=self.hub.ledger.generation,
            ending=published.ending,
            stages=published.counts,
            seconds=self._seconds,
            read=self.results,
        )

    async def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results, in item order."""
        stage = self.hub.pipeline.stages[-1]
        index, after = len(self.hub.pipeline.stages) - 1, 0
        many = stage.kind is Kind.MANY
        place = (self.hub.ledger.run, index, origin(self.hub.pipeline.stages, index))
        while page := await self.hub.store.ask(
            questions.last_results(*place, after, children=many)
        ):
            for number, encoded in page:
                yield codec.decode(encoded)
                after = number
