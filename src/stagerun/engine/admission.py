"""How runs come to be: accepted anew, found by their key, or opened again for a new generation."""

from collections.abc import Callable
from typing import Any, Literal

import trio
from attrs import define, field, frozen

from stagerun import logs
from stagerun.engine.elsewhere import Elsewhere
from stagerun.engine.env import Env
from stagerun.engine.hub import Hub, Shared
from stagerun.engine.intake import Order, accept
from stagerun.engine.ledger import Ledger
from stagerun.engine.line import Line
from stagerun.engine.recorder import Recorder
from stagerun.engine.run import RunActor
from stagerun.engine.source import Source, source_of
from stagerun.engine.token import CancellationToken
from stagerun.engine.turn import Turn
from stagerun.errors import StoreError, UsageError
from stagerun.model.outcome import Outcome
from stagerun.model.pipeline import Pipeline
from stagerun.model.stage import Kind
from stagerun.model.status import Cause, Counts, Ending, Status
from stagerun.rules.frontier import (
    Floors,
    Opening,
    StageFacts,
    changes,
    first_changed,
    open_stages,
)
from stagerun.rules.progress import MOST_PERCENT
from stagerun.store import codec, frontier, questions
from stagerun.store.driver import Store
from stagerun.store.questions import KnownRun
from stagerun.store.reopening import StoredRun, next_generation, stored_run
from stagerun.store.starting import declared, free_key

__all__ = ["Admission", "Again", "AlreadyOpenError", "Changed", "ClaimedError"]

Changed = Literal["refuse", "repeat"]
"""What a resume does when stages have changed: refuse, or repeat from the first changed one."""

_REGISTERS_WITHIN = 0.1
"""Seconds after which a start is tried again that found this process without an owner's row."""
_TRIES = 100
"""How often. Nobody registers any more once the runtime is being left."""
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


class AlreadyOpenError(UsageError):
    """A generation is under way, here or elsewhere: no other one can be opened."""


class ClaimedError(UsageError):
    """What an order claims for its run does not hold any more, or did not for now."""


@frozen(kw_only=True)
class Again:
    """A run that is asked to go on in a new generation."""

    pipeline: Pipeline
    failed: bool = False
    """Whether ``failed``, ``timed_out`` and ``crashed`` items run again."""
    changed: Changed = "refuse"
    items: Any = None
    """What gives the items again, where neither the store nor the pipeline does."""
    by_itself: bool = False
    """Whether nobody asked for it: it is a recovery, and counted."""
    joins: bool = False
    """Whether it is as good if somebody here was quicker."""


