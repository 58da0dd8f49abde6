"""Asking beside a runtime: bounded, from one state, and never waiting for the writer."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from stagerun.engine.asking import Pause
from stagerun.errors import StoreError, UsageError
from stagerun.store.opening import connect
from stagerun.store.pool import ReadingPool, TooSlowError
from stagerun.store.transaction import Statement, Unit
from tests.web.asked import empty_database

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return empty_database(tmp_path)


def label(number: int) -> Unit:
    return Unit(Statement("INSERT INTO pruned VALUES (?) RETURNING run", (number,)))


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM pruned").fetchone()[0])


async def test_a_question_that_takes_too_long_is_cut_and_the_next_one_is_answered(
    path: Path,
) -> None:
    pool = ReadingPool(path, size=1, deadline=0.1)
    with trio.fail_after(5):
        with pytest.raises(TooSlowError, match="ask for less"):
            await pool.ask(lambda c: c.execute(ENDLESS).fetchone())
        assert await pool.ask(count) == 0
    pool.close()


async def test_whoever_gets_no_turn_is_told_so(path: Path) -> None:
    pool, release = ReadingPool(path, size=1, deadline=0.1), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        release.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.ask, hold)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(TooSlowError, match="no turn"):
            await pool.ask(count)
        release.set()
    assert await pool.ask(count) == 0
    pool.close()


async def test_a_question_sees_one_state_and_never_waits_for_a_writer(path: Path) -> None:
    pool, writer = ReadingPool(path), connect(path)

    def twice(connection: sqlite3.Connection) -> tuple[int, int]:
        before = count(connection)
        writer.execute("INSERT INTO pruned VALUES (1)")
        return before, count(connection)

    assert await pool.ask(twice) == (0, 0)
    assert await pool.ask(count) == 1
    writer.execute("BEGIN IMMEDIATE")
    with trio.fail_after(1):
        assert await pool.ask(count) == 1
    writer.execute("ROLLBACK")
    writer.close()
    pool.close()


async def test_nothing_can_be_written_by_a_question(path: Path) -> None:
    pool = ReadingPool(path)
    with pytest.raises(StoreError, match="cannot be written"):
        await pool.ask(lambda c: c.execute("INSERT INTO pruned VALUES (1)"))
    assert await pool.ask(count) == 0
    pool.close()


async def test_what_a_question_raises_comes_out_and_costs_nothing(path: Path) -> None:
    pool = ReadingPool(path, size=1)

    def refuse(_: sqlite3.Connection) -> None:
        raise UsageError("there is no such run")

    for _ in range(3):
        with pytest.raises(UsageError, match="no such run"):
            await pool.ask(refuse)
    assert await pool.ask(count) == 0
    pool.close()


async def test_a_dialogue_asks_writes_and_pauses(path: Path) -> None:
    def dialogue() -> Any:
        before = yield count
        (number,) = yield label(7)
        assert (yield Pause(0.001)) is None
        return before, number, (yield count)

    pool = ReadingPool(path)
    assert await pool.hold(dialogue()) == (0, 7, 1)
    pool.close()


async def test_a_dialogue_gives_up_on_a_database_that_stays_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagerun.store.pool._PATIENCE", 0.1)
    pool, other = ReadingPool(path), connect(path)
    other.execute("BEGIN IMMEDIATE")

    def dialogue() -> Any:
        return (yield label(1))

    with trio.fail_after(5), pytest.raises(StoreError, match="locked"):
        await pool.hold(dialogue())
    other.execute("ROLLBACK")
    assert tuple(await pool.hold(dialogue())) == (1,)
    other.close()
    pool.close()


async def test_a_database_that_is_gone_or_another_one_is_noticed(path: Path) -> None:
    pool = ReadingPool(path)
    assert await pool.ask(count) == 0
    connection = connect(path.with_name("other.db"))
    connection.execute("INSERT INTO pruned VALUES (1)")
    connection.close()
    for ending in ("", "-wal", "-shm"):
        path.with_name(f"runs.db{ending}").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="there is no database"):
        await pool.ask(count)
    path.with_name("other.db").rename(path)
    assert await pool.ask(count) == 1
    pool.close()


async def test_a_closed_pool_can_be_used_again(path: Path) -> None:
    pool = ReadingPool(path)
    for _ in range(2):
        assert await pool.ask(count) == 0
        pool.close()
        assert pool._readers._idle == []


def test_it_works_under_asyncio(path: Path) -> None:
    import asyncio

    pool = ReadingPool(path)

    def dialogue() -> Any:
        yield Pause(0.001)
        return tuple((yield label(3)))

    assert asyncio.run(pool.hold(dialogue())) == (3,)
    assert asyncio.run(pool.ask(count)) == 1
    pool.close()
