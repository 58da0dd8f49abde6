"""The write-ahead log: what a sync that failed has let go of is copied once more."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stagerun.store import log
from stagerun.store.opening import connect

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE notes (words TEXT)")
        for n in range(30):
            connection.execute("INSERT INTO notes VALUES (?)", (f"{n} " * 500,))
        yield connection


@pytest.fixture
def reader(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def moved(connection: sqlite3.Connection) -> tuple[int, int]:
    """Checkpoint, and return how many pages are in the log, and how many of them are moved."""
    log.move(connection, 2**30)
    _, there, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return there, done


def lose(path: Path) -> None:
    """Take from the file what a checkpoint brought, from outside: locks are a process's."""
    code = f"f = open({str(path)!r}, 'r+b'); n = f.seek(0, 2); f.seek({PAGE})\n"
    code += f"f.write(bytes(n - {PAGE}))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_after_it_the_whole_log_is_copied_again_beside_a_reader(
    path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection
) -> None:
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM notes").fetchone() == (30,)
    writer.execute("INSERT INTO notes VALUES ('one more')")
    there, done = moved(writer)
    assert 0 < done < there, "the reader holds up the rest, so nothing is synced"
    lose(path)
    log.forget_progress(writer, path)
    assert len(reader.execute("SELECT * FROM notes").fetchall()) == 30
    reader.execute("COMMIT")
    there, done = moved(writer)
    assert done == there
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as apart:
        assert apart.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert apart.execute("SELECT count(*) FROM notes").fetchone() == (31,)
    assert reader.execute("SELECT count(*) FROM notes").fetchone() == (31,)


def test_without_it_the_pages_are_lost(
    path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection
) -> None:
    """Why it is there: SQLite alone does not copy them again."""
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM notes").fetchone()
    writer.execute("INSERT INTO notes VALUES ('one more')")
    moved(writer)
    lose(path)
    reader.execute("COMMIT")
    there, done = moved(writer)
    assert done == there
    with (
        closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as apart,
        pytest.raises(sqlite3.DatabaseError, match="malformed"),
    ):
        apart.execute("SELECT count(*) FROM notes").fetchone()


def test_the_lock_of_others_is_said(
    path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection
) -> None:
    reader.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        log.forget_progress(writer, path)
    reader.execute("COMMIT")
    log.forget_progress(writer, path)
