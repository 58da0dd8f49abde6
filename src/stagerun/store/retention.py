"""What is no longer kept: which runs, and how they go, a few rows at a time.

A pruned run disappears in one transaction: its head goes, and so do its key and labels. Its number
stays in ``pruned`` until its rows are gone too; they may be many, and no commit waits behind them.
The run with the highest number is always kept: SQLite would give its number to the next one.
"""

import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from stagerun.store.driver import Question
from stagerun.store.owner import Identity, Liveness, probe
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "Prunable",
    "drop_owners",
    "forget",
    "old_owners",
    "open_identifiers",
    "prunable",
    "remains",
    "remove_stale_files",
    "sweep",
    "swept",
]

_CHUNK = 1_000
"""Rows of one transaction at most."""
_PAGE = 500
_FRESH = 3600.0
"""Seconds for which a file is left alone whatever it looks like: it may be about to be locked."""

_KEYS = {
    "items": "run, stage, item, generation",
    "results": "run, stage, item, generation",
    "failures": "run, stage, item, generation",
    "emissions": "run, stage, item",
    "members": "run, stage, item, generation",
    "keys": "run, stage, key",
    "superseded": "run, stage, item",
    "deaths": "run, stage, item, generation",
    "events": "run, seq",
}
"""The tables with many rows of a run, and their primary keys."""
_HEAD = ("labels", "requests", "stages", "generations")
"""The tables with few."""


@frozen
class Prunable:
    """A run that has ended and need not be kept."""

    run: int
    id: str
    pipeline: str
    status: str
    finished_at: int


def prunable(
    keep: int | None, before: int | None, *, limit: int = _PAGE
) -> Question[Sequence[Prunable]]:
    """Ask for runs beyond the newest *keep*, or that ended *before* (microseconds), oldest first.

    None: without that one. At most *limit*; -1 is all. Runs that have not ended are never there.
    """

    def ask(connection: sqlite3.Connection) -> Sequence[Prunable]:
        rows = connection.execute(
            "SELECT run, id, pipeline, status, finished_at FROM ("
            "  SELECT r.run, r.id, r.pipeline, g.status, g.finished_at,"
            "         row_number() OVER (ORDER BY g.finished_at DESC, r.run DESC) AS place"
            "  FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation"
            "  WHERE g.finished_at IS NOT NULL) e"
            " WHERE (place > ? OR finished_at < ?) AND run < (SELECT max(run) FROM runs)"
            "   AND NOT EXISTS (SELECT 1 FROM generations o"
            "                   WHERE o.run = e.run AND o.finished_at IS NULL)"
            " ORDER BY finished_at, run LIMIT ?",
            (2**62 if keep is None else keep, -1 if before is None else before, limit),
        )
        return [Prunable(*row) for row in rows.fetchall()]

    return ask


def forget(run: int) -> Unit:
    """Return the unit that makes a run disappear. Refused: it is gone already, or lives again."""
    return Unit(
        Statement(
            "DELETE FROM runs WHERE run = ? AND run < (SELECT max(run) FROM runs)"
            " AND NOT EXISTS (SELECT 1 FROM generations g"
            "                 WHERE g.run = runs.run AND g.finished_at IS NULL)",
            (run,),
        ),
        (
            Statement("INSERT INTO pruned VALUES (?)", (run,), expected=1),
            *(
                Statement(f"DELETE FROM {table} WHERE run = ?", (run,))  # noqa: S608 - constants
                for table in _HEAD
            ),
        ),
    )


def remains() -> Question[tuple[int, str | None] | None]:
    """Ask for a pruned run and a table that still has rows of it; None in it: nothing is left."""

    def ask(connection: sqlite3.Connection) -> tuple[int, str | None] | None:
        row = connection.execute("SELECT min(run) FROM pruned").fetchone()
        if row[0] is None:
            return None
        run = int(row[0])
        for table in _KEYS:
            sql = f"SELECT 1 FROM {table} WHERE run = ? LIMIT 1"  # noqa: S608 - a constant
            if connection.execute(sql, (run,)).fetchone() is not None:
                return run, table
        return run, None

    return ask


def sweep(run: int, table: str) -> Unit:
    """Return the unit that deletes some rows of a pruned run."""
    columns = _KEYS[table]
    return Unit(
        Statement("UPDATE pruned SET run = run WHERE run = ?", (run,)),
        (
            Statement(
                f"DELETE FROM {table} WHERE run = ? AND ({columns}) IN"  # noqa: S608 - constants
                f" (SELECT {columns} FROM {table} WHERE run = ? LIMIT {_CHUNK})",
                (run, run),
            ),
        ),
    )


def swept(run: int) -> Unit:
    """Return the unit that notes that nothing of a pruned run is left."""
    return Unit(Statement("DELETE FROM pruned WHERE run = ?", (run,)))


def old_owners(before: int) -> Question[Sequence[int]]:
    """Ask for owners that ended before a moment and of which no kept run knows."""

    def ask(connection: sqlite3.Connection) -> Sequence[int]:
        rows = connection.execute(
            "SELECT owner FROM owners WHERE ended_at < ?"
            " AND owner NOT IN (SELECT owner FROM generations WHERE owner IS NOT NULL)"
            " AND owner NOT IN (SELECT ended_by FROM generations WHERE ended_by IS NOT NULL)"
            " AND owner < (SELECT max(owner) FROM owners) ORDER BY owner LIMIT ?",
            (before, _PAGE),
        )
        return [owner for (owner,) in rows.fetchall()]

    return ask


def drop_owners(numbers: Sequence[int]) -> Unit:
    """Return the unit that deletes these owners' rows, unless one lives."""
    marks = ",".join("?" * len(numbers))
    sql = f"DELETE FROM owners WHERE owner IN ({marks}) AND ended_at IS NOT NULL"  # noqa: S608 - marks
    return Unit(None, (Statement(sql, tuple(numbers)),))


def open_identifiers() -> Question[frozenset[str]]:
    """Ask for the identifiers of the owners that have not ended: their files are theirs."""

    def ask(connection: sqlite3.Connection) -> frozenset[str]:
        rows = connection.execute("SELECT id FROM owners WHERE ended_at IS NULL")
        return frozenset(identifier for (identifier,) in rows.fetchall())

    return ask


def remove_stale_files(folder: Path, open_owners: Collection[str]) -> None:
    """Remove what dead owners left in the owners' folder, but of those not yet settled."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if file.name in open_owners:
            continue
        with suppress(OSError):  # somebody else has removed it, or may alone: nothing is lost
            status = file.lstat()
            fresh = time.time() - status.st_mtime < _FRESH
            identity = Identity(status.st_dev, status.st_ino)
            if not fresh and probe(file, identity) is Liveness.DEAD:
                file.unlink()
