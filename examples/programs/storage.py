"""The service's own database: finished programs, and the table of jobs that it once had."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

TABLES = """
CREATE TABLE IF NOT EXISTS programs (id TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS adopted_jobs (job TEXT PRIMARY KEY, run TEXT NOT NULL);
"""


@frozen
class OldJob:
    """A row of the old table that says `in_progress`."""

    id: str
    request: str


def database() -> Path:
    return Path(os.environ.get("PROGRAMS_DB", "programs.db"))


def save(identifier: str, document: str) -> None:
    """Store a finished program. To do it again changes nothing."""
    with _transaction(database()) as connection:
        connection.execute(
            "INSERT INTO programs VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET document = excluded.document",
            (identifier, document),
        )


def load(identifier: str) -> str | None:
    """Return a finished program as JSON."""
    with _transaction(database()) as connection:
        query = "SELECT document FROM programs WHERE id = ?"
        row = connection.execute(query, (identifier,)).fetchone()
    return None if row is None else str(row[0])


def zombies(old: Path) -> list[OldJob]:
    """Return the jobs that the old table calls `in_progress`, the oldest first.

    Raises:
        ValueError: There is no such file.
        sqlite3.Error: It is no database, or has no such table.
    """
    if not old.is_file():
        raise ValueError("there is no such file")
    query = (
        "SELECT id, request FROM program_generation_jobs WHERE status = 'in_progress'"
        " ORDER BY created_at, id"
    )
    with _transaction(old, tables="") as connection:
        return [OldJob(*row) for row in connection.execute(query)]


def settle(old: Path, job: str, reason: str, run: str | None) -> None:
    """End a job of the old table with a reason, and note the run that goes on with it."""
    with _transaction(old) as connection:
        connection.execute(
            "UPDATE program_generation_jobs SET status = 'failed', error = ?"
            " WHERE id = ? AND status = 'in_progress'",
            (reason, job),
        )
        if run is not None:
            connection.execute("INSERT OR IGNORE INTO adopted_jobs VALUES (?, ?)", (job, run))


def successor(job: str) -> str | None:
    """Return the run that goes on with a job of the old table."""
    with _transaction(database()) as connection:
        row = connection.execute("SELECT run FROM adopted_jobs WHERE job = ?", (job,)).fetchone()
    return None if row is None else str(row[0])


@contextmanager
def _transaction(path: Path, tables: str = TABLES) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=15)
    try:
        connection.executescript(tables)
        with connection:
            yield connection
    finally:
        connection.close()
