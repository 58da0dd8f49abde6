"""What the engine needs from a store, whichever driver stands behind it."""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from stagerun.store.demand import Demand
from stagerun.store.owner import Identity, Liveness
from stagerun.store.page import Page
from stagerun.store.transaction import Receipt, Transaction

__all__ = [
    "BEAT",
    "PASSING",
    "Composer",
    "Question",
    "Store",
    "is_distrusted",
    "is_passing",
    "named",
    "needs_space",
]

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

    def noticed(self, problem: str | None) -> None:
        """Hear of a trouble that keeps no commit waiting; None: it is over. The engine's thread."""


class Store(Protocol):
    """One database, with one writer that commits what the composer gives."""

    awake: bool
    """Whether it knows already that something waits."""
    asking: int
    """How many questions are under way."""
    demand: Demand
    """When its threads want Python's lock next."""
    page: Page
    """What this process has in hand; in the owner's file once there is one."""

    @property
    def path(self) -> str | Path:
        """The database's file."""

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

    def in_hand(self, identifier: str) -> Sequence[tuple[int, int, int, int]]:
        """Return what a dead owner had in hand: run, generation, stage and item, each once."""

    def heal(self) -> Identity | None:
        """Make the owner's file anew if it is gone; return which it is then. The store's thread."""

    def release(self) -> None:
        """Remove the owner's file: its orderly end is on disk."""

    def look(self, identifier: str, identity: Identity) -> Liveness:
        """Look whether the owner that locked its file so still lives."""

    def watch(self, look: Callable[[], None], every: float) -> None:
        """From now on call *look* each so many seconds in the store's thread.

        It must neither wait nor raise. A driver without a thread never calls it.
        """

    def poll(self, question: Question[T], hear: Callable[[T], None], every: float) -> None:
        """Ask *question* each so many seconds, after the first of them; *hear* gets the answers.

        It is called in the store's thread, also while the event loop is blocked, and must neither
        wait nor raise. When the question fails it is asked again: the writer tells of the trouble.
        """

    def tidy(self, open_owners: Collection[str]) -> None:
        """Remove files that dead owners left, except *open_owners*: those are not settled yet."""

    def wake(self) -> None:
        """Tell the persistence actor that something waits. Any thread."""

    def hurry(self) -> None:
        """Tell it that somebody waits for the next commit. Any thread."""

    async def ask(self, question: Question[T]) -> T:
        """Answer *question* from committed data, on a reading connection."""

    def give_up(self) -> None:
        """Let a commit that is being tried again and again fail for good, loudly."""

    def stop(self) -> None:
        """Let ``run()`` commit what waits, close and return."""


def is_passing(error: BaseException) -> bool:
    """Whether to try the same transaction again: the trouble may pass, if people help."""
    return isinstance(error, MemoryError) or _name(error).startswith(PASSING)


def needs_space(error: BaseException) -> bool:
    """Whether the disk refuses, and not only a lock: told to people at once."""
    return is_passing(error) and not _name(error).startswith(_LOCKS)


def is_distrusted(error: BaseException) -> bool:
    """Whether the connection may have a wrong idea of the file after this."""
    return _name(error).startswith("SQLITE_IOERR")


_LOCKS = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
PASSING = (
    *_LOCKS,
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_READONLY",  # a file system that was remounted; at the opening it is refused at once
    "SQLITE_CANTOPEN",  # for one: no descriptor is left just now
    "SQLITE_NOMEM",
)
"""SQLite's names of errors after which a commit is tried again; what they begin with."""


def named(error: BaseException) -> str:
    """Return an error's words with SQLite's name for it."""
    return f"{error} [{_name(error)}]" if _name(error) else repr(error)


def _name(error: BaseException) -> str:
    return getattr(error, "sqlite_errorname", None) or ""
