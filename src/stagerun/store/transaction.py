"""Transactions as values: the same ones run through every driver, and can be kept for later."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from attrs import field, frozen

__all__ = [
    "BROKEN_RULES",
    "STATEMENT",
    "InconsistentError",
    "Receipt",
    "Rows",
    "Statement",
    "Transaction",
    "Unit",
    "Writing",
    "execute",
    "execute_apart",
]


class InconsistentError(Exception):
    """A statement changed another number of rows than it must: a defect, nothing was written."""


@frozen
class Statement:
    """One SQL statement with its parameters."""

    sql: str
    parameters: Sequence[Any] = ()
    expected: int | None = None
    """How many rows it must change; another number undoes the whole transaction."""


@frozen
class Rows:
    """Rows for one table, flattened: many are written by a single multi-row statement."""

    insert: str
    """Up to and with ``VALUES``, for example ``INSERT INTO results VALUES``."""
    width: int
    """Columns of a row."""
    parameters: list[Any]
    """Invariant: len(parameters) is a multiple of width."""
    shared: Sequence[Any] = ()
    """What is bound once, before those of *parameters*: ``?1`` and on in *insert*."""
    end: str = ""
    """What stands behind the rows."""


@frozen
class Unit:
    """Statements that stand or fall by their guard.

    The guard must change (or return) exactly one row; when it does not, somebody else has ended or
    taken the run, and the unit is left out. The other units of the transaction are not touched.
    """

    guard: Statement | None
    body: Sequence[Statement | Rows] = field(factory=tuple)
    rescue: "Unit | None" = None
    """What is written in its place when its content breaks a rule of the database: little, and
    nothing that could break one."""


@frozen
class Transaction:
    """Units that become durable together."""

    units: tuple[Unit, ...]


@frozen
class Receipt:
    """What a commit made of each unit: what its guard returned, or None when it refused."""

    guards: tuple[Sequence[Any] | None, ...]
    broken: Mapping[int, str] = field(factory=dict)
    """Units whose content broke a rule, by their place, and which one it was. When such a unit's
    guard is not None, its rescue was written instead."""


BROKEN_RULES = (
    InconsistentError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,  # a value of a type that SQLite does not take; by its age either
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
"""What a unit raises for its own content; everything else concerns the database."""


class Writing(Protocol):
    """A connection, as far as a transaction needs it."""

    @property
    def in_transaction(self) -> bool:
        """See ``sqlite3.Connection.in_transaction``."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> sqlite3.Cursor:
        """See ``sqlite3.Connection.execute``."""


def execute(
    connection: Writing,
    transaction: Transaction,
    *,
    complete: Callable[[Receipt], object] | None = None,
) -> Receipt:
    """Run *transaction* on a connection in autocommit mode; all of it or nothing.

    *complete* gets the receipt just before the commit. When an error of the disk ends that, the
    commit may still turn out to have landed, and this is then what it has made.

    Raises:
        InconsistentError: A statement missed its expected number of rows.
        sqlite3.Error: As SQLite says; nothing was written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        receipt = Receipt(tuple(_unit(connection, unit) for unit in transaction.units))
        if complete is not None:
            complete(receipt)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back by itself
            connection.execute("ROLLBACK")
        raise
    return receipt


def execute_apart(connection: Writing, transaction: Transaction) -> Receipt:
    """Run each unit in a transaction of its own; one that breaks a rule gives way to its rescue.

    For when the whole was refused for what one unit holds: one run's trouble stays its own.
    """
    guards, broken = list[Sequence[Any] | None](), dict[int, str]()
    for place, unit in enumerate(transaction.units):
        try:
            guards += execute(connection, Transaction((unit,))).guards
        except BROKEN_RULES as error:
            broken[place] = str(error)
            rescue = Transaction(() if unit.rescue is None else (unit.rescue,))
            guards += execute(connection, rescue).guards or (None,)
    return Receipt(tuple(guards), broken)


def _unit(connection: Writing, unit: Unit) -> Sequence[Any] | None:
    returned: Sequence[Any] = ()
    if unit.guard is not None:
        cursor = connection.execute(unit.guard.sql, unit.guard.parameters)
        rows = cursor.fetchall()
        if cursor.rowcount != 1 and len(rows) != 1:
            return None
        returned = rows[0] if rows else ()
    for part in unit.body:
        if isinstance(part, Rows):
            _insert(connection, part)
        else:
            changed = connection.execute(part.sql, part.parameters).rowcount
            if part.expected is not None and changed != part.expected:
                raise InconsistentError(f"{changed} rows, not {part.expected}: {part.sql}")
    return returned


STATEMENT = 512
"""Rows of one statement at most: of 64 to 512 a row costs the same, beyond it costs more."""
# Few sizes, so that SQLite's cache of prepared statements always hits.
_CHUNKS = (STATEMENT, 256, 128, 64, 32, 16, 8, 4, 2, 1)


def _insert(connection: Writing, rows: Rows) -> None:
    """Write in as few statements as possible: SQLite runs each without Python's lock."""
    start, left = 0, len(rows.parameters) // rows.width
    for chunk in _CHUNKS:
        if left < chunk:
            continue
        sql = _multi_row(rows.insert, rows.end, rows.width, chunk)
        step = chunk * rows.width
        while left >= chunk:
            parameters = rows.parameters[start : start + step]
            parameters[:0] = rows.shared
            connection.execute(sql, parameters)
            start, left = start + step, left - chunk


@cache
def _multi_row(insert: str, end: str, width: int, chunk: int) -> str:
    row = f"({','.join('?' * width)})"
    return f"{insert} {','.join([row] * chunk)}{end}"
