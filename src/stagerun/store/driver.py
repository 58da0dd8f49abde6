"""What the engine needs from a store, whichever driver stands behind it."""

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from stagerun.store.transaction import Receipt, Transaction

__all__ = ["Composer", "Question", "Store", "is_passing", "needs_space"]

T = TypeVar("T")

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

    def wake(self) -> None:
        """Tell the persistence actor that something waits. Any thread."""

    async def ask(self, question: Question[T]) -> T:
        """Answer *question* from committed data, on a reading connection."""

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
