"""The handle of a run, as ``start()`` returns it."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from stagerun.engine.elsewhere import Elsewhere
from stagerun.engine.ledger import Snapshot
from stagerun.engine.run import RunActor
from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Cause, Counts, Ending, Result, Status
from stagerun.store.documents import run_document
from stagerun.store.driver import Store

__all__ = ["Run"]


class _Host(Protocol):
    """The runtime, as the handle of a run needs it."""

    async def cancel(self, run: str, reason: str) -> dict[str, Any]: ...

    async def why(self, run: str) -> dict[str, Any]: ...

    async def resume(
        self, run: str, pipeline: Pipeline | None, *, failed: bool, items: Any
    ) -> "Run": ...


class Run:
    """One generation of a run, of this process or another. Everything it tells is committed."""

    def __init__(self, actor: RunActor | Elsewhere, store: Store, host: _Host) -> None:
        self._actor = actor
        self._store = store
        self._host = host

    @property
    def id(self) -> str:
        """The run's identifier: 128 bits, in hexadecimal."""
        return self._actor.id

    @property
    def status(self) -> str:
        """The committed status, for example ``running``."""
        ending = self._snapshot.ending
        if ending is None:
            return Status.QUEUED.value if self._actor.queued else Status.RUNNING.value
        return ending.status.value

    @property
    def generation(self) -> int:
        """Which generation of the run this is, from 1. A resume opens the next one."""
        return self._actor.generation

    @property
    def percent(self) -> float | None:
        """Percent done, from 0 to 100; None while the source's length is unknown."""
        snapshot = self._snapshot
        done = snapshot.ending is not None and snapshot.ending.status is Status.SUCCEEDED
        return 100.0 if done else snapshot.percent

    @property
    def counts(self) -> tuple[Counts, ...]:
        """The committed sums of every stage."""
        return self._snapshot.counts

    @property
    def source_length(self) -> int | None:
        """How many items the source has; None while that is unknown."""
        return self._snapshot.source_length

    @property
    def _snapshot(self) -> Snapshot:
        return self._actor.snapshot

    async def wait(self) -> Result:
        """Wait until the generation has ended and return how. Cancelling the wait changes nothing.

        Raises:
            StoreError: The database was lost before the ending could be written.
            RuntimeClosedError: The run is another process's, and the runtime was left before.
        """
        await self._actor.done.wait()
        return self._actor.result()

    async def cancel(self, reason: str = "cancelled", *, cause: Cause = Cause.REQUESTED) -> None:
        """Ask the run to stop, and return when the request is on disk; ``wait()`` for its end.

        Args:
            reason: One sentence for people; stages read it as ``ctx.token.reason``.
            cause: Who asks: ``REQUESTED``, or ``SIGNAL`` for a program that was told to.
        """
        actor = self._actor
        if actor.done.is_set():
            return
        if isinstance(actor, Elsewhere):
            await self._host.cancel(actor.id, reason)
            return
        actor.stop(Ending(Status.CANCELLED, cause, reason))
        await actor.stop_stored()

    async def why(self) -> dict[str, Any]:
        """Tell why the run stands where it does: what it waits for, and what will end the wait."""
        return await self._host.why(self.id)

    async def resume(self, *, failed: bool = False) -> "Run":
        """Go on with the run in a new generation, once this one has ended.

        What has a final outcome is not run again; with *failed* also what failed, timed out or
        crashed is.

        Raises:
            UsageError: It has not ended, or there is nothing to resume.
        """
        actor, items = self._actor, None
        if isinstance(actor, Elsewhere):
            pipeline = actor.declared
        else:
            pipeline = actor.hub.pipeline
            items = actor.source.items if actor.source.kind == "function" else None
        return await self._host.resume(self.id, pipeline, failed=failed, items=items)

    def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results so far, in item order."""
        return self._actor.results()

    async def document(self) -> dict[str, Any]:
        """Return the run's document, as ``stagerun show --json`` gives it."""
        return await self._store.ask(run_document(self.id))
