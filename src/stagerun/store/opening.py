"""Opening a database file: its checks, its settings, and the steps of its schema."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from attrs import frozen

from stagerun.errors import StoreError

__all__ = [
    "STEPS",
    "Files",
    "Step",
    "check_path",
    "connect",
    "explain",
    "is_usable",
    "migrate",
    "read_only",
]


@frozen
class Step:
    """One step of the schema: a script that is run once."""

    number: int
    script: str
    needs: int
    """The newest step that a program must know to work with a database that has this one. A step
    that only adds leaves it as it was: then a program can be rolled back, its database stays."""


STEPS = (
    Step(1, "schema.sql", needs=1),
    Step(2, "schedules.sql", needs=1),
    Step(3, "alerts.sql", needs=1),
)
"""The schema's steps in order. A step that has been released is never edited: add the next."""

_IN_MEMORY = ":memory:"
_SQLITE_FLOOR = (3, 37)  # STRICT tables


def check_path(path: str | Path) -> Path:
    """Return the path of a database that may be created or opened there, without links.

    Raises:
        StoreError: The folder does not exist, or a folder stands in its place.
    """
    if not str(path):
        raise StoreError("the path of the database is empty: give the path of a file")
    if str(path) == _IN_MEMORY:
        raise StoreError(f"a database {path} would be gone with the process: give a file's path")
    try:
        # By whichever name: the files beside it, and so who lives, must be the same for all.
        place = Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise StoreError(f"database {path}: it cannot be found ({error})") from error
    try:
        if place.is_dir():
            raise StoreError(f"{place} is a folder: give the path of a database file")
        if not place.parent.is_dir():
            raise StoreError(f"the folder {place.parent} does not exist: create it first")
        place.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise StoreError(f"database {place}: {error.strerror}") from error
    return place


def connect(path: str | Path, *, patience: float = 15.0) -> sqlite3.Connection:
    """Open the writing connection: WAL, every commit on disk before it is acknowledged.

    *patience*: seconds to wait for a lock that another program holds.
    """
    if sqlite3.sqlite_version_info < _SQLITE_FLOOR:
        floor = ".".join(map(str, _SQLITE_FLOOR))
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: {floor} is needed")
    _create_for_owner_only(path)
    # No waiting inside SQLite: its busy handler sleeps up to 0.1 s between two looks, and starves
    # beside a process that commits back to back. Whoever waits looks each millisecond instead.
    connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
    try:
        # Whatever looks into the file may meet a lock: of a process that recovers the log of one
        # that was killed, for example.
        for step in (_set_up, _check_owner, _to_wal, migrate, _check_writable):
            _patiently(partial(step, connection), patience)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(explain(error, path)) from error
        if isinstance(error, StoreError):
            raise StoreError(f"database {path}: {error}") from None
        raise
    return connection


def _create_for_owner_only(path: str | Path) -> None:
    """Make a new database's file readable for nobody else; SQLite's own files beside it follow."""
    if str(path) == _IN_MEMORY:
        return
    with suppress(OSError):  # it is there; or SQLite says what is wrong with the place
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def read_only(path: str | Path) -> sqlite3.Connection:
    """Open a reading connection to an existing database of a version that is known.

    Raises:
        StoreError: There is none, it is damaged, or its version is newer.
    """
    place = check_path(path)
    if not place.exists():
        raise StoreError(f"there is no database {place}: give its path with --db")
    try:
        connection = sqlite3.connect(
            place, isolation_level=None, timeout=5, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise StoreError(explain(error, place)) from error
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        _check_version(connection)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(explain(error, place)) from error
    except StoreError as error:
        connection.close()
        raise StoreError(f"database {place}: {error}") from None
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest step; each step and its record commit together."""
    _check_version(connection, new=True)
    if _version(connection) >= STEPS[-1].number:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = _version(connection)  # read again: another process may have been quicker
        if done == 0:
            _refuse_foreign(connection)
            connection.execute(
                "CREATE TABLE schema_steps (step INTEGER PRIMARY KEY, name TEXT NOT NULL,"
                " applied_at INTEGER NOT NULL) STRICT"
            )
        for step in STEPS:
            if step.number <= done:
                continue
            for statement in _statements(step.script):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_steps (step, name, applied_at) VALUES (?, ?, ?)",
                (step.number, step.script, time.time_ns() // 1000),
            )
            if step.number > 1:  # the first one is what needs nothing else
                connection.execute(
                    "UPDATE schema_steps SET needs = ? WHERE step = ?", (step.needs, step.number)
                )
            connection.execute(f"PRAGMA user_version = {step.number:d}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def explain(error: sqlite3.Error, path: str | Path) -> str:
    """Say in one sentence what SQLite's error means for whoever opened the file."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    advice = {
        "SQLITE_NOTADB": "it is not a SQLite database; nothing was changed in it",
        "SQLITE_CORRUPT": "it is damaged; keep the file and restore a backup beside it"
        " (`stagerun doctor` says what is damaged)",
        "SQLITE_READONLY": "it cannot be written: look at the rights of the file",
        "SQLITE_READONLY_DIRECTORY": "its folder cannot be written: look at the folder's rights",
        "SQLITE_CANTOPEN": "it cannot be opened: look at the rights of file and folder",
        "SQLITE_FULL": "the disk is full",
        "SQLITE_IOERR_SHMSIZE": "the disk is full, or gives errors: there is no room for the file"
        " that SQLite keeps beside it",
        "SQLITE_BUSY": "another program keeps it locked",
    }
    return f"database {path}: {advice.get(name, str(error))} [{name}]"


