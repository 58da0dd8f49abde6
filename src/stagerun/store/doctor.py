"""A look at a database file: whether what stands in it can be true. Nothing is changed."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from attrs import field, frozen

from stagerun.errors import StoreError
from stagerun.store import invariants
from stagerun.store.opening import STEPS, check_path, explain, is_usable, migrate
from stagerun.store.owner import Identity, Liveness, folder_of, probe

__all__ = ["Finding", "Report", "examine"]

_MOST = 20
"""Findings of one check that are told; the rest is counted."""
_LOG_LIMIT = 64 * 2**20
_LEAST_FREE = 100 * 2**20

_NETWORK = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
        "fuse.sshfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb2",
        "smb3", "smbfs", "virtiofs",
    )
)  # fmt: skip
"""Kinds of file systems whose locks and shared memory other machines may not see."""

_RESET_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
"""The releases that repair the WAL-reset bug, on their branches; from the last one on all do."""


@frozen
class Finding:
    """Something that cannot be true, or that will cause trouble."""

    check: str
    what: str
    next: str
    run: str | None = None
    """The run that it is about, if it is about one."""


@frozen
class Report:
    """What was found in one file."""

    database: str
    facts: dict[str, str | int | None]
    findings: list[Finding] = field(factory=list)
    remarks: list[str] = field(factory=list)
    """What is good to know, and no fault of the file's."""

    @property
    def sound(self) -> bool:
        """Whether there is no finding."""
        return not self.findings


def examine(path: str | Path) -> Report:
    """Examine a database file, also one that a process has open.

    Raises:
        StoreError: There is no such file.
    """
    place = check_path(path)
    if not place.exists():
        raise StoreError(f"there is no database {place}: give its path with --db")
    report = Report(str(place), _facts(place))
    if has_reset_bug(sqlite3.sqlite_version_info):
        report.remarks.append(
            f"this Python's SQLite {sqlite3.sqlite_version} has the WAL-reset bug: when two"
            " connections write or checkpoint at the same instant the file may, very rarely, be"
            " damaged. 3.51.3 and later have the repair, and so have 3.50.7 and 3.44.6"
        )
    report.findings.extend(_surroundings(place, report.facts))
    try:
        # Not even a checkpoint when it is closed: the connection itself may only read.
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True, timeout=5)) as opened:
            opened.execute("PRAGMA trusted_schema = OFF")
            opened.execute("BEGIN")  # one committed state for all questions
            report.findings.extend(_inside(opened, place, report.facts))
    except sqlite3.Error as error:
        advice = "keep the file as it is, restore a backup beside it, and compare"
        report.findings.append(Finding("readable", explain(error, place), advice))
    return report


# -- around the file ----------------------------------------------------------------------------


def _facts(place: Path) -> dict[str, str | int | None]:
    log = place.with_name(f"{place.name}-wal")
    return {
        "sqlite": sqlite3.sqlite_version,
        "schema": None,
        "size": place.stat().st_size,
        "wal_size": log.stat().st_size if log.exists() else 0,
        "free": shutil.disk_usage(place.parent).free,
        "mode": f"{place.stat().st_mode & 0o777:03o}",
        "file_system": _file_system(place.parent),
    }


def _surroundings(place: Path, facts: dict[str, str | int | None]) -> Iterator[Finding]:
    if place.stat().st_mode & 0o022:
        yield Finding(
            "rights",
            f"others than its owner may write the file (mode {facts['mode']})",
            f"chmod go-w {place}",
        )
    for what, kind in ((place, "file"), (place.parent, "folder")):
        if not os.access(what, os.R_OK | os.W_OK):
            yield Finding(
                "rights",
                f"you may not read and write the {kind} {what}",
                "run stagerun as the user who owns it, or give yourself the right",
            )
    kind_of_system = str(facts["file_system"])
    if kind_of_system in _NETWORK:
        yield Finding(
            "file system",
            f"the file lies on {kind_of_system}, a file system that other machines may share:"
            " its locks and shared memory cannot be relied on",
            "move it to a local disk",
        )
    free = shutil.disk_usage(place.parent).free
    if free < _LEAST_FREE:
        yield Finding(
            "disk",
            f"only {free / 2**20:.0f} MB are free on its disk",
            "free some space, or let `stagerun prune` do so: a full disk makes runs wait",
        )
    log = int(facts["wal_size"] or 0)
    if log > _LOG_LIMIT:
        yield Finding(
            "wal",
            f"the write-ahead log has {log / 2**20:.0f} MB: somebody reads an old state, or nobody"
            " has moved it into the file",
            "end what keeps a read transaction open (a forgotten sqlite3 shell?)",
        )