@define(eq=False)
class Admission:
    """Makes the actors of runs. What it returns is on disk."""

    store: Store
    recorder: Recorder
    env: Env
    floor: trio.Nursery
    runs: dict[str, RunActor]
    """Runs under way here, from their admission on."""
    owner: Callable[[], int]
    """The number of the owner that this runtime is."""
    shared: Shared
    _quarantine: trio.Lock = field(init=False, factory=trio.Lock)
    _reopening: trio.Lock = field(init=False, factory=trio.Lock)
    """Held while a generation is opened: whoever comes second finds the run under way."""

    async def accept(self, order: Order, token: CancellationToken | None) -> RunActor | Elsewhere:
        """Store a new run; with a key that was used before, return the first one.

        Raises:
            ClaimedError: What the order claims does not hold; nothing was stored.
            UsageError: An item cannot be stored.
        """
        for _ in range(_TRIES):
            identifier = order.identifier or self.env.new_id()
            accepted = await accept(order, identifier, self.owner(), self.recorder, self.env)
            if accepted is not None:
                break
            if order.claim is not None:
                raise ClaimedError("somebody else was quicker")
            known = None if order.key is None else await self._known(order, token)
            if known is not None:
                return known
            # The run of that key was pruned just now, or never started whole; or this owner has
            # been ended by others.
            await trio.sleep(_REGISTERS_WITHIN)
        else:
            raise StoreError(
                "another process has taken this one for dead, and it is not registered anew: start"
                " the run again"
            )
        number, begun = accepted
        if not begun:  # cancelled while its items were stored
            return self.elsewhere(await self.store.ask(questions.generation_of(number, 1)))
        pipeline, source = order.pipeline, order.source
        ledger = Ledger(
            number, 1, pipeline, [0] * len(pipeline.stages), source_length=source.length
        )
        if source.kind == "stored":
            ledger.accept_stored(source.length or 0)
        hub = self._hub(identifier, ledger, order.params, token)
        return self._admitted(RunActor(hub, source, order.turn))

    def _admitted(self, actor: RunActor) -> RunActor:
        actor.hub.on_fail = actor.stop
        self.runs[actor.hub.id] = actor
        return actor

    async def _known(
        self, order: Order, token: CancellationToken | None
    ) -> RunActor | Elsewhere | None:
        """Return the run that was started with the order's key; None: it is not kept any more."""
        key = order.key
        assert key is not None  # noqa: S101 - only a key makes a start be refused
        known = await self.store.ask(questions.run_of_key(key))
        if known is None or known.pipeline != order.pipeline.name:
            return None if known is None else self.elsewhere(known)
        if known.id in self.runs:
            return self.runs[known.id]
        interrupted = known.ending is not None and known.ending.status is Status.INTERRUPTED
        if interrupted and await self.recorder.write(free_key(key)) is not None:
            return None  # its start was never answered: this one takes its place
        resumes = order.pipeline.on_interrupt == "resume" and not known.cancelled
        if interrupted and resumes:
            again = Again(pipeline=order.pipeline, joins=True)
            try:
                return await self.reopen(known.id, again, token)
            except AlreadyOpenError:
                known = await self.store.ask(questions.run_of_key(key))
        return None if known is None else self.elsewhere(known, order.pipeline)

    def elsewhere(self, known: KnownRun, pipeline: Pipeline | None = None) -> Elsewhere:
        """Return what tells of a run that is not conducted here."""
        return Elsewhere(known, self.store, pipeline)

    async def reopen(
        self, identifier: str, again: Again, token: CancellationToken | None
    ) -> RunActor:
        """Open the next generation of a run that has ended.

        Raises:
            UsageError: It has not ended, another process has opened it, its stages have changed, or
                nothing gives its items again.
        """
        async with self._reopening:
            before = self.runs.get(identifier)
            if before is not None and again.joins and not before.hub.ledger.fenced:
                return before
            stored = await self.store.ask(stored_run(identifier))
            source = _check(stored, again)
            if before is not None:
                await before.done.wait()  # ended by others, and still halting: within its grace
            return self._admitted(await self._reopened(stored, source, again, token))

    async def _reopened(
        self, stored: StoredRun, source: Source, again: Again, token: CancellationToken | None
    ) -> RunActor:
        pipeline, generation = again.pipeline, stored.generation + 1
        openings = await self._openings(stored, again, generation)
        same = not changes(_facts(stored), pipeline.stages)
        percent = None
        if same and stored.ending is not None and stored.percent is not None:
            percent = min(stored.percent, MOST_PERCENT)  # it may have succeeded; now it has not
        now = self.env.now_us()
        deadline = None if pipeline.deadline is None else now + int(pipeline.deadline * 1e6)
        turn = None
        if stored.concurrency_key is not None:
            turn = Turn(stored.concurrency_key, stored.concurrency)
        unit = next_generation(
            stored.run,
            generation,
            owner=self.owner(),
            now=now,
            deadline_at=deadline,
            opened_by=_opened_by(again),
            charge=int(again.by_itself and _died(stored)),
            percent=percent,
            queued=turn is not None,
            stages=[
                _row(pipeline, index, opening.floors, opening.counts)
                for index, opening in enumerate(openings)
            ],
        )
        if await self.recorder.write(unit) is None:
            raise AlreadyOpenError(f"run {stored.id} has been resumed by somebody else just now")
        ledger = Ledger(
            stored.run,
            generation,
            pipeline,
            [0] * len(pipeline.stages),
            source_length=stored.source_length,
        )
        ledger.carry_over([opening.counts for opening in openings], stored.events, percent)
        hub = self._hub(stored.id, ledger, codec.decode(stored.params), token)
        return RunActor(hub, source, turn)

    async def _openings(
        self, stored: StoredRun, again: Again, generation: int
    ) -> tuple[Opening, ...]:
        facts, stages = _facts(stored), again.pipeline.stages
        changed, made = first_changed(facts, stages), 0
        if 0 < changed < len(stages) and stages[changed - 1].kind is Kind.MANY:
            kinds = [stage.kind for stage in stages]
            place = frontier.Place.of(stored.run, stored.generation, kinds, changed)
            made = await self.store.ask(frontier.made(place))
        return open_stages(
            facts,
            stages,
            generation,
            failed=again.failed,
            reread=stored.source == "function",
            made=made,
        )

    def _hub(
        self, identifier: str, ledger: Ledger, params: Any, token: CancellationToken | None
    ) -> Hub:
        def keep(at: int, level: int, stage: str | None, item: Any, text: str) -> None:
            name = _LEVELS.get(level, str(level))
            ledger.lines.append(
                Line(at, name, stage, item if isinstance(item, int) else None, text)
            )
            if not ledger.queued:
                self.recorder.nudge(ledger)

        pipeline = ledger.pipeline
        log = logs.RunLog(pipeline=pipeline.name, run=identifier, sink=keep, now=self.env.now_us)
        return Hub(
            id=identifier,
            pipeline=pipeline,
            params=params,
            token=CancellationToken() if token is None else CancellationToken(token),
            ledger=ledger,
            recorder=self.recorder,
            store=self.store,
            env=self.env,
            floor=self.floor,
            shared=self.shared,
            log=log,
            on_fail=_unreachable,
            quarantine=self._quarantine,
        )


