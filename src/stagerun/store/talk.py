"""Talking to the owner of a run from beside its runtime: by a connection of one's own, and waiting.

For commands, and for programs whose event loop must not wait for the runtime's: both hold the
dialogues of ``engine/asking.py``.
"""

import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from attrs import define

from stagerun.errors import StoreError
from stagerun.store.driver import Question, is_passing
from stagerun.store.opening import connect, explain, read_only
from stagerun.store.transaction import Transaction, Unit, execute

__all__ = ["Pause", "Talk", "talking"]

T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds that another program may keep the database locked before this one gives up."""
_RETRY: Final = 0.005


class Pause(Protocol):
    """A step of a dialogue: wait. Any other step is a unit to be written, or a question."""

    @property
    def seconds(self) -> float:
        """For how long."""


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
        result: Any = None
        while True:
            try:
                step: Unit | Question[Any] | Pause = dialogue.send(result)
            except StopIteration as stop:
                answer: T = stop.value
                return answer
            if isinstance(step, Unit):
                result = self._write(step)
            elif callable(step):
                result = self.ask(step)
            else:
                time.sleep(step.seconds)
                result = None

    def ask(self, question: Question[T]) -> T:
        """Answer *question* from one committed state of the database.

        Raises:
            UsageError: What is asked about does not exist.
            StoreError: The database cannot be read any more.
        """
        try:
            self._reader.execute("BEGIN")
            try:
                return question(self._reader)
            finally:
                self._reader.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(explain(error, self._path)) from error

    def _write(self, unit: Unit) -> Any:
        if self._writer is None:
            self._writer = connect(self._path, patience=_PATIENCE)
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return execute(self._writer, Transaction((unit,))).guards[0]
            except sqlite3.Error as error:
                if not is_passing(error) or time.monotonic() > until:
                    raise StoreError(explain(error, self._path)) from error
                time.sleep(_RETRY)

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
