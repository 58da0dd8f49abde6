"""Owners: a locked file beside the database says that its process lives, and nothing else does.

A lock held with ``flock`` goes with its process, however that ends; a process id, a host name and
the age of a heartbeat do not tell a dead owner from a blocked, suspended or slow one. Why, and what
was measured: docs/decisions/0003-ownership-and-liveness.md.
"""

import fcntl
import os
import weakref
from enum import Enum
from pathlib import Path

from attrs import frozen

from stagerun.errors import StoreError
from stagerun.logs import RunLog
from stagerun.store.page import SIZE, Page

__all__ = ["Identity", "Liveness", "OwnerFile", "folder_of", "probe"]


class Liveness(Enum):
    """What a look at an owner's file tells."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """No lock, and not the file that was locked: deleted, or replaced. Never taken for dead."""


@frozen
class Identity:
    """Which file was locked: a path may lead to another one later."""

    device: int
    inode: int


class OwnerFile:
    """The file that one runtime keeps locked as long as its process lives."""

    def __init__(self, database: Path, identifier: str, page: Page | None = None) -> None:
        folder = folder_of(database)
        self.path = folder / identifier
        self._page = Page() if page is None else page
        try:
            self._descriptor, self.identity = _locked(self.path, self._page)
        except OSError as error:
            raise StoreError(
                f"cannot keep an owner's file in {folder}: {error.strerror}"
            ) from error
        if probe(self.path, self.identity) is not Liveness.ALIVE:
            self.close()
            raise StoreError(
                f"the file system of {folder} does not keep locks (a network one?):"
                " put the database on a local disk"
            )
        _let_go_in_children(self)

    def heal(self) -> Identity | None:
        """Put a newly locked file in the place of one that is gone or replaced.

        Returns:
            Which file it is now; None when it was there all the time, or when none could be made:
            then the next call tries again.
        """
        if self._descriptor < 0:
            return None
        try:
            status = self.path.lstat()
            there = Identity(status.st_dev, status.st_ino)
        except OSError:  # gone, as far as this process can tell
            there = None
        if there == self.identity:
            return None
        try:
            descriptor, identity = _locked(self.path, self._page)
        except OSError as error:
            RunLog().warning("the owner's file %s is gone and not made anew: %s", self.path, error)
            return None
        before, self._descriptor, self.identity = self._descriptor, descriptor, identity
        os.close(before)
        RunLog().warning("the owner's file %s was gone; it is there again", self.path)
        return identity

    def close(self) -> None:
        """Release the lock and remove the file: an orderly end."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        """Close the descriptor. In a forked child the lock stays with the parent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            self._page.let_go()


def folder_of(database: Path) -> Path:
    """Return the folder of the owners' files of a database."""
    return database.with_name(database.name + ".owners")


def probe(path: Path, identity: Identity) -> Liveness:
    """Look whether the process that locked the file at *path* still lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone, forbidden, or no descriptor left just now: nothing can be told
        return Liveness.UNKNOWN
    try:
        status = os.fstat(descriptor)
        same = Identity(status.st_dev, status.st_ino) == identity
        try:
            # Shared: two that look at once must not take each other for a living owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Liveness.ALIVE  # or the owner has put a new file here and is about to say so
        return Liveness.DEAD if same else Liveness.UNKNOWN
    finally:
        os.close(descriptor)


def _locked(path: Path, page: Page) -> tuple[int, Identity]:
    """Make a locked file with a page, then put it at *path*: it is never seen without its lock."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(
        fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(descriptor, "wb", closefd=False) as whole:
            whole.write(bytes(SIZE))  # a full disk must say so now, not when the page is written
        status = os.fstat(descriptor)
        page.move(fresh)
        fresh.replace(path)
    except BaseException:
        os.close(descriptor)
        fresh.unlink(missing_ok=True)
        raise
    return descriptor, Identity(status.st_dev, status.st_ino)


def _let_go_in_children(file: OwnerFile) -> None:
    """Have forked children let go: a child that lives on must not keep a dead owner alive."""
    here = weakref.ref(file)

    def after_fork() -> None:
        owner = here()
        if owner is not None:
            owner.let_go()

    os.register_at_fork(after_in_child=after_fork)
