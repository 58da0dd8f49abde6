"""Defects on purpose, planted in each life of a trial: a check that cannot fail shows nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from stagerun.engine import household
from stagerun.engine.recorder import Recorder
from stagerun.store import frontier, writer
from stagerun.store.transaction import Receipt, Transaction, Unit, Writing, _unit

__all__ = ["PLANTS"]


def _answer_early() -> None:
    """A start is answered before its items are on disk."""
    write = Recorder.write

    async def write_later(self: Recorder, unit: Unit) -> Sequence[Any] | None:
        begins = unit.guard is not None and unit.guard.sql.startswith("UPDATE generations")
        if begins and "status = 'queued'" in str(unit.guard):
            self.write_soon(unit)
            return ()
        return await write(self, unit)

    Recorder.write = write_later  # type: ignore[method-assign] # a planted defect


def _tear_commits() -> None:
    """Each statement is on disk by itself."""

    def torn(connection: Writing, transaction: Transaction, **_: Any) -> Receipt:
        return Receipt(tuple(_unit(connection, unit) for unit in transaction.units))

    writer.execute = torn  # type: ignore[attr-defined] # where it is looked up


def _recover_nobody() -> None:
    """What the dead have left is left alone."""

    async def nobody(*_: Any) -> list[Any]:
        return []

    household.recover = nobody  # type: ignore[attr-defined,assignment] # as above


def _repeat_all() -> None:
    """A resume gives out again what has its outcome."""
    frontier._OPEN = "1"


PLANTS: Final[Mapping[str, Callable[[], None]]] = {
    "answers-early": _answer_early,
    "torn-commits": _tear_commits,
    "recovers-nobody": _recover_nobody,
    "repeats-all": _repeat_all,
}
