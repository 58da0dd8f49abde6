"""The cases as one would write them by hand, with what stagerun stores of them."""

import json
import sqlite3
import traceback
from inspect import isasyncgenfunction
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import trio
from attrs import field, frozen

from benchmarks.baselines import CAPACITY, DEADLINE, RUN_DEADLINE, Recorder, open_stored
from benchmarks.process import BenchmarkError
from benchmarks.real.cases import NAMES, SIZE, Case, Function
from benchmarks.real.stored import check_stored

__all__ = ["measure_by_hand"]

_SCHEMA = """
    CREATE TABLE items (
        run TEXT, stage TEXT, item INTEGER, outcome TEXT, attempts INTEGER, seconds REAL,
        result BLOB, error TEXT, message TEXT, detail TEXT, PRIMARY KEY (run, stage, item)
    ) WITHOUT ROWID;
    CREATE TABLE children (
        run TEXT, stage TEXT, item INTEGER, parent INTEGER, value BLOB,
        PRIMARY KEY (run, stage, item)
    ) WITHOUT ROWID;
"""
_ITEM = "INSERT INTO items VALUES ('run', ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHILD = "INSERT INTO children VALUES ('run', ?, ?, ?, ?)"
_STORED = f"""
    SELECT count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'failed'),
        sum(attempts), count(*) FILTER (WHERE length(result) >= {SIZE}),
        count(*) FILTER (WHERE detail LIKE '%' || message || '%' AND error IS NOT NULL),
        (SELECT count(*) FROM children)
    FROM items
"""

_Item = tuple[int, Any]
_Inbox = trio.abc.ReceiveChannel[_Item]
_Outlet = trio.abc.SendChannel[_Item]
_Entry = tuple[str, tuple[Any, ...]]
"""A statement and its row."""


def measure_by_hand(case: Case, items: int, directory: Path) -> dict[str, float]:
    path = directory / "by-hand.db"
    seconds = trio.run(_run, case, items, path)
    check_stored(path, _STORED, case.stored(items))
    return {"seconds": seconds}


@frozen
class _Stage:
    name: str
    function: Function
    attempts: int
    recorder: Recorder
    numbers: "count[int]" = field(factory=lambda: count(1))

    async def carry(self, inbox: _Inbox, outlet: _Outlet) -> None:
        async for number, value in inbox:
            began = perf_counter()
            attempts, results, error = await self._try(value)
            many = isasyncgenfunction(self.function)
            result = None if many or error else _encoded(results[0])
            outcome = "failed" if error else "ok"
            row = (self.name, number, outcome, attempts, perf_counter() - began, result)
            await self.recorder.record((_ITEM, (*row, *_told(error))))
            for each in results:
                child = await self._child(number, each) if many else number
                await outlet.send((child, each))

    async def _try(self, value: Any) -> tuple[int, list[Any], Exception | None]:
        """Return how many attempts there were, what came out, and why nothing did."""
        attempt = 0
        with trio.move_on_after(DEADLINE):
            while True:
                attempt += 1
                try:
                    return attempt, await self._call(value), None
                except Exception as error:  # noqa: BLE001  # whatever it is, the item has failed
                    if attempt == self.attempts:
                        return attempt, [], error
        raise BenchmarkError(f"stage {self.name} took {DEADLINE} s")

    async def _call(self, value: Any) -> list[Any]:
        if isasyncgenfunction(self.function):
            return [child async for child in self.function(value)]
        return [await self.function(value)]

    async def _child(self, parent: int, value: Any) -> int:
        number = next(self.numbers)
        await self.recorder.record((_CHILD, (self.name, number, parent, _encoded(value))))
        return number


async def _run(case: Case, items: int, path: Path) -> float:
    recorder = Recorder(open_stored(path, _SCHEMA), _commit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.write)
        started = perf_counter()
        with trio.fail_after(RUN_DEADLINE):
            await _run_stages(case, items, recorder)
        recorder.close()
    seconds = perf_counter() - started
    recorder.connection.close()
    return seconds


async def _run_stages(case: Case, items: int, recorder: Recorder) -> None:
    async with trio.open_nursery() as nursery:
        source, inbox = trio.open_memory_channel[_Item](CAPACITY)
        for name, function in zip(NAMES, case.functions(), strict=True):
            stage = _Stage(name, function, case.attempts, recorder)
            outlet, following = trio.open_memory_channel[_Item](CAPACITY)
            nursery.start_soon(_run_stage, stage, case.workers, inbox, outlet)
            inbox = following
        nursery.start_soon(_drop, inbox)
        async with source:
            for item in range(items):
                await source.send((item + 1, item))


async def _run_stage(stage: _Stage, workers: int, inbox: _Inbox, outlet: _Outlet) -> None:
    async with inbox, outlet, trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(stage.carry, inbox, outlet)


async def _drop(inbox: _Inbox) -> None:
    async for _ in inbox:
        pass


def _encoded(value: Any) -> bytes | str:
    return value if isinstance(value, bytes) else json.dumps(value)


def _told(error: Exception | None) -> tuple[str | None, str | None, str | None]:
    if error is None:
        return None, None, None
    return type(error).__name__, str(error), "".join(traceback.format_exception(error))


def _commit(connection: sqlite3.Connection, entries: list[_Entry]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in (_ITEM, _CHILD):
        connection.executemany(statement, [row for which, row in entries if which is statement])
    connection.execute("COMMIT")
