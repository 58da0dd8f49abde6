"""A run that this runtime does not conduct: it is another process's, or has ended before."""

from collections.abc import AsyncIterator
from typing import Any

import trio

from stagerun.engine.ledger import Snapshot
from stagerun.errors import RuntimeClosedError, StagerunError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Result, Status
from stagerun.store import codec, frontier, questions
from stagerun.store.driver import Store
from stagerun.store.frontier import Place
from stagerun.store.questions import KnownRun

__all__ = ["Elsewhere"]

_LOOK = 0.25
"""Seconds between two looks at how it stands."""


class Elsewhere:
    """One generation of such a run, as the database tells it."""

    def __init__(self, known: KnownRun, store: Store, pipeline: Pipeline | None) -> None:
        self.id = known.id
        self.pipeline_name = known.pipeline
        self.declared = pipeline
        """Its pipeline, if this program has it."""
        self.generation = known.generation
        self.done = trio.Event()
        self.queued = False
        self.snapshot: Snapshot
        self._run = known.run
        self._kinds = known.kinds
        self._seconds = 0.0
        self._store = store
        self._error: StagerunError | None = None
        self._scope = trio.CancelScope(shield=True)
        self._hear(known)

    def _hear(self, known: KnownRun) -> None:
        self.queued = known.status is Status.QUEUED
        self._seconds = known.seconds
        self.snapshot = Snapshot(known.counts, known.percent, known.source_length, known.ending)
        if known.ending is not None:
            self.done.set()

    async def follow(self) -> None:
        """Look at it again and again until it has ended, or the runtime is left."""
        question = questions.generation_of(self._run, self.generation)
        with self._scope:
            while not self.done.is_set():
                await trio.sleep(_LOOK)
                try:
                    self._hear(await self._store.ask(question))
                except StoreError as error:
                    self._error = error  # it may pass; whoever waits hears of it in the end
                except UsageError as error:
                    self._error = error
                    break
        if not self.done.is_set():
            self._error = self._error or RuntimeClosedError(
                f"the runtime was left before run {self.id} of another process had ended"
            )
            self.done.set()

    def let_go(self) -> None:
        """Follow it no longer: the runtime is left, the run goes on where it is."""
        self._scope.cancel(reason="the runtime is left")

    def result(self) -> Result:
        """Return how the generation ended.

        Raises:
            RuntimeClosedError: This runtime was left before that.
            StoreError: The database could not be read any more.
        """
        if self.snapshot.ending is None:
            assert self._error is not None  # noqa: S101 - it is done with an ending or an error
            raise self._error
        return Result(
            id=self.id,
            pipeline=self.pipeline_name,
            generation=self.generation,
            ending=self.snapshot.ending,
            stages=self.snapshot.counts,
            seconds=self._seconds,
            read=self.results,
        )

    async def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results so far, in item order."""
        place, after = Place.of(self._run, self.generation, self._kinds, len(self._kinds)), 0
        while page := await self._store.ask(frontier.results(place, after)):
            for number, encoded in page:
                yield codec.decode(encoded)
                after = number
