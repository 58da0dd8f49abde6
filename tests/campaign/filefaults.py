"""The table of what may be wrong with the file of a database, and what must come of it.

Each row is a fault, and the sentence by which people are told of it; without one it is no fault.
docs/reference.md, "Trouble with the database", promises the same.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from stagerun.store.opening import STEPS
from stagerun.store.owner import folder_of

__all__ = ["AT_THE_OPENING", "UNDER_WAY", "Opening", "UnderWay"]


@frozen
class Opening:
    """A fault that is there before the database is opened."""

    name: str
    make: Callable[[Path], None]
    """Takes the path of a sound database with a run in it, which is closed."""
    says: str = ""
    """What the ``StoreError`` says, as a regular expression; empty: it is opened and used."""
    changes: bool = False
    """Whether the files may be others afterwards; a refused one is kept as it is."""
    nobody: bool = False
    """Whether it is met by another user, for root may do everything."""
    within: float = 1.0
    """Seconds until it is refused."""
    newer: bool = False
    """Whether its schema stands at a step that this program does not know."""
    undo: Callable[[Path], None] = lambda _: None


@frozen
class UnderWay:
    """A fault that comes while a program has the database open and writes to it."""

    name: str
    harm: Callable[[Path], None]
    says: str = ""
    """As above; empty: the program goes on, and what it is told is in the file at its path."""


# -- before ---------------------------------------------------------------------------------------


def _gone(path: Path) -> None:
    for each in (path, _log(path), _shared(path)):
        each.unlink(missing_ok=True)
    shutil.rmtree(folder_of(path), ignore_errors=True)


def _without_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def _folder_in_its_place(path: Path) -> None:
    _gone(path)
    path.mkdir()


def _empty(path: Path) -> None:
    _gone(path)
    path.touch()


def _garbage(path: Path) -> None:
    _gone(path)
    path.write_bytes(os.urandom(20_000))


def _without_magic(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(16))


def _other_page_size(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\x00\x07")


def _truncated(path: Path) -> None:
    os.truncate(path, 3 * 4096)


def _first_page_lost(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(3_996))


def _foreign(path: Path) -> None:
    _gone(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _newer_and_needed(path: Path) -> None:
    _next_step(path, needs=len(STEPS) + 1)


def _newer_that_only_adds(path: Path) -> None:
    _next_step(path, needs=1)


def _next_step(path: Path, *, needs: int) -> None:
    number = len(STEPS) + 1
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE future (what TEXT)")
        connection.execute(
            "INSERT INTO schema_steps (step, name, applied_at, needs) VALUES (?, 'later', 0, ?)",
            (number, needs),
        )
        connection.execute(f"PRAGMA user_version = {number:d}")


def _read_only_file(path: Path) -> None:
    _for_all(path)
    path.chmod(0o444)


def _read_only_folder(path: Path) -> None:
    _for_all(path)
    path.parent.chmod(0o555)


def _no_rights(path: Path) -> None:
    _for_all(path)
    path.chmod(0o000)


def _folder_not_to_be_entered(path: Path) -> None:
    path.parent.chmod(0o000)


def _for_all(path: Path) -> None:
    path.parent.chmod(0o777)
    path.chmod(0o666)
    shutil.rmtree(folder_of(path), ignore_errors=True)


def _enterable(path: Path) -> None:
    path.parent.chmod(0o755)


def _link(path: Path) -> None:
    for each in (path, folder_of(path)):
        if each.exists():
            each.rename(each.with_name(f"real-{each.name}"))
    path.symlink_to(path.with_name(f"real-{path.name}"))


def _dangling_link(path: Path) -> None:
    _gone(path)
    path.symlink_to(path.with_name("to-be-made.db"))


def _link_to_itself(path: Path) -> None:
    _gone(path)
    path.symlink_to(path)


def _copied_without_log(path: Path) -> None:
    """Leave the file as it is in the middle of its use, and nothing beside it."""
    other = path.with_name("other.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE runs SET target = 'newer'")
        shutil.copy(path, other)
    _gone(path)
    other.rename(path)


def _log_of_another(path: Path) -> None:
    _log(path).write_bytes(os.urandom(50_000))


def _no_owners_folder(path: Path) -> None:
    shutil.rmtree(folder_of(path), ignore_errors=True)


def _file_for_owners_folder(path: Path) -> None:
    _no_owners_folder(path)
    folder_of(path).write_text("")


def _full(path: Path) -> None:
    kept = path.read_bytes()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={len(kept) // 1024 + 12}k", "tmpfs", path.parent],
        check=True,
    )
    path.write_bytes(kept)
    with suppress(OSError), path.with_name("ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass


def _unmount(path: Path) -> None:
    subprocess.run(["umount", "--lazy", path.parent], check=True)


_DAMAGED = r"is damaged|is not a SQLite|malformed"
AT_THE_OPENING: Final = (
    Opening("its folder does not exist", _without_folder, r"folder .* does not exist: create it"),
    Opening("a folder stands in its place", _folder_in_its_place, r"is a folder: give the path"),
    Opening("it has no bytes", _empty, changes=True),
    Opening("there is none yet", _gone, changes=True),
    Opening("it is garbage", _garbage, r"not a SQLite database; nothing was changed"),
    Opening("its first bytes are zeros", _without_magic, r"not a SQLite database"),
    Opening("its page size is another", _other_page_size, rf"{_DAMAGED}|not a SQLite"),
    Opening("its first page is noise", _first_page_lost, rf"{_DAMAGED}|schema|another program"),
    Opening("it is cut off", _truncated, _DAMAGED, changes=True),
    Opening("it is another program's", _foreign, r"belongs to another program \(it holds bookm"),
    Opening("its schema is newer", _newer, r"schema version 99.*use the newer stagerun"),
    Opening("its schema needs a newer one", _newer_and_needed, r"use the newer stagerun"),
    Opening("a newer one has only added to it", _newer_that_only_adds, changes=True, newer=True),
    Opening("it may not be written", _read_only_file, r"cannot be (written|opened)", nobody=True),
    Opening(
        "its folder may not be written", _read_only_folder, r"cannot", nobody=True, undo=_enterable
    ),
    Opening("it may not be read", _no_rights, r"cannot be opened", nobody=True),
    Opening(
        "its folder may not be entered", _folder_not_to_be_entered, r"[Pp]ermission|cannot|exist",
        nobody=True, undo=_enterable,
    ),
    Opening("it is a link", _link, changes=True),
    Opening("it is a link to what is not there yet", _dangling_link, changes=True),
    Opening("it is a link to itself", _link_to_itself, r"cannot be found"),
    Opening("it was copied without its log", _copied_without_log, changes=True),
    Opening("the log beside it is noise", _log_of_another, changes=True),
    Opening("its owners' folder is gone", _no_owners_folder, changes=True),
    Opening(
        "a file stands for its owners' folder", _file_for_owners_folder, r"owner's file",
        changes=True,
    ),
    Opening("its disk is full", _full, r"the disk is full|No space", changes=True, undo=_unmount),
)  # fmt: skip


# -- under way ------------------------------------------------------------------------------------


def _unlink(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def _replace(path: Path) -> None:
    shutil.copy(path, path.with_name("another.db"))
    path.with_name("another.db").replace(path)


def _unlink_log(path: Path) -> None:
    _log(path).unlink()


def _unlink_shared(path: Path) -> None:
    _shared(path).unlink()


def _unlink_owners_files(path: Path) -> None:
    for file in folder_of(path).iterdir():
        file.unlink()


def _replace_owners_files(path: Path) -> None:
    for file in folder_of(path).iterdir():
        file.unlink()
        file.write_bytes(b"")


def _sql(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
            connection.execute(statement)

    return change


_GONE = r"is gone while it is open|was replaced by another file"
UNDER_WAY: Final = (
    UnderWay("it is deleted", _unlink, _GONE),
    UnderWay("it is renamed", _rename, _GONE),
    UnderWay("it is replaced by a copy", _replace, _GONE),
    UnderWay("its log is deleted", _unlink_log, _GONE),
    UnderWay("its shared memory is deleted", _unlink_shared, _GONE),
    UnderWay("its owners' files are deleted", _unlink_owners_files),
    UnderWay("its owners' files are made anew", _replace_owners_files),
    UnderWay("an owner is noted as ended", _sql(
        "UPDATE owners SET ended_at = 1, ended_cause = 'dead' WHERE ended_at IS NULL")),
    UnderWay("an owner's row has another file", _sql("UPDATE owners SET inode = inode + 1")),
    UnderWay("an owner's row is deleted", _sql("DELETE FROM owners WHERE ended_at IS NULL")),
    UnderWay("an owner's row is there twice", _sql(
        "INSERT INTO owners (id, device, inode, pid, host, started_at, alive_at, tick_at)"
        " SELECT id || 'x', device, inode, pid, host, started_at, alive_at, tick_at FROM owners")),
)  # fmt: skip


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _shared(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")
