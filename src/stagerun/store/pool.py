"""Asking a database from beside its runtime: a few connections that only read, and one that writes.

It is for whoever serves many at once. A question is answered in a thread, from one committed state;
so it waits neither for the writer nor for the event loop of the runtime, and one that takes too
long is cut. Requests to the owners of runs (the dialogues of ``engine/asking.py``) are held in the
same way, and work for runs of every process. Whoever is cancelled goes at once, and its thread as
soon as it looks. Works under asyncio and under trio.
"""

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stagerun.errors import StoreError
from stagerun.store.driver import Question
from stagerun.store.opening import check_path, explain, read_only
from stagerun.store.talk import answer, hold, write, writer
from stagerun.store.transaction import Unit

__all__ = ["ReadingPool", "TooSlowError"]

A = TypeVar("A")
T = TypeVar("T")

_LOOK = 10_000
"""Steps of SQLite's machine between two looks at the clock: about a millisecond."""
_File = tuple[int, int]
"""Which file it is: device and inode."""
_DIALOGUES = 16
"""Dialogues that are held at once; each may take seconds."""
_HELD_WITHIN = 12.0
"""Seconds for one dialogue: its owner has 5 to hear it, then come the pauses of a slow disk."""


class TooSlowError(StoreError):
    """A question was cut, or never asked, because others and it took too long."""


class ReadingPool:
    """Answers questions, each on one of *size* reading connections. Opened when first needed.

    Args:
        path: The database; it need not exist yet.
        size: Questions that are answered at once.
        deadline: Seconds for one question, and for its wait for a free connection.

    Raises:
        StoreError: There can be no database at such a path.
    """

    def __init__(self, path: str | Path, size: int = 4, deadline: float = 2.0) -> None:
        import anyio  # noqa: PLC0415 - an extra; whoever reads beside a runtime has it

        self.path = check_path(path)
        self._size = size
        self._deadline = deadline
        self._turns = anyio.Semaphore(size)
        self._threads = anyio.CapacityLimiter(size + 1)  # never the host's own forty
        self._readers = _Shelf(self.path, self._open_reader)
        self._writing = anyio.Lock()
        self._writers = _Shelf(self.path, lambda: writer(self.path))
        self._talks = anyio.Semaphore(_DIALOGUES)

    async def ask(self, question: Question[T]) -> T:
        """Answer *question* from one committed state of the database.

        Raises:
            UsageError: What is asked about does not exist.
            StoreError: The database cannot be read.
            TooSlowError: It took longer than the deadline.
        """
        async with self._a_turn(self._turns, self._deadline):
            return await self._in_thread(self._answered, question)

    async def hold(self, dialogue: Generator[Any, Any, T]) -> T:
        """Hold a dialogue with the owner of a run to its end, and return what it comes to.

        Raises:
            UsageError: There is no such run.
            StoreError: The database cannot be read or written.
            TooSlowError: It did not come to its end in time.
        """
        import anyio  # noqa: PLC0415 - as above

        async with self._a_turn(self._talks, self._deadline):
            with anyio.move_on_after(_HELD_WITHIN):
                return await hold(dialogue, ask=self.ask, write=self._write, sleep=anyio.sleep)
        raise TooSlowError(f"the run's owner was asked for {_HELD_WITHIN:.0f} s in vain")

    def close(self) -> None:
        """Close every connection: those in use as soon as they are not. It can be used again."""
        self._readers.close()
        self._writers.close()

    @asynccontextmanager
    async def _a_turn(self, turns: Any, within: float) -> AsyncIterator[None]:
        import anyio  # noqa: PLC0415 - as above

        with anyio.move_on_after(within) as wait:
            await turns.acquire()
        if wait.cancelled_caught:
            raise TooSlowError(f"the database is asked too much: no turn came within {within:g} s")
        try:
            yield
        finally:
            turns.release()

    async def _write(self, unit: Unit) -> Any:
        async with self._writing:
            return await self._in_thread(self._written, unit)

    async def _in_thread(self, function: Callable[[A, threading.Event], T], argument: A) -> T:
        """Call *function* in a thread; one whose caller has gone hears it, and gives up.

        The caller does not wait for that: its thread may just then wait for a lock in SQLite.
        """
        import anyio  # noqa: PLC0415 - as above

        left = threading.Event()
        call = partial(function, argument, left)
        try:
            return await anyio.to_thread.run_sync(
                call, limiter=self._threads, abandon_on_cancel=True
            )
        finally:
            left.set()

    # -- in a thread ----------------------------------------------------------------------------

    def _answered(self, question: Question[T], left: threading.Event) -> T:
        until = time.monotonic() + self._deadline

        def bounded(connection: sqlite3.Connection) -> T:
            connection.set_progress_handler(
                lambda: left.is_set() or time.monotonic() > until, _LOOK
            )
            try:
                return question(connection)
            finally:
                connection.set_progress_handler(None, 0)

        with self._readers.lent() as connection:
            try:
                return answer(connection, bounded)
            except sqlite3.Error as error:
                if error.sqlite_errorname == "SQLITE_INTERRUPT":
                    raise TooSlowError(
                        f"the answer took longer than {self._deadline:g} s: ask for less at once"
                    ) from error
                raise StoreError(explain(error, self.path)) from error

    def _open_reader(self) -> sqlite3.Connection:
        connection = read_only(self.path)
        connection.execute(f"PRAGMA busy_timeout = {int(self._deadline * 1_000):d}")
        return connection

    def _written(self, unit: Unit, left: threading.Event) -> Any:
        with self._writers.lent() as connection:
            return write(connection, unit, self.path, left.wait)


class _Shelf:
    """Open connections that nobody uses just now. Any thread."""

    def __init__(self, path: Path, make: Callable[[], sqlite3.Connection]) -> None:
        self._path = path
        self._make = make
        self._idle: list[tuple[sqlite3.Connection, _File]] = []
        self._epoch = 0
        """Counts the closings: what was lent before one is not kept after it."""
        self._lock = threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection; after an error of the database it is closed, not kept."""
        epoch = self._epoch
        connection, file = self._taken()
        kept = True
        try:
            yield connection
        except StoreError:
            kept = False
            raise
        finally:
            with self._lock:
                kept = kept and epoch == self._epoch
                if kept:
                    self._idle.append((connection, file))
            if not kept:
                connection.close()

    def close(self) -> None:
        """Close what is here now, and what comes back later."""
        with self._lock:
            self._epoch += 1
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _taken(self) -> tuple[sqlite3.Connection, _File]:
        file = _file(self._path)
        while (last := self._last()) is not None:
            if last[1] == file:
                return last
            last[0].close()  # by now the path leads to another file
        if file is None:
            raise StoreError(f"there is no database {self._path}")
        return self._make(), file

    def _last(self) -> tuple[sqlite3.Connection, _File] | None:
        with self._lock:
            return self._idle.pop() if self._idle else None


def _file(path: Path) -> _File | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
