"""Transactions as values, on a real SQLite."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun.store.transaction import (
    InconsistentError,
    Rows,
    Statement,
    Transaction,
    Unit,
    execute,
    execute_apart,
)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    connection.execute("INSERT INTO t VALUES (1, 'open'), (2, 'shut')")
    yield connection
    connection.close()


def guard(row: int) -> Statement:
    return Statement("UPDATE t SET b = b WHERE a = ? AND b = 'open'", (row,))


def test_a_unit_whose_guard_refuses_is_left_out_and_the_others_are_not(
    database: sqlite3.Connection,
) -> None:
    rows = [Rows("INSERT INTO t VALUES", 2, [number, "x"]) for number in (10, 20)]
    receipt = execute(
        database, Transaction((Unit(guard(1), (rows[0],)), Unit(guard(2), (rows[1],))))
    )
    assert [guard is not None for guard in receipt.guards] == [True, False]
    assert database.execute("SELECT a FROM t WHERE b = 'x'").fetchall() == [(10,)]


def test_what_a_guard_returns_is_in_the_receipt(database: sqlite3.Connection) -> None:
    made = Unit(Statement("INSERT INTO t (b) VALUES ('new') RETURNING a, b"))
    assert execute(database, Transaction((made,))).guards == ((3, "new"),)


def test_a_wrong_number_of_rows_undoes_everything(database: sqlite3.Connection) -> None:
    first = Unit(None, (Statement("DELETE FROM t"),))
    second = Unit(None, (Statement("UPDATE t SET b = 'y' WHERE a = 1", expected=1),))
    with pytest.raises(InconsistentError, match="0 rows, not 1"):
        execute(database, Transaction((first, second)))
    assert not database.in_transaction
    assert database.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_an_error_of_sqlite_undoes_everything(database: sqlite3.Connection) -> None:
    bad = Unit(None, (Statement("DELETE FROM t"), Statement("INSERT INTO nowhere VALUES (1)")))
    with pytest.raises(sqlite3.OperationalError):
        execute(database, Transaction((bad,)))
    assert not database.in_transaction
    assert database.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_apart_a_unit_that_breaks_a_rule_is_refused_alone(database: sqlite3.Connection) -> None:
    good = Unit(guard(1), (Rows("INSERT INTO t VALUES", 2, [10, "x"]),))
    bad = Unit(None, (Rows("INSERT INTO t VALUES", 2, [11, "y", 1, "twin"]),))
    transaction = Transaction((bad, good))
    with pytest.raises(sqlite3.IntegrityError):
        execute(database, transaction)
    assert [g is not None for g in execute_apart(database, transaction).guards] == [False, True]
    assert database.execute("SELECT a FROM t WHERE a > 9").fetchall() == [(10,)]


@given(st.integers(0, 1500))
def test_rows_are_written_once_each_however_many(count: int) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        flat = [value for number in range(count) for value in (number, str(number))]
        execute(connection, Transaction((Unit(None, (Rows("INSERT INTO t VALUES", 2, flat),)),)))
        assert connection.execute("SELECT count(*), count(DISTINCT a) FROM t").fetchone() == (
            count,
            count,
        )
        assert connection.execute("SELECT * FROM t WHERE b != a").fetchall() == []
    finally:
        connection.close()
