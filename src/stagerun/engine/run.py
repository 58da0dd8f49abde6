"""One run: its supervision tree, its life from the first item to its ending, and its handle.

The tree, as it stands while a run is under way::

    ground
    ├── persistence actor            store.run, see store/aio.py
    └── floor
        ├── housekeeping             ticker, recovery, pruning; see household.py
        ├── run 3f2a…                RunActor.conduct: draining stage after stage
        │   └── the run's nursery
        │       ├── stage fetch      StageActor.serve: deadlines, pauses, batches
        │       └── stage parse      (begun with its first item, ended when it is drained)
        ├── source of run 3f2a…      SourceActor: the user's source, under a scope of its own
        ├── worker of stage fetch    worker.work, under a scope that its stage actor cancels
        └── worker of stage parse    (hired for waiting items; two rest when none wait)

User code runs in workers and sources only. What restarts owns something foreign: a resource.
"""

import math
from collections.abc import AsyncIterator
from typing import Any

import trio
from attrs import evolve

from stagerun.engine.crew import Crew
from stagerun.engine.flag import Flag
from stagerun.engine.hub import Hub
from stagerun.engine.ledger import Post, Snapshot
from stagerun.engine.source import Source
from stagerun.engine.tracing import Tracing
from stagerun.engine.turn import Turn, end_in_line, has_turn, take_turn
from stagerun.engine.unwrap import sole
from stagerun.errors import StoreError
from stagerun.logs import RunLog
from stagerun.model.status import Cause, Ending, Result, Status
from stagerun.rules.lifecycle import conclude
from stagerun.rules.verdict import Stop
from stagerun.store import codec, frontier, questions, writes

