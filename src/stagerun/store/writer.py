"""The persistence actor of the default driver: commits in order, and does not give up.

What becomes of each kind of trouble: docs/reference.md, "Trouble with the database".
"""

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from stagerun.errors import StoreError
from stagerun.store.connection import Connection
from stagerun.store.demand import Announcing, Demand
from stagerun.store.driver import BEAT, Composer, is_distrusted, is_passing, named, needs_space
from stagerun.store.log import Log
from stagerun.store.opening import Files, connect
from stagerun.store.transaction import (
    BROKEN_RULES,
    Receipt,
    Statement,
    Transaction,
    Unit,
    execute,
)

__all__ = ["Writer"]

_CHECKPOINT_AFTER = 64
"""Commits between two checkpoints under load."""
_IDLE_CHECKPOINT_AFTER = 8
"""Commits after which a quiet second makes one. More than the heartbeat alone needs at once."""

_LOCK_PAUSE = 0.001
"""Seconds between two tries to get the write lock, and after a commit while others write."""
_LONG_PAUSE = 0.05
"""Seconds between two tries while the disk refuses, or a lock is held for long."""
_WORDS_AFTER = (1.0, 5.0, 30.0)
"""Seconds of waiting after which somebody is told; from the last one on again and again."""


class Writer:
    """Commits what is composed, in that order, on the one connection that writes."""

    def __init__(
        self,
        path: Path,
        composer: Composer,
        tell: Callable[..., None],
        wait: Callable[[], Awaitable[bool]],
        linger: Callable[[], Awaitable[None]],
        *,
        demand: Demand,
        given_up: Callable[[], bool],
        owner: Callable[[], str | None],
    ) -> None:
        self._path = path
        self._composer = composer
        self._tell = tell
        self._wait = wait
        self._linger = linger
        self._demand = demand
        self._given_up = given_up
        self._owner = owner
        self._resources = AsyncExitStack()
        self._connection: Connection | None = None  # None: not trusted any more, to be opened anew
        self._log = Log(path, composer, tell)
        self._since_checkpoint = 0
        self._foreign_commits = 0  # SQLite's data_version: changes when somebody else commits
        self._foreign_at = -math.inf  # when it was seen to change while a commit waited
        # Written by: the connection's thread. Acknowledged commits, as the owner's row counts them.
        self._acknowledged = 0
        self._in_doubt: Receipt | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Open the connection, and close whichever is the last one.

        Raises:
            StoreError: It cannot be opened.
        """
        try:
            await self._open(connect(self._path))
            self._files = Files(self._path)
            yield self
        finally:
            if self._connection is not None:
                await self._log.settle(self._connection)
            await self._resources.aclose()

    async def _open(self, connection: sqlite3.Connection) -> None:
        opened = Connection(connection).opened()
        self._connection = await self._resources.enter_async_context(opened)

    async def serve(self) -> None:
        """Commit until there is no more to come.

        Raises:
            StoreError: The file is gone, or what was acknowledged is not in it.
            sqlite3.Error: It is damaged, or not as stagerun makes it.
        """
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
                await self._linger()

    async def _commit(self, transaction: Transaction) -> Receipt:
        try:
            return await self._persist(transaction)
        except BROKEN_RULES:
            return await self._commit_apart(transaction)

    async def _commit_apart(self, transaction: Transaction) -> Receipt:
        """See ``execute_apart``; here each unit is tried for as long as it takes."""
        guards, broken = list[Sequence[Any] | None](), dict[int, str]()
        for place, unit in enumerate(transaction.units):
            try:
                guards += (await self._persist(Transaction((unit,)))).guards
            except BROKEN_RULES as error:
                broken[place] = str(error)
                rescue = Transaction(() if unit.rescue is None else (unit.rescue,))
                guards += (await self._persist(rescue)).guards or (None,)
        return Receipt(tuple(guards), broken)

    async def _persist(self, transaction: Transaction) -> Receipt:
        """Try until it is done: what waits for a commit must neither be lost nor overtaken."""
        began = time.monotonic()
        silent_for, *later = _WORDS_AFTER
        while True:
            try:
                receipt = await self._try(transaction)
            except BROKEN_RULES:
                raise
            except (sqlite3.Error, MemoryError) as error:
                if not is_passing(error) or self._given_up():
                    raise
                waited = time.monotonic() - began
                if waited >= silent_for or (needs_space(error) and silent_for == _WORDS_AFTER[0]):
                    self._tell(self._composer.troubled, f"{named(error)}, for {waited:.0f} s now")
                    silent_for = later.pop(0) if later else waited + _WORDS_AFTER[-1]
                if is_distrusted(error):
                    await self._distrust()
                long = waited > _WORDS_AFTER[0] and not await self._others_commit()
                pause = _LONG_PAUSE if long or needs_space(error) else _LOCK_PAUSE
                await self._rest(pause)
                continue
            self._since_checkpoint += 1
            return receipt

    async def _checkpoint(self) -> None:
        self._since_checkpoint = 0
        if self._connection is not None:
            await self._log.checkpoint(self._connection)

    async def _try(self, transaction: Transaction) -> Receipt:
        if self._connection is None:
            landed = await self._reopen()
            if landed is not None:
                return landed
        assert self._connection is not None  # noqa: S101 - it was opened just now
        receipt, foreign = await self._connection.run(self._execute, transaction)
        if foreign != self._foreign_commits:
            self._foreign_commits = foreign
            await self._rest(_LOCK_PAUSE)  # a back-to-back committer starves all the others
        return receipt

    async def _rest(self, seconds: float) -> None:
        self._demand.begin_in(seconds)
        await asyncio.sleep(seconds)

    async def _others_commit(self) -> bool:
        """Whether the lock goes from hand to hand: whoever then looks seldom for it gets it never.

        One that is held for long need not be looked for each millisecond.
        """
        if self._connection is not None:
            before = self._foreign_commits
            self._foreign_commits = await self._connection.run(_data_version)
            if self._foreign_commits != before:
                self._foreign_at = time.monotonic()
        return time.monotonic() - self._foreign_at < _WORDS_AFTER[0]

    def _execute(
        self, connection: sqlite3.Connection, transaction: Transaction
    ) -> tuple[Receipt, int]:
        """Commit, and acknowledge only what stands in the file at the path. Connection's thread."""
        self._in_doubt = None
        number = self._acknowledged + 1
        counted = Transaction((*transaction.units, _count(self._owner(), number)))
        receipt = execute(Announcing(connection, self._demand), counted, complete=self._doubt)
        self._files.check()
        self._acknowledged, self._in_doubt = number, None
        # Committed: if that raised it would be done twice.
        return Receipt(receipt.guards[:-1]), _data_version(connection)

    def _doubt(self, receipt: Receipt) -> None:
        self._in_doubt = receipt

    # -- a connection that is not trusted ---------------------------------------------------------

    async def _distrust(self) -> None:
        """Close the connection: after an error of the disk its idea of the file may be wrong.

        An fsync that failed has thrown pages away; a second one would succeed and mean nothing.
        """
        if self._connection is not None:
            self._connection = None
            try:
                await self._resources.aclose()
            except sqlite3.Error as error:
                self._tell(self._composer.troubled, f"closing: {named(error)}")
            self._resources = AsyncExitStack()

    async def _reopen(self) -> Receipt | None:
        """Open anew and compare with what was acknowledged; return a commit that landed after all.

        Raises:
            StoreError: Acknowledged commits are not in the file.
            sqlite3.Error: It cannot be opened now.
        """
        try:
            connection = connect(self._path, patience=0.0)
        except StoreError as error:
            if isinstance(error.__cause__, sqlite3.Error):
                raise error.__cause__ from None
            raise
        await self._open(connection)
        try:
            self._files.check()
            found = await self._run(_counted, self._owner())
        except BaseException:
            await self._distrust()  # not compared: nothing may be written through it
            raise
        if found is None or found == self._acknowledged:
            return None  # no row yet, or all as it should be
        if found == self._acknowledged + 1 and self._in_doubt is not None:
            self._acknowledged = found
            return Receipt(self._in_doubt.guards[:-1])
        raise StoreError(
            f"database {self._path}: after an error of the disk it holds {found} of"
            f" {self._acknowledged} acknowledged commits of this process: keep the file, look at"
            " the disk, and compare with a backup"
        )

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        assert self._connection is not None  # noqa: S101 - called with an open one only
        return await self._connection.run(function, *args)


def _data_version(connection: sqlite3.Connection) -> int:
    """Return what changes when somebody else commits; -1 while it cannot be told."""
    try:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error:
        return -1


def _count(owner: str | None, number: int) -> Unit:
    """Return the unit that numbers this commit in the owner's row, once there is one."""
    return Unit(Statement("UPDATE owners SET commits = ? WHERE id = ?", (number, owner)))


def _counted(connection: sqlite3.Connection, owner: str | None) -> int | None:
    row = connection.execute("SELECT commits FROM owners WHERE id = ?", (owner,)).fetchone()
    return None if row is None else int(row[0])
