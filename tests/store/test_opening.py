"""Opening databases: new, old, newer, foreign and broken ones."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stagerun import StoreError
from stagerun.store.opening import STEPS, check_path, connect, migrate, read_only


def test_a_new_database_has_every_step_of_the_schema_and_says_so(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "new.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        steps = connection.execute("SELECT step, name FROM schema_steps").fetchall()
        assert steps == [(step.number, step.script) for step in STEPS]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    connect(tmp_path / "a.db").close()
    with closing(connect(tmp_path / "a.db")) as connection:
        before = connection.total_changes
        migrate(connection)
        assert connection.total_changes == before


def test_a_schema_step_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagerun.store.opening._statements", lambda _: ["CREATE TABLE a (b)", "!"])
    with pytest.raises(StoreError):
        connect(tmp_path / "half.db")
    with closing(sqlite3.connect(tmp_path / "half.db")) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


@pytest.mark.parametrize("opening", [connect, read_only])
def test_a_newer_database_is_refused_and_not_touched(tmp_path: Path, opening: object) -> None:
    path = tmp_path / "newer.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(StoreError, match="version 999") as caught:
        opening(path)  # type: ignore[operator]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("opening", [connect, read_only])
def test_what_is_no_database_is_refused_and_not_touched(tmp_path: Path, opening: object) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes(b"Shall I compare thee " * 100)
    with pytest.raises(StoreError, match="not a SQLite database"):
        opening(path)  # type: ignore[operator]
    assert path.read_bytes() == b"Shall I compare thee " * 100


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(StoreError, match=r"belongs to another program .*bookmarks"):
        connect(path)


@pytest.mark.parametrize(
    ("place", "words"), [("no/such/folder.db", "does not exist"), (".", "is a folder")]
)
def test_a_wrong_place_is_named(tmp_path: Path, place: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        read_only(tmp_path / place)


def test_reading_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        read_only(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_reading_connection_cannot_write(tmp_path: Path) -> None:
    connect(tmp_path / "a.db").close()
    with (
        closing(read_only(tmp_path / "a.db")) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM runs")


def test_only_its_owner_may_read_a_new_database(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        connection = connect(tmp_path / "runs.db")
        connection.execute("CREATE TABLE t (a)")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        connection.close()
    finally:
        os.umask(before)
    assert set(modes) == {"runs.db", "runs.db-wal", "runs.db-shm"}
    assert set(modes.values()) == {0o600}


def test_a_database_in_memory_is_no_place_for_runs() -> None:
    with pytest.raises(StoreError, match="gone with the process"):
        check_path(":memory:")


def _with_a_newer_step(path: Path, needs: int) -> None:
    """Make a database as a later program would, with one step more."""
    newest = STEPS[-1].number
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE something_new (a)")
        connection.execute(
            "INSERT INTO schema_steps (step, name, applied_at, needs) VALUES (?, 'new.sql', 1, ?)",
            (newest + 1, needs),
        )
        connection.execute(f"PRAGMA user_version = {newest + 1}")


@pytest.mark.parametrize("opening", [connect, read_only])
def test_a_program_rolled_back_goes_on_when_the_newer_steps_only_add(
    tmp_path: Path, opening: Callable[[Path], sqlite3.Connection]
) -> None:
    _with_a_newer_step(tmp_path / "a.db", needs=1)
    with closing(opening(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (STEPS[-1].number + 1,)


@pytest.mark.parametrize("opening", [connect, read_only])
def test_a_program_rolled_back_refuses_what_needs_the_newer_one(
    tmp_path: Path, opening: Callable[[Path], sqlite3.Connection]
) -> None:
    newest = STEPS[-1].number
    _with_a_newer_step(tmp_path / "a.db", needs=newest + 1)
    with pytest.raises(StoreError, match=f"version {newest + 1}, this stagerun knows up to"):
        opening(tmp_path / "a.db")


def test_a_database_of_the_first_step_is_brought_to_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("stagerun.store.opening.STEPS", STEPS[:1])
        connect(tmp_path / "old.db").close()
    with closing(connect(tmp_path / "old.db")) as connection:
        found = connection.execute("SELECT step, needs FROM schema_steps").fetchall()
        assert found == [(step.number, step.needs) for step in STEPS]