def has_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether a version of SQLite has the bug that sqlite.org calls the WAL-reset bug."""
    if version >= _RESET_FIXED[-1]:
        return False
    return not any(version[:2] == fixed[:2] and version >= fixed for fixed in _RESET_FIXED)


def _file_system(folder: Path) -> str | None:
    """Return the kind of the file system that holds *folder*, where the system tells it."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return None
    resolved, kind, longest = folder.resolve(), None, -1
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        # The later one of two at the same place hides the other.
        if resolved.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = after.split()[0], len(point.parts)
    return kind


# -- inside it ----------------------------------------------------------------------------------


def _inside(
    connection: sqlite3.Connection, place: Path, facts: dict[str, str | int | None]
) -> Iterator[Finding]:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    facts["schema"] = version
    keep = "keep the file as it is, restore a backup beside it, and compare"
    damaged = False
    for (line,) in islice(connection.execute("PRAGMA integrity_check"), _MOST):
        if line != "ok":
            damaged = True
            yield Finding("integrity", f"SQLite finds: {line}", keep)
    if version == 0:
        what = "it is no stagerun database, or one whose making was cut short"
        yield Finding("schema", what, "give the path of one with --db; an empty one is made anew")
        return
    if not is_usable(connection):
        what = f"its schema version is {version}, this stagerun knows 1 to {STEPS[-1].number}"
        yield Finding("schema", what, "use the stagerun that wrote it, or the newest one")
        return
    missing = _expected() - _objects(connection)
    for kind, name in sorted(missing):
        yield Finding("schema", f"the {kind} {name} is missing", keep)
    if damaged or missing:
        return  # what further questions would say of it could be anything
    for table, row, parent, _ in islice(connection.execute("PRAGMA foreign_key_check"), _MOST):
        what = f"row {row} of {table} names a row of {parent} that does not exist"
        yield Finding("references", what, keep)
    yield from _contradictions(connection)
    yield from _owners(connection, place)


def _contradictions(connection: sqlite3.Connection) -> Iterator[Finding]:
    for check in invariants.CHECKS:
        rows = connection.execute(check.sql).fetchmany(_MOST + 1)
        for run, what in rows[:_MOST]:
            yield Finding(check.name, what, check.advice, run)
        if len(rows) > _MOST:
            yield Finding(check.name, f"and more than {_MOST} like these", check.advice)


def _expected() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh)
        return _objects(fresh)


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    rows = connection.execute("SELECT type, name FROM sqlite_schema")
    return {(kind, name) for kind, name in rows.fetchall()}


def _owners(connection: sqlite3.Connection, place: Path) -> Iterator[Finding]:
    """Compare the owners that should live with their locked files."""
    folder = folder_of(place)
    rows = connection.execute(
        "SELECT owner, id, device, inode, pid, host FROM owners WHERE ended_at IS NULL"
    ).fetchall()
    for owner, identifier, device, inode, pid, host in rows:
        alive = (
            Liveness.UNKNOWN
            if device is None or inode is None
            else probe(folder / identifier, Identity(device, inode))
        )
        who = f"process {pid} on {host}"
        if alive is Liveness.DEAD:
            yield from _orphans(connection, owner, who)
        elif alive is Liveness.UNKNOWN:
            yield Finding(
                "owners",
                f"{who} is noted as living, and its file {folder / identifier} is gone or another",
                "while it lives it puts it back; else (in a copy, say) the next program that has"
                " the file open for 15 s settles what it left",
            )
    yield from _strangers(connection, folder, lambda name: name in {row[1] for row in rows})


def _orphans(connection: sqlite3.Connection, owner: int, who: str) -> Iterator[Finding]:
    runs = connection.execute(
        "SELECT r.id, g.status FROM generations g JOIN runs r USING (run)"
        " WHERE g.owner = ? AND g.finished_at IS NULL LIMIT ?",
        (owner, _MOST),
    ).fetchall()
    for run, status in runs:
        what = f"it is noted as {status}, and {who} that had it is dead"
        yield Finding("zombies", what, "`stagerun recover` settles it", run)
    if not runs:
        what = f"{who} is dead and noted as living; it left no runs"
        yield Finding("owners", what, "`stagerun recover` settles it")


def _strangers(
    connection: sqlite3.Connection, folder: Path, is_open: Callable[[str], bool]
) -> Iterator[Finding]:
    known = {identifier for (identifier,) in connection.execute("SELECT id FROM owners")}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_open(file.name) or file.name in known:
            continue
        status = file.lstat()
        if probe(file, Identity(status.st_dev, status.st_ino)) is not Liveness.ALIVE:
            what = f"the file {file} belongs to no owner in the database"
            yield Finding("owners", what, "it does no harm: `stagerun prune` removes it in time")
