"""Pipelines written by hand: three stages that do nothing, four workers each, channels of 100, a
deadline round every call.

`measure_*(items, directory)` times from the first put to the last item done (to the last commit,
where rows are stored) and checks afterwards that all the work was done.
"""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

from benchmarks.process import BenchmarkError

WORKERS = 4
CAPACITY = 100  # items between two stages
DEADLINE = 30  # seconds for a call
RUN_DEADLINE = 1800  # seconds

BATCH = 500  # rows in a transaction, at most
LINGER = 0.05  # seconds that a row waits for its batch to fill
BACKLOG = 2_000  # rows that wait for the disk, at most; then the stages wait

SCHEMA = """
    CREATE TABLE items (
        run TEXT, stage TEXT, item INTEGER, outcome TEXT, attempts INTEGER, seconds REAL,
        result TEXT, PRIMARY KEY (run, stage, item)
    ) WITHOUT ROWID
"""
INSERT = "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)"
COUNTS = "SELECT stage, count(*) FROM items GROUP BY stage"

Row = tuple[str, str, int, str, int, float, str]
Stage = Callable[[int], Awaitable[int]]
Inbox = trio.abc.ReceiveChannel[int]
Outlet = trio.abc.SendChannel[int]
Carry = Callable[[Stage, Inbox, Outlet], Awaitable[None]]
Commit = Callable[[sqlite3.Connection, list[Any]], None]


async def one(item: int) -> int:
    return item


async def two(item: int) -> int:
    return item


async def three(item: int) -> int:
    return item


STAGES = (one, two, three)


def measure_trio(items: int, _: Path) -> dict[str, float]:
    return {"seconds": trio.run(_run_trio, items, _carry)}


def measure_trio_stored(items: int, directory: Path) -> dict[str, float]:
    path = directory / "by-hand.db"
    seconds = trio.run(_run_trio_stored, items, path)
    check_counts(path, COUNTS, items)
    return {"seconds": seconds}


def measure_asyncio(items: int, _: Path) -> dict[str, float]:
    return {"seconds": asyncio.run(_run_asyncio(items))}


def measure_sqlite(items: int, directory: Path) -> dict[str, float]:
    """Store the rows that `measure_trio_stored` stores, made beforehand: SQLite's own limit."""
    path = directory / "rows.db"
    rows = [_row(stage, item, item, 1e-6) for item in range(items) for stage in STAGES]
    connection = open_stored(path, SCHEMA)
    started = perf_counter()
    for first in range(0, len(rows), BATCH):
        _commit(connection, rows[first : first + BATCH])
    seconds = perf_counter() - started
    connection.close()
    check_counts(path, COUNTS, items)
    return {"seconds": seconds}


