"""SQLite's write-ahead log: moved into the database, and once more from its beginning if need be.

A checkpoint copies pages from the log into the database. It syncs the database only when it has
reached the log's end; one that stops at what a reader still needs counts its pages as copied all
the same. When a later sync fails, the kernel may have let go of those as well, and SQLite would
never copy them again: the database is damaged with the next loss of power. The log still holds
them, for it is not begun anew before a sync has succeeded; so the whole of it is copied again.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["checkpoint", "forget_progress"]

_INDEX_HEADER: Final = 96
"""Bytes of the two headers of the log's index, see https://www.sqlite.org/walformat.html."""


def checkpoint(connection: sqlite3.Connection, limit: int) -> int:
    """Move what can be moved, and begin the log anew when it is longer than *limit* bytes.

    Returns:
        Its size in bytes.
    """
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if frames * page > limit:
        _, frames, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return int(frames * page)


def forget_progress(connection: sqlite3.Connection, path: Path) -> None:
    """Have the next checkpoint copy the log from its beginning.

    How far the log was copied stands in its index alone. SQLite makes that anew from the log when
    its header is void, as it is after a process that died in a commit: so the header is made void,
    while the write lock keeps others from writing theirs. They may go on reading.

    Raises:
        sqlite3.OperationalError: Others hold the lock: to be tried again.
        OSError: The index cannot be written.
    """
    connection.execute("BEGIN IMMEDIATE")
    # Not ROLLBACK: it would go by the header.
    try:
        os.pwrite(_descriptor(Path(f"{path}-shm")), bytes(_INDEX_HEADER), 0)
    finally:
        connection.execute("COMMIT")


def _descriptor(path: Path) -> int:
    """Find SQLite's own: closing another one of the file would let go of this process's locks."""
    file = path.stat()
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, of which one is the listing's own
        try:
            found = os.fstat(int(name))
        except OSError:
            continue
        if os.path.samestat(found, file):
            return int(name)
    raise FileNotFoundError(f"{path} is not open")