def _check(stored: StoredRun, again: Again) -> Source:
    """Refuse what cannot go on; return where the items of the new generation come from."""
    pipeline = again.pipeline
    if stored.pipeline != pipeline.name:
        raise UsageError(f"run {stored.id} is of pipeline {stored.pipeline!r}, not {pipeline.name}")
    if stored.ending is None:
        raise AlreadyOpenError(f"run {stored.id} has not ended: there is nothing to resume")
    differences = changes(_facts(stored), pipeline.stages)
    if differences and again.changed == "refuse":
        raise UsageError(
            f"the stages of {pipeline.name} have changed since run {stored.id}:"
            f" {'; '.join(differences)}. Resume with changed='repeat' (--changed repeat) to repeat"
            " it from the first changed stage on"
        )
    if stored.ending.status is Status.SUCCEEDED and not again.failed and not differences:
        raise UsageError(
            f"run {stored.id} has succeeded: there is nothing to resume (failed=True or --failed"
            " runs the items again that did not come through)"
        )
    return _source(stored, again)


def _source(stored: StoredRun, again: Again) -> Source:
    accepted = stored.stages[0].counts.accepted
    if stored.source == "none" or (stored.source == "stored" and accepted != stored.source_length):
        raise UsageError(
            f"run {stored.id} has never begun: its items were not stored whole. Start a new one"
        )
    if stored.source != "function":
        if again.items is not None:
            raise UsageError(f"the items of run {stored.id} are stored: give none")
        return Source(stored.source, (), stored.source_length)
    given = again.items
    if given is None and stored.own_source:
        given = again.pipeline.source
    source = None if given is None else source_of(given)
    if source is None or source.kind == "iterator":
        raise UsageError(
            f"the items of run {stored.id} came from a function that is not the pipeline's own"
            " source: give it with items="
        )
    if source.kind == "stored":  # a list in its place can be read again as well
        items = source.items
        return Source("function", lambda: items, None)
    return source


def _facts(stored: StoredRun) -> list[StageFacts]:
    return [
        StageFacts(s.name, s.kind, s.version, Floors(s.since, s.failed_since), s.counts)
        for s in stored.stages
    ]


def _row(pipeline: Pipeline, index: int, floors: Floors, counts: Counts) -> tuple[Any, ...]:
    stage = pipeline.stages[index]
    sums = (getattr(counts, outcome.label) for outcome in Outcome)
    return *declared(stage), floors.since, floors.failed_since, counts.accepted, *sums


def _died(stored: StoredRun) -> bool:
    """Whether a process died at work on it. Shutdowns are somebody's will, and not counted."""
    return stored.begun and stored.ending is not None and stored.ending.cause is Cause.OWNER_DIED


def _opened_by(again: Again) -> str:
    if again.by_itself:
        return "recovery"
    return "resume_failed" if again.failed else "resume"


def _unreachable(_ending: Ending) -> None:
    raise AssertionError("the run's actor takes its place before anything can fail")