class Files:
    """The files of an open database, as they were first seen.

    SQLite goes on writing into files that were deleted or replaced while it had them open, and
    says nothing: what it acknowledges then is in no file that anybody will find.
    """

    def __init__(self, path: Path) -> None:
        self._optional = (f"{path}-wal", f"{path}-shm")  # they are made with the first transaction
        self._places = (str(path), *self._optional)
        self._known: dict[str, tuple[int, int]] = {}
        self.check()

    def check(self) -> None:
        """Look whether each path still leads to the file that is open.

        Raises:
            StoreError: One does not.
        """
        for place in self._places:
            try:
                status = os.stat(place)  # noqa: PTH116 - with each commit: a Path costs as much
            except OSError as error:
                if place in self._optional and place not in self._known:
                    continue
                raise StoreError(
                    f"database {place} is gone while it is open ({error.strerror}): nothing more is"
                    f" acknowledged; put the file back and start again"
                ) from error
            identity = (status.st_dev, status.st_ino)
            if self._known.setdefault(place, identity) != identity:
                raise StoreError(
                    f"database {place} was replaced by another file while it was open: nothing more"
                    f" is acknowledged; keep both files, and start again with the right one"
                )


def _patiently(action: Callable[[], None], seconds: float) -> None:
    """Repeat while other processes hold the lock, as they do when several open a new file."""
    until = time.monotonic() + seconds
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not _is_lock(error) or time.monotonic() > until:
                raise
            time.sleep(0.001)


def _is_lock(error: sqlite3.Error) -> bool:
    return error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it between commits
    connection.execute("PRAGMA cache_size = -16384")


def _check_writable(connection: sqlite3.Connection) -> None:
    """Refuse at once what may only be read: a commit would wait for people to change that."""
    try:
        connection.execute("DELETE FROM schema_steps WHERE FALSE")  # BEGIN alone lets it pass
    except sqlite3.OperationalError as error:
        if not _is_lock(error):  # of others, who can write: whoever has something to write waits
            raise


def _check_owner(connection: sqlite3.Connection) -> None:
    """Refuse what is not ours, or too new, before anything is changed in it."""
    _check_version(connection, new=True)
    if _version(connection) == 0:
        _refuse_foreign(connection)


def _to_wal(connection: sqlite3.Connection) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    in_memory = "memory"  # a database without a file keeps its own kind of journal
    if mode not in ("wal", in_memory):
        raise StoreError(f"this file system gives no write-ahead log (journal mode {mode!r})")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check_version(connection: sqlite3.Connection, *, new: bool = False) -> None:
    version, newest = _version(connection), STEPS[-1].number
    if version == 0 and not new:
        raise StoreError("it is not a stagerun database: give the path of one with --db")
    if not is_usable(connection):
        raise StoreError(
            f"it has schema version {version}, this stagerun knows up to {newest}:"
            " use the newer stagerun that wrote it"
        )


def is_usable(connection: sqlite3.Connection) -> bool:
    """Whether this program can work with the database's schema, even if that is a newer one."""
    version, newest = _version(connection), STEPS[-1].number
    if version <= newest:
        return True
    try:
        later, needs = connection.execute(
            "SELECT count(*), max(needs) FROM schema_steps WHERE step > ?", (newest,)
        ).fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_ERROR":  # a lock, for one: it is tried again
            raise
        return False
    return bool(later == version - newest and needs <= newest)


def _refuse_foreign(connection: sqlite3.Connection) -> None:
    tables = connection.execute("SELECT name FROM sqlite_schema LIMIT 3").fetchall()
    if tables:
        names = ", ".join(name for (name,) in tables)
        raise StoreError(f"it belongs to another program (it holds {names})")


def _statements(name: str) -> list[str]:
    script = Path(__file__).with_name(name).read_text(encoding="utf-8")
    statements, lines = [], list[str]()
    for line in script.splitlines():
        lines.append(line)
        if sqlite3.complete_statement(text := "\n".join(lines)):
            statements.append(text)
            lines.clear()
    return statements
