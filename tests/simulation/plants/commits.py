"""Bugs on purpose: fences, what is told, and what is written."""

import sqlite3
from collections.abc import Iterator
from typing import Any

from stagerun.engine.ledger import Ledger
from stagerun.engine.recorder import Recorder
from stagerun.store import writes
from stagerun.store.transaction import Receipt
from stagerun.testing.store import SimulatedStore
from tests.simulation.plants.plant import plant, replaced


@plant("had ended, as")
def no_fence() -> Iterator[None]:
    """Batches and endings are written whatever has become of the generation meanwhile."""
    unfenced = "run = ? AND generation = ?"
    with replaced(writes, "_RUNNING", unfenced):
        yield


@plant("told .* on disk")
def told_before_the_commit() -> Iterator[None]:
    """What is composed is told at once, before it is on disk."""
    compose = Recorder.compose

    def hasty(self: Any) -> Any:
        transaction = compose(self)
        if transaction is not None:
            for ledger_, snapshot, _ in self._composed[-1].units:
                if ledger_ is not None and snapshot is not None:
                    ledger_.publish(snapshot)
        return transaction

    with replaced(Recorder, "compose", hasty):
        yield


@plant("events are kept|started, and is not on disk|told .* on disk")
def a_refused_commit_is_dropped() -> Iterator[None]:
    """What the database refuses once is not tried again, and nobody hears of it."""
    execute = SimulatedStore._execute

    def once(self: Any, connection: sqlite3.Connection, transaction: Any) -> Any:
        try:
            return execute(self, connection, transaction)
        except sqlite3.OperationalError:
            return Receipt(tuple((0,) for _ in transaction.units))

    with replaced(SimulatedStore, "_execute", once):
        yield


@plant("events counted, the last is")
def gaps_in_the_events() -> Iterator[None]:
    """An event's number is taken twice as often as there are events."""
    event = Ledger._event

    def skipping(self: Any, at: int, kind: str, body: str, **more: Any) -> None:
        event(self, at, kind, body, **more)
        self.events += kind == "progress"

    with replaced(Ledger, "_event", skipping):
        yield


@plant("back to .* percent")
def progress_goes_back() -> Iterator[None]:
    """The percentage is told as it is estimated, also when the estimate falls."""
    take = Ledger._take_progress

    def forgetful(self: Any, now: int, counts: Any) -> None:
        self.highest = None
        take(self, now, counts)

    with replaced(Ledger, "_take_progress", forgetful):
        yield
