"""Asking beside a runtime: bounded, from one state, and never waiting for the writer."""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from stagerun.engine.asking import Pause
from stagerun.errors import StoreError, UsageError
from stagerun.store import talk
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
    monkeypatch.setattr("stagerun.store.talk._PATIENCE", 0.1)
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


async def _leave(called: Any, begun: threading.Event, ended: threading.Event) -> None:
    """Call, and be cancelled once it has begun; the thread is then soon at its end, too."""
    async with anyio.create_task_group() as group:
        group.start_soon(called)
        assert await anyio.to_thread.run_sync(begun.wait, 5)
        group.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, 5)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_whoever_is_cancelled_goes_at_once_and_so_does_the_question(
    path: Path, backend: str
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(connection: sqlite3.Connection) -> None:
        begun.set()
        try:
            connection.execute(ENDLESS).fetchone()
        finally:
            ended.set()

    async def main() -> None:
        pool = ReadingPool(path, size=1, deadline=60)

        async def ask() -> None:
            await pool.ask(endless)
            raise AssertionError

        await _leave(ask, begun, ended)
        with anyio.fail_after(5):
            assert await pool.ask(count) == 0
        pool.close()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_whoever_is_cancelled_while_others_lock_the_database_goes_at_once(
    path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagerun.store.talk._PATIENCE", 60)
    tried, ended = threading.Event(), threading.Event()
    written = talk.write

    def write(connection: Any, unit: Unit, place: Path, rest: Any) -> Any:
        def resting(seconds: float) -> bool:
            tried.set()
            return bool(rest(seconds))

        try:
            return written(connection, unit, place, resting)
        finally:
            ended.set()

    monkeypatch.setattr("stagerun.store.pool.write", write)

    def dialogue() -> Any:
        return (yield label(1))

    async def main() -> None:
        pool, other = ReadingPool(path), connect(path)
        other.execute("BEGIN IMMEDIATE")

        async def hold() -> None:
            await pool.hold(dialogue())
            raise AssertionError

        await _leave(hold, tried, ended)
        with anyio.fail_after(5):
            other.execute("ROLLBACK")
            assert await pool.ask(count) == 0  # and it is not written later
            assert tuple(await pool.hold(dialogue())) == (1,)
        other.close()
        pool.close()

    anyio.run(main, backend=backend)


def test_a_timeout_of_asyncio_itself_ends_a_question_as_well(path: Path) -> None:
    pool = ReadingPool(path, size=1, deadline=60)

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.ask(lambda c: c.execute(ENDLESS).fetchone())
        began = time.monotonic()
        assert await pool.ask(count) == 0
        return time.monotonic() - began

    assert asyncio.run(main()) < 5
    pool.close()


def test_it_works_under_asyncio(path: Path) -> None:
    pool = ReadingPool(path)

    def dialogue() -> Any:
        yield Pause(0.001)
        return tuple((yield label(3)))

    assert asyncio.run(pool.hold(dialogue())) == (3,)
    assert asyncio.run(pool.ask(count)) == 1
    pool.close()
