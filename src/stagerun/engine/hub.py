"""What the actors of one run share: its identity, its ledger, and the word that it stops."""

from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import trio
from attrs import define, field

from stagerun.engine.env import Env
from stagerun.engine.flag import Flag
from stagerun.engine.ledger import Ledger, Post
from stagerun.engine.recorder import Recorder
from stagerun.engine.token import CancellationToken
from stagerun.engine.tracing import Tracing
from stagerun.logs import RunLog
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Ending, Status
from stagerun.offload.loop import AsyncioLoop
from stagerun.rules.verdict import Stop
from stagerun.store import codec, writes
from stagerun.store.driver import Store
from stagerun.store.frontier import Place

__all__ = ["Hub", "Shared", "Survivor"]

_SURVIVORS = 64
"""Pieces of work of one runtime that may refuse to stop; the run that adds the last is given up."""
_STEP_LIMIT = 200
"""Characters of a reported step."""


@define(eq=False)
class Survivor:
    """Work that was cut and has not stopped. Its late result is void."""

    stage: str
    item: int | None
    cut_at: float
    thread: bool
    """Whether it is in a daemon thread: such a one keeps no program from ending."""
    what: str | None = None
    """What it is, in words, where it is neither a thread of its own nor a task."""
    ended: bool = False
    left: bool = False

    def __str__(self) -> str:
        what = self.what or ("thread" if self.thread else "task")
        return f"{what} of stage {self.stage}" + (f", item {self.item}" if self.item else "")


@define(eq=False)
class Shared:
    """What the runs of one runtime share."""

    survivors: dict[Survivor, None] = field(factory=dict)
    """Those of all its runs, also of those that have ended."""
    asyncio: AsyncioLoop = field(factory=AsyncioLoop)
    """Where stages in asyncio-only code run."""


@define(eq=False)
class Hub:
    """One run, as its source and its stages see it."""

    id: str
    pipeline: Pipeline
    params: Any
    token: CancellationToken
    ledger: Ledger
    recorder: Recorder
    store: Store
    env: Env
    floor: trio.Nursery
    """Where worker tasks stand: the runtime's nursery, so that none can hold its run."""
    log: RunLog
    on_fail: Callable[[Ending], None]
    quarantine: trio.Lock
    """Of the runtime: held while an item runs that is suspected of killing its process."""
    stop: Stop | None = None
    """Invariant: set once, before any scope is cancelled for it."""
    tracing: Tracing | None = None
    """Its spans, where OpenTelemetry is used."""
    survivors: dict[Survivor, None] = field(factory=dict)
    shared: Shared = field(factory=Shared)
    calm: Flag = field(factory=Flag)
    """Set whenever a survivor has ended."""
    epoch: float = 0.0
    """Wall time minus trio's time, in seconds."""
    context: Context = field(factory=copy_context)
    """The context variables of whoever started the run: what its stages see."""
    places: tuple[Place, ...] = field(init=False)
    """Where the items of each stage stand in the database; the last one: the run's results."""

    @places.default
    def _(self) -> tuple[Place, ...]:
        kinds = [stage.kind for stage in self.pipeline.stages]
        ledger = self.ledger
        return tuple(
            Place.of(ledger.run, ledger.generation, kinds, index) for index in range(len(kinds) + 1)
        )

    def post(self, post: Post, payload: Any, size: int = 0) -> None:
        """Post to the run's ledger."""
        self.recorder.inbox.post(self.ledger, post, payload, size)

    def fail(self, cause: Cause, message: str, error: BaseException | None = None) -> None:
        """End the run as ``failed``: something that it needs is not there."""
        code = None if error is None else codec.error_name(error)
        self.on_fail(Ending(Status.FAILED, cause, codec.words(message), code))

    def cancel(self, token: CancellationToken, why: str) -> None:
        """Cancel a token on the engine's behalf; a callback of the user's that raises is told."""
        try:
            token.cancel(why)
        except BaseException as error:
            self.log.warning("a callback of the cancellation token raised", exc_info=error)

    def report(self, step: str, message: str, done: float | None, total: float | None) -> None:
        """Keep the last report for the run's document. Any thread."""
        texts = (codec.words(step, _STEP_LIMIT), codec.words(message))
        self.ledger.report = (*texts, codec.finite(done), codec.finite(total))
        self.ledger.moved = True
        self.recorder.nudge(self.ledger)

    def leave_behind(self, survivor: Survivor) -> None:
        """Count work that refuses to stop, and give the run up when there is too much of it."""
        self.survivors[survivor] = self.shared.survivors[survivor] = None
        left = len(self.shared.survivors)
        if left >= _SURVIVORS:
            message = f"{left} cut attempts still run; stage {survivor.stage} does not stop"
            self.fail(Cause.SURVIVORS, message)

    def returned(self, survivor: Survivor, stage: int) -> None:
        """Hear that cut work has ended after all, and record how late."""
        self.survivors.pop(survivor, None)
        self.shared.survivors.pop(survivor, None)
        late = trio.current_time() - survivor.cut_at
        self.log.for_stage(survivor.stage).warning(
            "%s ended %.3f s after it was cut; its result is void", survivor, late
        )
        if survivor.item is not None:
            unit = writes.late(
                self.ledger.run, self.ledger.generation, stage, survivor.item, int(late * 1e6)
            )
            self.recorder.write_soon(unit)
        self.calm.set()
        self.calm = Flag()
