"""What others do with the file of a crowd: they read it, lock it, write to it, copy it."""

import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stagerun import StoreError
from stagerun.store.opening import read_only
from tests.campaign.told import Say, reading

__all__ = ["commit_back_to_back", "copy", "hold_lock", "observe", "save", "vacuum"]


def observe(path: Path, say: Say) -> None:
    """Read the file until SIGTERM, as a dashboard does, and say what changes."""
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    known: dict[str, str | None] = {}
    while not leave.is_set():
        try:
            with closing(read_only(path)) as connection, reading(path, say, every=0.02):
                while not leave.wait(0.02):
                    _look_at_owners(connection, known, say)
        except (StoreError, sqlite3.Error):
            leave.wait(0.02)  # nobody has made it yet


def _look_at_owners(connection: sqlite3.Connection, known: dict[str, str | None], say: Say) -> None:
    for owner, pid, cause in connection.execute("SELECT id, pid, ended_cause FROM owners"):
        if cause != known.get(owner, ""):
            known[owner] = cause
            say(["owner", owner, pid, cause, time.monotonic()])
    for line, most, count in connection.execute(
        "SELECT r.concurrency_key, max(r.concurrency), count(*) FROM generations g"
        " JOIN runs r USING (run, generation) WHERE g.status = 'running'"
        " AND r.concurrency_key IS NOT NULL GROUP BY 1 HAVING count(*) > max(r.concurrency)"
    ):
        say(["too many", line, most, count])


def hold_lock(path: Path, seconds: float, say: Say) -> None:
    """Hold the write lock, as a forgotten program does."""
    with _foreign(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        since = time.monotonic()
        say(["locked", since])
        time.sleep(seconds)
        connection.execute("ROLLBACK")
        say(["unlocked", since, time.monotonic()])


def commit_back_to_back(path: Path, seconds: float, say: Say) -> None:
    """Commit without a pause for so long."""
    until, count = time.monotonic() + seconds, 0
    with _foreign(path) as connection:
        while time.monotonic() < until:
            connection.execute("UPDATE schema_steps SET applied_at = applied_at + 1")
            count += 1
    say(["count", "foreign commits", count])


def vacuum(path: Path, say: Say) -> None:
    """Have SQLite write the file anew, which it may refuse while others write."""
    with _foreign(path) as connection:
        try:
            connection.execute("VACUUM")
            say(["count", "VACUUM done", 1])
        except sqlite3.OperationalError as error:
            say(["count", f"VACUUM refused ({error})", 1])


def save(path: Path, copy_at: Path, say: Say) -> None:
    """Make a copy as SQLite's shell does by ``.backup``."""
    with _foreign(path) as connection, closing(sqlite3.connect(copy_at)) as other:
        connection.backup(other, pages=50, sleep=0.0)
    say(["count", "backups", 1])


def copy(path: Path, copy_at: Path, say: Say) -> None:
    """Copy the file and its log with ``cp``, which nobody should do while it is in use."""
    shutil.copy(path, copy_at)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        shutil.copy(log, copy_at.with_name(f"{copy_at.name}-wal"))
    say(["copied", str(copy_at)])


@contextmanager
def _foreign(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
        yield connection
