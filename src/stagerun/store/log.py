"""SQLite's write-ahead log: moved into the database, and once more from its beginning if need be.

A checkpoint copies pages from the log into the database. It syncs the database only when it has
reached the log's end; one that stops at what a reader still needs counts its pages as copied all
the same. When a later sync fails, the kernel may have let go of those as well, and SQLite would
never copy them again: the database is damaged with the next loss of power. The log still holds
them, for it is not begun anew before a sync has succeeded; so the whole of it is copied again.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stagerun.store.connection import Connection
from stagerun.store.driver import Composer, is_distrusted, is_passing, named, needs_space

__all__ = ["Log", "forget_progress", "move"]

_LIMIT = 64 * 2**20
"""Bytes above which somebody is told that a reader holds it up."""
_PAUSE = 0.001
"""Seconds between two tries to get the write lock."""
_PATIENCE = 1.0
"""Seconds of such tries."""
_INDEX_HEADER: Final = 96
"""Bytes of the two headers of the log's index, see https://www.sqlite.org/walformat.html."""


class Log:
    """The log of one database. In the store's thread."""

    def __init__(self, path: Path, composer: Composer, tell: Callable[..., None]) -> None:
        self._path = path
        self._composer = composer
        self._tell = tell
        self._held_up = False
        self._progress_is_void = False
        """Set when a sync failed. Invariant: no checkpoint before it is forgotten what was done."""

    async def checkpoint(self, connection: Connection) -> None:
        """Move the log into the database. Failing costs space, not data: it is tried again."""
        if not await self.settle(connection):
            return
        try:
            size = await connection.run(move, _LIMIT)
        except sqlite3.Error as error:
            if not is_passing(error):
                raise
            self._tell(self._composer.troubled, f"checkpoint: {named(error)}")
            self._progress_is_void = is_distrusted(error)
            await self.settle(connection)
            return
        if size > _LIMIT or self._held_up:
            self._held_up = size > _LIMIT
            words = (
                f"the write-ahead log has grown to {size / 2**20:.0f} MB: somebody reads an old"
                " state of the database and does not let go of it (an open transaction?)"
            )
            self._tell(self._composer.noticed, words if self._held_up else None)

    async def settle(self, connection: Connection) -> bool:
        """See to it that the next checkpoint loses nothing; False when that cannot be had just now.

        Asked before the connection is closed, too: SQLite makes one when it closes the last of all.
        """
        until = time.monotonic() + _PATIENCE
        while self._progress_is_void:
            try:
                await connection.run(forget_progress, self._path)
            except OSError:
                return False
            except sqlite3.Error as error:
                if not is_passing(error):
                    raise
                if needs_space(error) or time.monotonic() > until:
                    return False
                await asyncio.sleep(_PAUSE)
            else:
                self._progress_is_void = False
        return True


def move(connection: sqlite3.Connection, limit: int) -> int:
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
