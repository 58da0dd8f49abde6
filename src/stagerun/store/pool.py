"""Asking a database from beside its runtime: a few connections that only read, and one that writes.

It is for whoever serves many at once. A question is answered in a thread, from one committed state;
so it waits neither for the writer nor for the event loop of the runtime, and one that takes too
long is cut. Requests to the owners of runs (the dialogues of ``engine/asking.py``) are held in the
same way, and work for runs of every process. Works under asyncio and under trio.
"""

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stagerun.errors import StoreError
from stagerun.store.driver import Question, is_passing
from stagerun.store.opening import check_path, connect, explain, read_only
from stagerun.store.transaction import Transaction, Unit, execute

__all__ = ["ReadingPool", "TooSlowError"]

T = TypeVar("T")

_LOOK = 10_000
"""Steps of SQLite's machine between two looks at the clock: about a millisecond."""
_PATIENCE = 5.0
"""Seconds that another program may keep the database locked before a request is given up."""
_RETRY = 0.005
_File = tuple[int, int]
"""Which file it is: device and inode."""
_DIALOGUES = 16
"""Dialogues that are held at once; each may take seconds."""
_HELD_WITHIN = 12.0
"""Seconds for one dialogue: its owner has 5 to hear it, then come the pauses of a slow disk."""


class TooSlowError(StoreError):
    """A question was cut, or never asked, because others and it took too long."""


class _Pause(Protocol):
    """``engine.asking.Pause``, which this room does not know by name."""

    @property
    def seconds(self) -> float: ...


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
        self._writers = _Shelf(self.path, lambda: connect(self.path, patience=_PATIENCE))
        self._talks = anyio.Semaphore(_DIALOGUES)

    async def ask(self, question: Question[T]) -> T:
        """Answer *question* from one committed state of the database.

        Raises:
            UsageError: What is asked about does not exist.
            StoreError: The database cannot be read.
            TooSlowError: It took longer than the deadline.
        """
        import anyio  # noqa: PLC0415 - as above

        async with self._a_turn(self._turns, self._deadline):
            return await anyio.to_thread.run_sync(self._answer, question, limiter=self._threads)

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
                return await self._hold(dialogue)
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

    async def _hold(self, dialogue: Generator[Any, Any, T]) -> T:
        import anyio  # noqa: PLC0415 - as above

        result: Any = None
        while True:
            try:
                step: Unit | Question[Any] | _Pause = dialogue.send(result)
            except StopIteration as stop:
                answer: T = stop.value
                return answer
            if isinstance(step, Unit):
                async with self._writing:
                    result = await anyio.to_thread.run_sync(
                        self._write, step, limiter=self._threads
                    )
            elif callable(step):
                result = await self.ask(step)
            else:
                await anyio.sleep(step.seconds)
                result = None

    # -- in a thread ----------------------------------------------------------------------------

    def _answer(self, question: Question[T]) -> T:
        until = time.monotonic() + self._deadline
        with self._readers.lent() as connection:
            connection.set_progress_handler(lambda: time.monotonic() > until, _LOOK)
            try:
                connection.execute("BEGIN")
                try:
                    return question(connection)
                finally:
                    connection.set_progress_handler(None, 0)
                    connection.execute("COMMIT")
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

    def _write(self, unit: Unit) -> Any:
        until = time.monotonic() + _PATIENCE
        with self._writers.lent() as connection:
            while True:
                try:
                    return execute(connection, Transaction((unit,))).guards[0]
                except sqlite3.Error as error:
                    if not is_passing(error) or time.monotonic() > until:
                        raise StoreError(explain(error, self.path)) from error
                    time.sleep(_RETRY)


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
