"""Talking to the owner of a run from beside its runtime: by a connection of one's own, and waiting.

For commands, and for programs whose event loop must not wait for the runtime's: both hold the
dialogues of ``engine/asking.py``. So does ``store/pool.py``, by the same pieces.
"""

import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from attrs import define

from stagerun.errors import StoreError
from stagerun.store.driver import Question, is_passing
from stagerun.store.opening import connect, explain, read_only
from stagerun.store.transaction import Transaction, Unit, execute

__all__ = ["Pause", "Talk", "answer", "hold", "talking", "write", "writer"]

A = TypeVar("A")
T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds that another program may keep the database locked before this one gives up."""
_RETRY: Final = 0.005


class Pause(Protocol):
    """A step of a dialogue: wait. Any other step is a unit to be written, or a question."""

    @property
    def seconds(self) -> float:
        """For how long."""


async def hold(
    dialogue: Generator[Any, Any, T],
    *,
    ask: Callable[[Question[Any]], Awaitable[Any]],
    write: Callable[[Unit], Awaitable[Any]],
    sleep: Callable[[float], Awaitable[None]],
) -> T:
    """Hold a dialogue to its end and return what it comes to, doing its steps by what is given."""
    result: Any = None
    while True:
        try:
            step: Unit | Question[Any] | Pause = dialogue.send(result)
        except StopIteration as stop:
            end: T = stop.value
            return end
        if isinstance(step, Unit):
            result = await write(step)
        elif callable(step):
            result = await ask(step)
        else:
            await sleep(step.seconds)
            result = None


def answer(connection: sqlite3.Connection, question: Question[T]) -> T:
    """Answer *question* from one committed state of the database. Blocks.

    Raises:
        sqlite3.Error: As SQLite says.
    """
    connection.execute("BEGIN")
    try:
        return question(connection)
    finally:
        connection.execute("COMMIT")


def writer(path: Path) -> sqlite3.Connection:
    """Open a connection for ``write()``. Blocks."""
    return connect(path, patience=_PATIENCE)


def write(
    connection: sqlite3.Connection,
    unit: Unit,
    path: Path,
    rest: Callable[[float], object] = time.sleep,
) -> Any:
    """Write *unit*, as soon as others let it; return what its guard returned. Blocks.

    Args:
        connection: Made by ``writer()``.
        unit: What is to be written.
        path: The database, for what is told of an error.
        rest: Waits so many seconds before the next try, or returns true: there is to be none.

    Raises:
        StoreError: It cannot be written, or others kept the database locked.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return execute(connection, Transaction((unit,))).guards[0]
        except sqlite3.Error as error:
            if not is_passing(error) or time.monotonic() > until or rest(_RETRY):
                raise StoreError(explain(error, path)) from error


@define(eq=False)
class Talk:
    """A database open for reading, and for writing once something is to be asked."""

    _reader: sqlite3.Connection
    _path: Path
    _writer: sqlite3.Connection | None = None

    def hold(self, dialogue: Generator[Any, Any, T]) -> T:
        """Hold a dialogue to its end and return what it comes to. Blocks.

        Raises:
            UsageError: There is no such run.
            StoreError: The database cannot be read or written.
        """
        return _at_once(
            hold(
                dialogue,
                ask=_blocking(self.ask),
                write=_blocking(self._write),
                sleep=_blocking(time.sleep),
            )
        )

    def ask(self, question: Question[T]) -> T:
        """Answer *question* from one committed state of the database.

        Raises:
            UsageError: What is asked about does not exist.
            StoreError: The database cannot be read any more.
        """
        try:
            return answer(self._reader, question)
        except sqlite3.Error as error:
            raise StoreError(explain(error, self._path)) from error

    def _write(self, unit: Unit) -> Any:
        if self._writer is None:
            self._writer = writer(self._path)
        return write(self._writer, unit, self._path)

    def close(self) -> None:
        """Close what was opened for writing."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def talking(database: Path) -> Iterator[Talk]:
    """Open a database for talking; blocks, as everything here.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    with closing(read_only(database)) as reader, closing(Talk(reader, database)) as talk:
        yield talk


def _blocking(function: Callable[[A], T]) -> Callable[[A], Awaitable[T]]:
    """Return *function* as one to be awaited, which never lets anybody else go on meanwhile."""

    async def call(argument: A) -> T:
        return function(argument)

    return call


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what awaits such functions only: without an event loop, in one go."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        end: T = stop.value
        return end
    raise RuntimeError("a step of a dialogue has waited for an event loop: there is none")
