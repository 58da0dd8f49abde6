"""Bugs on purpose: who owns what, and who settles what the dead have left."""

import math
from collections.abc import Iterator
from typing import Any

from stagerun.engine import household, overdue
from stagerun.engine.ledger import Ledger
from stagerun.rules import liveness
from stagerun.store import lateness
from stagerun.store.owner import Liveness
from stagerun.store.transaction import Statement, Unit
from stagerun.testing.store import SimulatedStore
from tests.simulation.plants.plant import plant, replaced


@plant("has been dead for")
def nobody_recovers() -> Iterator[None]:
    """A dead process's runs are settled by nobody."""

    async def recover(*_args: Any) -> list[Any]:
        return []

    with replaced(household, "recover", recover):
        yield


@plant("has been dead for")
def recovered_at_start_alone() -> Iterator[None]:
    """They are settled when a process starts, and never while others live."""
    look = household.Household.look

    async def once(self: Any) -> None:
        if not getattr(self, "_looked", False):
            self._looked = True
            await look(self)

    with replaced(household.Household, "look", once):
        yield


@plant("whose process lives")
def the_silent_are_dead() -> Iterator[None]:
    """An owner is taken for dead by the age of its heartbeat, as most schedulers do it."""
    look = SimulatedStore.look

    def by_the_clock(self: Any, identifier: str, identity: Any) -> Liveness:
        (alive_at,) = self._connection.execute(
            "SELECT alive_at FROM owners WHERE id = ?", (identifier,)
        ).fetchone()
        silent = self._machine.wall() * 1e6 - alive_at > 15e6
        return Liveness.DEAD if silent else look(self, identifier, identity)

    with replaced(SimulatedStore, "look", by_the_clock):
        yield


@plant("ended by its deadline, after")
def patience_by_the_wall() -> Iterator[None]:
    """Whether a run is long past its deadline is told at one look, by the clock on the wall."""
    with replaced(liveness.Patience, "over", lambda *_args: True):
        yield


@plant("ended by its deadline, after")
def a_locked_database_counts() -> Iterator[None]:
    """Others' silence counts while nobody can write."""
    with replaced(overdue, "_STUCK", math.inf):
        yield


@plant("beyond its deadline and grace|ended by its deadline, after")
def stored_deadlines_stay() -> Iterator[None]:
    """A deadline stored by the wall is never put right after a sleep or a jump of the clock."""

    def keep(run: int, generation: int, at: int | None, grace: int) -> Unit:
        del at, grace
        return Unit(Statement("SELECT 1 WHERE ? AND ?", (run, generation)))

    with replaced(lateness, "keep_time", keep):
        yield


@plant("begun .* after its run was over")
def the_ended_go_on() -> Iterator[None]:
    """A process that others have ended goes on, whether its runs are told or its beat."""
    deaf = replaced(household.Household, "_ended_by_others", lambda *_: None)
    with replaced(Ledger, "publish", _publish_always), deaf:
        yield


def _publish_always(self: Ledger, snapshot: Any) -> None:
    if snapshot is not None:
        self.published = snapshot
    if self.listener is not None:
        self.listener()