__all__ = ["RunActor"]

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

    def __init__(self, hub: Hub, source: Source, turn: Turn | None = None) -> None:
        self.hub = hub
        self.source = source
        self.turn = turn
        hub.ledger.queued = turn is not None
        self.crew: Crew | None = None
        """Its source and stages, once it is under way."""
        self.begun = False
        """Set when it is conducted."""
        self.done = Flag()
        """Set when the ending is committed, or known never to be."""
        self.error: StoreError | None = None
        self._scope = trio.CancelScope(shield=True)
        self._asked: Ending | None = None
        """The ending that a stop asks for. Invariant: set once, the first stop wins."""
        self._asked_at = 0.0
        self._stopped = Flag()
        """Set when it is asked to stop."""
        self._line_left = Flag()
        """Set when it waits for its turn no more, if it ever did."""
        self._began = 0.0
        self._seconds = 0.0

    @property
    def id(self) -> str:
        """The run's identifier."""
        return self.hub.id

    @property
    def pipeline_name(self) -> str:
        """The name of its pipeline."""
        return self.hub.pipeline.name

    @property
    def generation(self) -> int:
        """The generation that is conducted."""
        return self.hub.ledger.generation

    @property
    def snapshot(self) -> Snapshot:
        """What is committed."""
        return self.hub.ledger.published

    @property
    def queued(self) -> bool:
        """Whether it waits for its turn."""
        return self.hub.ledger.queued

    # -- the life of a run ----------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def conduct(self) -> None:
        """Wait for the run's turn, work off its source, and write the ending once and for all.

        Under a shield of the caller's.
        """
        self.begun = True
        self._began = trio.current_time()
        hub = self.hub
        hub.epoch = hub.env.wall() - self._began
        hub.ledger.listener = self._heard
        remove = hub.token.add_callback(self._token_cancelled())
        try:
            has_turn_ = self.turn is None or await self._took_turn(self.turn)
            self._line_left.set()
            if has_turn_:
                await self._live()
            if hub.ledger.published.ending is None:
                await self._hear_ending()
        except StoreError as error:
            self.error = error  # open_runtime raises it; whoever waits for this run gets it too
        except BaseExceptionGroup as group:
            lost = sole(group)
            if not isinstance(lost, StoreError):
                message = f"a defect of stagerun: {codec.words(lost or group)}"
                await self._write_ending(Ending(Status.FAILED, Cause.INTERNAL, message))
                raise
            self.error = lost
        finally:
            hub.recorder.live.pop(hub.ledger, None)
            self._line_left.set()
            remove()
            self.done.set()

    async def _live(self) -> None:
        """Work off the source, stage after stage, and write the ending."""
        hub = self.hub
        self._began = trio.current_time()
        hub.epoch = hub.env.wall() - self._began
        limit = hub.pipeline.deadline
        hub.ledger.deadline = math.inf if limit is None else hub.env.monotonic() + limit
        hub.recorder.live[hub.ledger] = None
        again = "" if hub.ledger.generation == 1 else f", generation {hub.ledger.generation}"
        hub.log.info("run started: pipeline %s%s", hub.pipeline.name, again)
        hub.tracing = Tracing.begin(
            hub.context, hub.log, hub.id, hub.pipeline, hub.ledger.generation
        )
        async with trio.open_nursery() as nursery:
            self.crew = crew = Crew(hub, self.source, nursery, postpone=self._postpone)
            try:
                ending = await self._work(crew)
            except BaseException:
                crew.drop()
                raise
        await self._write_ending(ending)

    async def _took_turn(self, turn: Turn) -> bool:
        """Wait in line for as long as a run may last; False when the run has ended there."""
        hub, limit = self.hub, self.hub.pipeline.deadline
        with trio.move_on_at(self.deadline) as patience:
            if await take_turn(hub, turn, self._stopped):
                hub.ledger.queued = False
                return True
        if patience.cancelled_caught:
            message = f"the run waited {limit:g} s for its turn (key {turn.key}): its deadline"
            self.stop(Ending(Status.TIMED_OUT, Cause.RUN_DEADLINE, message))
        if self._asked is not None and not await end_in_line(hub, self._asked):
            # Refused: the place was given in the last moment, or somebody else has ended the run.
            hub.ledger.queued = not await has_turn(hub)
            if not hub.ledger.queued:
                self._note_request()
        return not hub.ledger.queued

    async def _hear_ending(self) -> None:
        """Read how somebody else has ended this generation."""
        ledger = self.hub.ledger
        ending = await self.hub.store.ask(questions.ending_of(ledger.run, ledger.generation))
        ledger.publish(Snapshot(ledger.published.counts, ending=ending))
        if ending is not None:
            how = f"{ending.status.value} ({ending.cause.value}): {ending.message}"
            if ending == self._asked:
                self.hub.log.warning("run ended while it waited for its turn: %s", how)
            else:
                self.hub.log.warning("run was ended by another process: %s", how)

    def _postpone(self, seconds: float) -> None:
        """Move the run's deadline: so long it waited for suspects of other runs."""
        self._began += seconds
        self._scope.deadline += seconds
        self.hub.ledger.deadline = (self.hub.ledger.deadline or math.inf) + seconds

    async def _work(self, crew: Crew) -> Ending:
        """Work under the run's deadline; return how the run ends."""
        with self._scope:
            self._scope.deadline = self.deadline
            if self._asked is None:
                await crew.work()
        if self._asked is None and self._scope.cancelled_caught:
            message = f"the run's deadline of {self.hub.pipeline.deadline:g} s passed"
            self.stop(Ending(Status.TIMED_OUT, Cause.RUN_DEADLINE, message))
        if self._asked is not None:
            at_once = self._asked.status in (Status.TIMED_OUT, Status.FAILED)
            await crew.halt(self._asked_at, at_once=at_once)
            return self._asked
        return conclude(self.hub.pipeline, self.hub.ledger.published.counts, crew.source.broken)

    @property
    def began(self) -> float:
        """When this generation began, on trio's clock."""
        return self._began

    @property
    def deadline(self) -> float:
        """The run's own deadline on trio's clock; inf without one."""
        limit = self.hub.pipeline.deadline
        return math.inf if limit is None else self._began + limit

    @property
    def asked(self) -> tuple[Ending, float] | None:
        """How the run was asked to end, and when; None while it was not."""
        return None if self._asked is None else (self._asked, self._asked_at)

    # -- stopping -------------------------------------------------------------------------------

    def stop(self, ending: Ending) -> None:
        """Ask the run to end in this way. The first one wins; a finished run does not hear it."""
        if self._asked is not None or self.done.is_set():
            return
        ending = evolve(ending, message=codec.words(ending.message))
        self._asked, self._asked_at = ending, trio.current_time()
        self._stopped.set()
        self.hub.stop = _STOPS[ending.status]
        if self.crew is not None:
            self.crew.begin_no_more()
        self.hub.log.info("run is asked to stop (%s): %s", ending.cause.value, ending.message)
        ledger = self.hub.ledger
        if not ledger.queued:
            self._note_request()
        self._scope.cancel(reason=ending.message)
        self.hub.cancel(self.hub.token, ending.message)

    def _note_request(self) -> None:
        """Have it on disk that somebody wants the run to stop: then nobody resumes it by itself."""
        if self._asked is not None and self._asked.status is Status.CANCELLED:
            ledger, now = self.hub.ledger, self.hub.env.now_us()
            request = writes.request_stop(ledger.run, ledger.generation, now)
            self.hub.post(Post.STATEMENT, request)

    async def stop_stored(self) -> None:
        """Wait until a request to stop, or what came of it, is on disk.

        Raises:
            StoreError: The database was lost before that.
        """
        if self.queued:
            await self._line_left.wait()
        if not self.done.is_set():
            await self.hub.recorder.flush(self.hub.ledger)

    def _heard(self) -> None:
        """Hear of a commit. One that the fence refused: somebody else has ended this generation."""
        if self.crew is not None:
            self.crew.heard()
        ledger = self.hub.ledger
        if (ledger.broken or ledger.willed) and ledger.published.ending is not None:
            self.stop(ledger.published.ending)
        elif ledger.fenced and ledger.published.ending is None:
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
        if self.crew is not None and not self.crew.finished:
            await hub.recorder.flush(ledger)
            self.crew.finish(ending)
        self._seconds = seconds = trio.current_time() - self._began
        speak = RunLog.info if ledger.fenced else _VOICE.get(ending.status, RunLog.error)
        speak(hub.log, "run %s after %.3f s: %s", ending.status.value, seconds, ending.message)
        now = hub.env.now_us()  # after that line: a run's last event is its ending
        statement = writes.end(
            ledger.run,
            ledger.generation,
            ending,
            now=now,
            stopped_at=None if hub.survivors else now,
            survivors=[str(survivor) for survivor in hub.survivors],
        )
        hub.post(Post.ENDING, (now, ending, statement))
        await hub.recorder.flush(ledger)
        if hub.tracing is not None:
            hub.tracing.end(ledger.published.ending or ending)

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
        place, after = self.hub.places[-1], 0
        while page := await self.hub.store.ask(frontier.results(place, after)):
            for number, encoded in page:
                yield codec.decode(encoded)
                after = number
