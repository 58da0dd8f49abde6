"""What SQLite makes of a packed outcome is what the engine meant by it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun.model.outcome import Outcome
from stagerun.store import packing
from stagerun.store.opening import connect
from stagerun.store.packing import ATTEMPTS, STAGE, stage_and_outcome
from stagerun.store.transaction import Rows, Transaction, Unit, execute

PLACES = st.tuples(st.integers(0, 10_000), st.sampled_from(Outcome), st.integers(0, 10**9))
SECONDS = st.floats(0, 2e9)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    folder: Path = tmp_path_factory.mktemp("packing")
    connection = connect(folder / "runs.db")
    connection.execute("PRAGMA foreign_keys = OFF")
    yield connection
    connection.close()


@given(st.lists(st.tuples(PLACES, SECONDS, SECONDS, st.none() | st.binary()), max_size=9))
def test_a_row_holds_what_was_packed(connection: sqlite3.Connection, given_rows: list[Any]) -> None:
    flat, expected = list[Any](), list[Any]()
    for item, ((stage, outcome, attempts), start, elapsed, result) in enumerate(given_rows, 1):
        kind = attempts << ATTEMPTS | stage << STAGE | outcome
        assert stage_and_outcome(kind) == (stage, outcome)
        flat += [kind, item, start, elapsed, result]
        times = (int(start * 1e6), int(elapsed * 1e6))
        expected.append((7, stage, item, 3, outcome.value, attempts, *times, result))
    connection.execute("DELETE FROM items")
    rows = Rows(packing.INSERT, packing.WIDTH, flat, (7, 3), packing.END)
    execute(connection, Transaction((Unit(None, (rows,)),)))
    assert connection.execute("SELECT * FROM items ORDER BY item").fetchall() == expected
