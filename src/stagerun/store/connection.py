"""A connection of aiosqlite's, in a thread of its own, with one hop for a whole function."""

import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import aiosqlite

from stagerun.store.driver import Question

__all__ = ["Connection"]

T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """aiosqlite's connection, with one hop to its thread for a whole function.

    ``_execute`` is the method that every public one of aiosqlite goes through. It is used here
    because a transaction of eight statements would otherwise cost eight hops of 0.1 ms; the pinned
    version and a test stand for it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(lambda: connection, iter_chunk_size=64)
        self._turn = threading.Lock()
        self._running_question: object = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Open, and close for certain: a connection left open keeps its thread."""
        await self
        try:
            yield self
        finally:
            await self.close()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function(connection, *args)`` in the connection's thread."""
        execute_: Callable[..., Awaitable[T]] = self._execute
        return await execute_(function, self._conn, *args)

    async def read(self, question: Question[T], ticket: object) -> T:
        """Answer a question; *ticket* names it while it runs."""
        return await self.run(self._answer, question, ticket)

    def _answer(self, connection: sqlite3.Connection, question: Question[T], ticket: object) -> T:
        with self._turn:
            self._running_question = ticket
        try:
            return question(connection)
        finally:
            with self._turn:
                self._running_question = None

    def interrupt_if(self, ticket: object) -> None:
        """Make a question fail if it is the one that runs; another one's is left alone."""
        with self._turn:
            if self._running_question is ticket:
                self._conn.interrupt()
