"""The default driver: aiosqlite on a private asyncio loop in a daemon thread.

The persistence actor is a task on that loop. It drains what the engine has posted by itself, so
that a stage which blocks the program's event loop does not keep outcomes off the disk.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite
import trio

from stagerun.errors import StoreError
from stagerun.store.bridge import AioThread
from stagerun.store.driver import BEAT, Composer, Question, is_passing, needs_space
from stagerun.store.opening import check_path, connect, explain, read_only
from stagerun.store.owner import Identity, Liveness, OwnerFile, folder_of, probe
from stagerun.store.transaction import (
    BROKEN_RULES,
    Receipt,
    Transaction,
    execute,
    execute_apart,
)

__all__ = ["AioStore"]

T = TypeVar("T")

_CHECKPOINT_AFTER = 64
"""Commits between two checkpoints under load."""
_IDLE_CHECKPOINT_AFTER = 8
"""Commits after which a quiet second makes one. More than the heartbeat alone needs at once."""

_LOCK_PAUSE = 0.001
"""Seconds between two tries to get the write lock, and after a commit while others write."""
_SPACE_PAUSE = 0.05
"""Seconds between two tries while the disk refuses, or a lock is held for long."""
_SILENCE = 5.0
"""Seconds for which a commit may wait before somebody is told."""


class AioStore:
    """The store of production: one writing and one reading connection, each in its own thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = check_path(path)
        self._thread = AioThread("stagerun-store")
        self._reader: _Connection | None = None
        self._wake = asyncio.Event()
        self._notified = False  # Invariant: True from a wake() until the actor looks again.
        self._stopping = False
        self._given_up = False
        self._owner: OwnerFile | None = None

    async def run(
        self, composer: Composer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See ``Store.run``."""
        host = trio.lowlevel.current_trio_token()

        def tell(hear: Callable[..., None], *args: Any) -> None:
            with suppress(trio.RunFinishedError):  # it is on disk; nobody is left to be told
                host.run_sync_soon(hear, *args)

        def started() -> None:
            tell(task_status.started)

        try:
            async with self._thread as thread:
                await thread.call(
                    self._serve, composer, tell, started, on_cancel=lambda _task: self.stop()
                )
        finally:
            if self._owner is not None:
                self._owner.let_go()  # the file stays, unless release() removed it: a dead owner's

    async def _serve(
        self, composer: Composer, tell: Callable[..., None], started: Callable[[], None]
    ) -> None:
        try:
            # Opened in the loop's own thread, where nothing else waits yet: when aiosqlite fails to
            # open, its thread outlives the loop and says so on stderr.
            async with (
                _Connection(connect(self.path)).opened() as writer,
                _Connection(read_only(self.path)).opened() as reader,
            ):
                self._reader = reader
                started()
                try:
                    await _Writer(
                        writer, composer, tell, self._wait, lambda: self._given_up
                    ).serve()
                finally:
                    self._reader = None
        except sqlite3.Error as error:
            raise StoreError(explain(error, self.path)) from error

    async def _wait(self) -> bool:
        """Wait until something is posted; False once there is no more to come."""
        await self._wake.wait()
        self._wake.clear()
        self._notified = False
        return not self._stopping

    def claim(self, identifier: str) -> Identity | None:
        """See ``Store.claim``."""
        if self._owner is not None:
            self._owner.close()
        self._owner = OwnerFile(self.path, identifier)
        return self._owner.identity

    def release(self) -> None:
        """See ``Store.release``."""
        if self._owner is not None:
            self._owner.close()

    def look(self, identifier: str, identity: Identity) -> Liveness:
        """See ``Store.look``."""
        return probe(folder_of(self.path) / identifier, identity)

    def wake(self) -> None:
        """See ``Store.wake``."""
        if not self._notified:
            self._notified = True
            self._thread.soon(self._wake.set)

    async def ask(self, question: Question[T]) -> T:
        """See ``Store.ask``. A cancelled caller interrupts the query."""
        reader = self._reader
        if reader is None:
            raise StoreError(f"database {self.path} is not open")

        ticket = object()

        def interrupt(task: "asyncio.Task[T]") -> None:
            reader.interrupt_if(ticket)
            task.cancel()

        try:
            return await self._thread.call(reader.read, question, ticket, on_cancel=interrupt)
        except sqlite3.Error as error:
            raise StoreError(explain(error, self.path)) from error

    def give_up(self) -> None:
        """See ``Store.give_up``."""
        self._given_up = True

    def stop(self) -> None:
        """See ``Store.stop``."""
        self._stopping = True
        self._thread.soon(self._wake.set)


class _Writer:
    """The persistence actor: commits in the order of composing, and gives up only on damage."""

    def __init__(
        self,
        connection: "_Connection",
        composer: Composer,
        tell: Callable[..., None],
        wait: Callable[[], Awaitable[bool]],
        given_up: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._composer = composer
        self._tell = tell
        self._wait = wait
        self._given_up = given_up
        self._since_checkpoint = 0
        self._foreign_commits = 0  # SQLite's data_version: changes when somebody else commits

    async def serve(self) -> None:
        more = True
        while more:
            try:
                async with asyncio.timeout(BEAT):
                    more = await self._wait()
            except TimeoutError:
                if self._since_checkpoint >= _IDLE_CHECKPOINT_AFTER:
                    await self._checkpoint()
            while transaction := self._composer.compose():
                receipt = await self._commit(transaction)
                self._tell(self._composer.committed, receipt)
                if self._since_checkpoint >= _CHECKPOINT_AFTER:
                    await self._checkpoint()

    async def _commit(self, transaction: Transaction) -> Receipt:
        """Try until it is done: what waits for a commit must neither be lost nor overtaken."""
        began = time.monotonic()
        silent_until = began + _SILENCE
        while True:
            try:
                receipt, foreign = await self._connection.run(_commit_politely, transaction)
            except BROKEN_RULES as error:
                self._tell(self._composer.troubled, f"a run's batch breaks a rule: {error}")
                return await self._connection.run(execute_apart, transaction)
            except sqlite3.Error as error:
                if not is_passing(error) or self._given_up():
                    raise
                if time.monotonic() > silent_until:
                    waited = f"{error}, for {time.monotonic() - began:.0f} s now"
                    self._tell(self._composer.troubled, waited)
                    silent_until = time.monotonic() + _SILENCE
                long = needs_space(error) or time.monotonic() - began > 1.0
                await asyncio.sleep(_SPACE_PAUSE if long else _LOCK_PAUSE)
                continue
            self._since_checkpoint += 1
            if foreign != self._foreign_commits:
                self._foreign_commits = foreign
                await asyncio.sleep(_LOCK_PAUSE)  # a back-to-back committer starves all the others
            return receipt

    async def _checkpoint(self) -> None:
        """Move the log into the database. Failing costs space, not data: it is tried again."""
        try:
            await self._connection.run(_checkpoint)
        except sqlite3.Error as error:
            if not is_passing(error):
                raise
            self._tell(self._composer.troubled, f"checkpoint: {error}")
        self._since_checkpoint = 0


def _commit_politely(
    connection: sqlite3.Connection, transaction: Transaction
) -> tuple[Receipt, int]:
    receipt = execute(connection, transaction)
    try:
        version = int(connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error:
        version = -1  # committed all the same: raising here would have it done twice
    return receipt, version


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


class _Connection(aiosqlite.Connection):
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