def check_counts(path: Path, query: str, items: int) -> None:
    """Open the file anew and refuse anything but `items` rows in each of the three stages."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        counts = dict(connection.execute(query).fetchall())
    except sqlite3.Error as error:
        raise BenchmarkError(f"{path.name} does not answer {query!r}: {error}") from error
    finally:
        connection.close()
    if list(counts.values()) != [items] * len(STAGES):
        raise BenchmarkError(
            f"{path.name} should hold {items} outcomes in each of {len(STAGES)} stages: {counts}"
        )


async def _run_trio(items: int, carry: Carry) -> float:
    tally = _Tally()
    with trio.fail_after(RUN_DEADLINE):
        async with trio.open_nursery() as nursery:
            source, inbox = trio.open_memory_channel[int](CAPACITY)
            for stage in STAGES[:-1]:
                outlet, following = trio.open_memory_channel[int](CAPACITY)
                nursery.start_soon(_run_stage, partial(carry, stage), inbox, outlet)
                inbox = following
            nursery.start_soon(_run_stage, partial(carry, STAGES[-1]), inbox, tally)
            started = perf_counter()
            async with source:
                for item in range(items):
                    await source.send(item)
    seconds = perf_counter() - started
    _check_done(tally.count, items)
    return seconds


async def _run_stage(
    worker: Callable[[Inbox, Outlet], Awaitable[None]], inbox: Inbox, outlet: Outlet
) -> None:
    async with inbox, outlet, trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(worker, inbox, outlet)


async def _carry(stage: Stage, inbox: Inbox, outlet: Outlet) -> None:
    async for item in inbox:
        with trio.move_on_after(DEADLINE) as scope:
            result = await stage(item)
        if scope.cancelled_caught:
            raise BenchmarkError(f"a stage that does nothing took {DEADLINE} s")
        await outlet.send(result)


class _Tally(trio.abc.SendChannel[int]):
    """Where the last stage sends: counts, and costs nothing."""

    def __init__(self) -> None:
        self.count = 0

    async def send(self, value: int) -> None:  # noqa: ARG002  # only how many matters
        self.count += 1

    async def aclose(self) -> None:
        pass


async def _run_trio_stored(items: int, path: Path) -> float:
    recorder = Recorder(open_stored(path, SCHEMA), _commit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.write)
        started = perf_counter()
        await _run_trio(items, partial(_carry_stored, recorder))
        recorder.close()
    seconds = perf_counter() - started
    recorder.connection.close()
    return seconds


async def _carry_stored(recorder: "Recorder", stage: Stage, inbox: Inbox, outlet: Outlet) -> None:
    async for item in inbox:
        began = perf_counter()
        with trio.move_on_after(DEADLINE) as scope:
            result = await stage(item)
        if scope.cancelled_caught:
            raise BenchmarkError(f"a stage that does nothing took {DEADLINE} s")
        await recorder.record(_row(stage, item, result, perf_counter() - began))
        await outlet.send(result)


class Recorder:
    """Write-behind: batches of 500 rows or 50 ms, committed in a thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection, commit: Commit) -> None:
        self.connection = connection
        self._commit = commit
        self._rows: list[Any] = []
        self._closed = False
        self._full = trio.Event()
        self._room = trio.Event()

    async def record(self, row: Any) -> None:
        while len(self._rows) >= BACKLOG:
            await self._room.wait()
        self._rows.append(row)
        if len(self._rows) >= BATCH:
            self._full.set()

    async def write(self) -> None:
        while self._rows or not self._closed:
            if len(self._rows) < BATCH and not self._closed:
                with trio.move_on_after(LINGER):
                    await self._full.wait()
            batch, self._rows = self._rows[:BATCH], self._rows[BATCH:]
            self._room.set()
            self._full, self._room = trio.Event(), trio.Event()
            await trio.to_thread.run_sync(self._commit, self.connection, batch)

    def close(self) -> None:
        self._closed = True
        self._full.set()


async def _run_asyncio(items: int) -> float:
    queues = [asyncio.Queue[int](CAPACITY) for _ in STAGES]
    finished = asyncio.Event()
    count = 0

    async def finish(_: int) -> None:
        nonlocal count
        count += 1
        if count == items:
            finished.set()

    deliveries = [*(queue.put for queue in queues[1:]), finish]
    async with asyncio.timeout(RUN_DEADLINE), asyncio.TaskGroup() as group:
        workers = [
            group.create_task(_carry_asyncio(stage, queue, deliver))
            for stage, queue, deliver in zip(STAGES, queues, deliveries, strict=True)
            for _ in range(WORKERS)
        ]
        started = perf_counter()
        for item in range(items):
            await queues[0].put(item)
        await finished.wait()
        seconds = perf_counter() - started
        for worker in workers:
            worker.cancel()
    _check_done(count, items)
    return seconds


async def _carry_asyncio(
    stage: Stage, queue: asyncio.Queue[int], deliver: Callable[[int], Awaitable[None]]
) -> None:
    while True:
        item = await queue.get()
        async with asyncio.timeout(DEADLINE):
            result = await stage(item)
        await deliver(result)


def _check_done(count: int, items: int) -> None:
    if count != items:
        raise BenchmarkError(f"{count} of {items} items came out of the last stage")


def open_stored(path: Path, schema: str) -> sqlite3.Connection:
    # One thread at a time, though not always the same one.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(schema)
    return connection


def _row(stage: Stage, item: int, result: int, seconds: float) -> Row:
    return ("run", stage.__name__, item, "ok", 1, seconds, json.dumps(result))


def _commit(connection: sqlite3.Connection, rows: list[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, rows)
    connection.execute("COMMIT")
