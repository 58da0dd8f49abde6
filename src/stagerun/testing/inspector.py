"""Looks at the database after every commit, and knows what nobody on the machine can know."""

import sqlite3
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio
from attrs import define, field

from stagerun.store import invariants

if TYPE_CHECKING:
    from stagerun.testing.machine import Machine, Process

__all__ = ["Inspector", "unsound"]

_GENERATIONS: Final = """
    SELECT g.run, g.generation, g.owner, g.status, g.cause, g.percent, g.finished_at, g.ended_by,
           g.message, r.generation, r.events, (SELECT max(seq) FROM events e WHERE e.run = g.run)
    FROM generations g JOIN runs r ON r.run = g.run"""
_SUMS: Final = """
    SELECT run, generation, stage, accepted, ok, failed, timed_out, cancelled, skipped, crashed
    FROM stages"""


class _Generation(NamedTuple):
    """A row of the first of them. From ``run`` to ``message`` it is final once it has ended."""

    run: int
    generation: int
    owner: int | None
    status: str
    cause: str | None
    percent: float | None
    finished_at: int | None
    ended_by: int | None
    message: str | None
    current: int
    events: int
    last_event: int | None

    def __str__(self) -> str:
        return f"run {self.run}, generation {self.generation}"


@define(eq=False)
class Inspector:
    """Checks, at every commit, what stagerun promises of any two states that follow each other.

    - What has ended stays as it is, and ends as itself: never taken from a process that lives.
    - Sums, percentages, generations and the numbers of events never go back.
    - Nobody writes about a run that is another process's, except to end it or to go on with it.
    - In a share of the commits also everything that ``stagerun doctor`` looks for.
    """

    machine: "Machine"
    thorough: float = 0.05
    """The share of commits at which everything is looked at."""
    violations: list[str] = field(factory=list)
    commits: int = 0
    owners: dict[int, object] = field(factory=dict)
    """Which life of a process an owner is, by its number in the database."""
    _generations: dict[tuple[int, int], _Generation] = field(factory=dict)
    _sums: dict[tuple[int, int, int], tuple[int, ...]] = field(factory=dict)

    def composed(self, process: "Process") -> None:
        """See ``Observer.composed``."""

    def called(self, process: "Process", stage: str, value: Any) -> None:
        """See ``Observer.called``."""

    def committed(self, process: "Process", connection: sqlite3.Connection) -> None:
        """Compare with the state before."""
        self.commits += 1
        self._know_owners(connection)
        for row in map(_Generation._make, connection.execute(_GENERATIONS).fetchall()):
            mark = (row.run, row.generation)
            before = self._generations.get(mark)
            if before != row:
                self._compare(process, before, row)
                self._generations[mark] = row
        for run, generation, stage, *sums in connection.execute(_SUMS).fetchall():
            self._compare_sums((run, generation, stage), tuple(sums))
        if self.machine.chance.random() < self.thorough:
            self.look_thoroughly(connection)

    def look_thoroughly(self, connection: sqlite3.Connection) -> None:
        """Ask everything that ``stagerun doctor`` asks."""
        for problem in unsound(connection):
            self.violate(problem)

    def violate(self, what: str) -> None:
        """Note that something is not as promised."""
        self.violations.append(f"at {trio.current_time():.3f} s: {what}")
        self.machine.note(f"VIOLATION: {what}")

    def _know_owners(self, connection: sqlite3.Connection) -> None:
        for owner, inode in connection.execute(
            "SELECT owner, inode FROM owners WHERE ended_at IS NULL"
        ).fetchall():
            holder = self.machine.files.get(inode)
            if holder is not None:
                self.owners[owner] = holder

    def _compare(self, process: "Process", before: _Generation | None, row: _Generation) -> None:
        if (row.last_event or 0) != row.events:
            self.violate(f"{row}: {row.events} events counted, the last is number {row.last_event}")
        if row.status != "succeeded" and row.percent is not None and row.percent >= 100:
            self.violate(f"{row}: {row.percent} percent, but {row.status}")
        if before is None:
            self.machine.note(f"{row}: {row.status}")
            last = self._generations.get((row.run, row.generation - 1))
            if row.generation > 1 and (last is None or last.finished_at is None):
                self.violate(f"{row} begins before the last one has ended")
            return
        if before.current > row.current or before.events > row.events:
            self.violate(f"{row}: the run's generation or its events went back")
        if before.finished_at is not None:
            if before[:9] != row[:9]:
                self.violate(f"{row}: had ended, as {before[3:9]}, and is now {row[3:9]}")
            return
        if (before.percent or 0) > (row.percent or 0):
            self.violate(f"{row}: from {before.percent} back to {row.percent} percent")
        if row.status != before.status:
            detail = "" if row.cause is None else f" ({row.cause}: {row.message})"
            self.machine.note(f"{row}: {row.status}", detail=detail)
        self._compare_authors(process, before, row)

    def _compare_authors(self, process: "Process", before: _Generation, row: _Generation) -> None:
        mine = self.owners.get(before.owner or 0) is process.life
        if row.finished_at is None:
            if not mine and row.owner == before.owner and row.owner is not None:
                self.violate(f"{row}: process {process.number} writes of another one's run")
        elif row.cause == "owner_died":
            if before.owner is not None and self._lives(before.owner):
                self.violate(f"{row}: taken from owner {before.owner}, whose process lives")
        elif not mine and row.cause not in ("run_deadline", "requested"):
            self.violate(f"{row}: ended by owner {row.ended_by}, {row.cause}: another one's")

    def _lives(self, owner: int) -> bool:
        """Whether the owner's process holds its file, and nobody has deleted that."""
        life, lost = self.owners.get(owner), self.machine.lost
        return any(life is each for file, each in self.machine.files.items() if file not in lost)

    def _compare_sums(self, mark: tuple[int, int, int], sums: tuple[int, ...]) -> None:
        before = self._sums.get(mark)
        if before == sums:
            return
        if before is not None and any(b > n for b, n in zip(before, sums, strict=True)):
            self.violate(f"run, generation, stage {mark}: sums went back, {before} to {sums}")
        if sum(sums[1:]) > sums[0]:
            self.violate(f"run, generation, stage {mark}: more outcomes than items, {sums}")
        self._sums[mark] = sums


def unsound(connection: sqlite3.Connection) -> list[str]:
    """Return what contradicts the invariants that ``stagerun doctor`` looks for."""
    return [
        f"{check.name}: {what}"
        for check in invariants.CHECKS
        for _, what in connection.execute(check.sql).fetchall()
    ]
