"""What the engine needs from a store, whichever driver stands behind it."""

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from stagerun.store.owner import Identity, Liveness
from stagerun.store.transaction import Receipt, Transaction

__all__ = ["BEAT", "Composer", "Question", "Store", "is_passing", "needs_space"]

T = TypeVar("T")

BEAT = 1.0
"""Seconds after which a driver composes again, posted or not: the owner's heartbeat is due."""

Question = Callable[[sqlite3.Connection], T]
"""A read: a function of a reading connection. It never keeps a cursor open when it returns."""


class Composer(Protocol):
    """The recorder, as the persistence actor sees it."""

    def compose(self) -> Transaction | None:
        """Return what is to be committed next; None when nothing waits. Any thread."""

    def committed(self, receipt: Receipt) -> None:
        """Hear that the last composed transaction is durable. The engine's thread."""

    def troubled(self, problem: str) -> None:
        """Hear that committing has to wait, and why. The engine's thread."""


class Store(Protocol):
    """One database, with one writer that commits what the composer gives."""

    async def run(
        self, composer: Composer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Open, then commit until ``stop()``; what was composed before is committed first.

        Raises:
            StoreError: It cannot be opened, or can no longer be written.
        """

    def claim(self, identifier: str) -> Identity | None:
        """Lock an owner's file until ``run()`` returns; None for a database without a file.

        Raises:
            StoreError: The file system keeps no locks.
        """

    def release(self) -> None:
        """Remove the owner's file: its orderly end is on disk."""

    def look(self, identifier: str, identity: Identity) -> Liveness:
        """Look whether the owner that locked its file so still lives."""

    def wake(self) -> None:
        """Tell the persistence actor that something waits. Any thread."""

    async def ask(self, question: Question[T]) -> T:
        """Answer *question* from committed data, on a reading connection."""

    def give_up(self) -> None:
        """Let a commit that is being tried again and again fail for good, loudly."""

    def stop(self) -> None:
        """Let ``run()`` commit what waits, close and return."""


def is_passing(error: sqlite3.Error) -> bool:
    """Whether to try the same transaction again: the trouble is expected to pass."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or needs_space(error)


def needs_space(error: sqlite3.Error) -> bool:
    """Whether the disk refuses: full, or an input/output error. Told to people, and tried again."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR")
