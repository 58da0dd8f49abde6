"""A database beside its runtime: read and written by a connection of one's own, and never for long.

For what must go on while the runtime's event loop is blocked, or its writer waits. Every call
blocks, and is bounded; so it belongs into a thread of its own.
"""

import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stagerun.errors import StoreError
from stagerun.store.driver import Question
from stagerun.store.opening import connect, explain
from stagerun.store.talk import answer, write
from stagerun.store.transaction import Unit

__all__ = ["Access", "Beside", "Within"]

T = TypeVar("T")


class Access(Protocol):
    """A database as it can be asked and written."""

    async def ask(self, question: Question[T]) -> T:
        """Answer *question* from committed data.

        Raises:
            StoreError: It cannot be read just now.
        """

    async def write(self, unit: Unit) -> Any:
        """Write *unit*; return what its guard returned, or None when it refused.

        Raises:
            StoreError: It cannot be written just now.
        """

    def close(self) -> None:
        """Let go of what was opened."""


class Within:
    """The runtime's own way, for virtual time: there is one thread for all.

    Args:
        ask: Its store's.
        write: Its recorder's.
    """

    def __init__(
        self,
        ask: Callable[[Question[Any]], Awaitable[Any]],
        write: Callable[[Unit], Awaitable[Any]],
    ) -> None:
        self._ask = ask
        self._write = write

    async def ask(self, question: Question[T]) -> T:
        """See ``Access.ask``."""
        answered: T = await self._ask(question)
        return answered

    async def write(self, unit: Unit) -> Any:
        """See ``Access.write``."""
        return await self._write(unit)

    def close(self) -> None:
        """See ``Access.close``: the runtime closes what is its own."""


class Beside:
    """A connection that is opened when it is needed, and anew after each trouble."""

    def __init__(self, path: Path, *, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._connection: sqlite3.Connection | None = None

    async def ask(self, question: Question[T]) -> T:
        """See ``Access.ask``."""
        try:
            return answer(self._opened(), question)
        except sqlite3.Error as error:
            self.close()
            raise StoreError(explain(error, self._path)) from error

    async def write(self, unit: Unit) -> Any:
        """See ``Access.write``."""
        until = time.monotonic() + self._patience

        def rest(seconds: float) -> bool:
            time.sleep(seconds)
            return time.monotonic() > until

        try:
            return write(self._opened(), unit, self._path, rest)
        except StoreError:
            self.close()  # after an error of the disk it may have a wrong idea of the file
            raise

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self._path.exists():  # it would be made anew, and empty
                raise StoreError(f"database {self._path} is gone")
            self._connection = connect(self._path, patience=self._patience)
        return self._connection

    def close(self) -> None:
        """See ``Access.close``."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
