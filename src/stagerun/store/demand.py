"""When the store's threads want Python's lock: said beforehand, for who waits cannot say it.

A thread that comes back from SQLite waits for the lock, and while the event loop is busy it waits
long: after each of the fifteen statements of a commit. So it says before each one when it will be
back, and the loop lets go of the lock then (``engine/giving_way.py``).
"""

import math
import sqlite3
from collections.abc import Sequence
from time import monotonic
from typing import Any

__all__ = ["Announcing", "Demand"]

_A_STATEMENT = 20e-6
"""Seconds that SQLite takes for a statement at least."""
_A_VALUE = 0.2e-6
"""And for each of its values: a row of five takes a microsecond."""
_A_COMMIT = 500e-6
"""For the end of a transaction: the disk takes that long at least."""


class Demand:
    """What the threads of one store want next. Written by: them, and whoever wakes them."""

    def __init__(self) -> None:
        self.due = math.inf
        """When they want the lock next, or have begun to want it; on ``time.monotonic``. inf: they
        have nothing to do."""

    def begin(self) -> None:
        """Say that a thread wants it, from now on."""
        self.due = monotonic()

    def begin_in(self, seconds: float) -> None:
        """Say that none wants it for so long."""
        self.due = monotonic() + seconds

    def end(self) -> None:
        """Say that there is nothing to do."""
        self.due = math.inf


class Announcing:
    """The writing connection, as a transaction needs it; says how long each statement takes."""

    def __init__(self, connection: sqlite3.Connection, demand: Demand) -> None:
        self._connection = connection
        self._demand = demand

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """See ``sqlite3.Connection.execute``."""
        least = _A_COMMIT if sql == "COMMIT" else _A_STATEMENT
        self._demand.begin_in(least + len(parameters) * _A_VALUE)
        try:
            return self._connection.execute(sql, parameters)
        finally:
            self._demand.begin()

    @property
    def in_transaction(self) -> bool:
        """See ``sqlite3.Connection.in_transaction``."""
        return self._connection.in_transaction
