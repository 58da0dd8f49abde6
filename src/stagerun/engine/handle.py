"""The handle of a run, as ``start()`` returns it."""

from collections.abc import AsyncIterator
from typing import Any

from stagerun.engine.ledger import Snapshot
from stagerun.engine.run import RunActor
from stagerun.model.status import Cause, Counts, Ending, Result, Status
from stagerun.store.documents import run_document

__all__ = ["Run"]


class Run:
    """A run of this process. Everything it tells is committed."""

    def __init__(self, actor: RunActor) -> None:
        self._actor = actor

    @property
    def id(self) -> str:
        """The run's identifier: 128 bits, in hexadecimal."""
        return self._actor.hub.id

    @property
    def status(self) -> str:
        """The committed status, for example ``running``."""
        ending = self._snapshot.ending
        return Status.RUNNING.value if ending is None else ending.status.value

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
        return self._actor.hub.ledger.published

    async def wait(self) -> Result:
        """Wait until the generation has ended and return how. Cancelling the wait changes nothing.

        Raises:
            StoreError: The database was lost before the ending could be written.
        """
        await self._actor.done.wait()
        return self._actor.result()

    async def cancel(self, reason: str = "cancelled", *, cause: Cause = Cause.REQUESTED) -> None:
        """Ask the run to stop, and return when the request is on disk; ``wait()`` for its end.

        Args:
            reason: One sentence for people; stages read it as ``ctx.token.reason``.
            cause: Who asks: ``REQUESTED``, or ``SIGNAL`` for a program that was told to.
        """
        if not self._actor.done.is_set():
            self._actor.stop(Ending(Status.CANCELLED, cause, reason))
            await self._actor.hub.recorder.flush(self._actor.hub.ledger)

    def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results so far, in item order."""
        return self._actor.results()

    async def document(self) -> dict[str, Any]:
        """Return the run's document, as ``stagerun show --json`` gives it."""
        return await self._actor.hub.store.ask(run_document(self.id))
