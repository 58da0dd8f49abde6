"""Fixtures for all tests: a runtime in virtual time, and the sums that must hold on disk."""

import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from attrs import frozen

from stagerun import Pipeline, Result, Runtime, open_runtime
from stagerun.engine.env import Env
from stagerun.store.inline import InlineStore

_CANCELLED = 3
EPOCH = 1_700_000_000.0
"""Wall time of the virtual world's beginning."""


def pytest_configure() -> None:
    """Undo what shells do to programs in the background: they ignore Ctrl-C, as do their own."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def virtual_env(**options: Any) -> Env:
    """Return a world whose wall clock follows trio's, without chance and without settings."""
    given: dict[str, Any] = {
        "jitter": lambda: 0.5,
        "wall": lambda: EPOCH + trio.current_time(),
        "monotonic": trio.current_time,
        "environ": {},
        "threads": False,
    }
    return Env(**(given | options))


def same_repr(value: object) -> str:
    """Return a name for a test's value: the same in each process, whatever its address is."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@frozen
class Bench:
    """A runtime in virtual time, with its database in reach."""

    runtime: Runtime
    store: InlineStore

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = self.store._connection
        assert connection is not None, "the store is closed"
        return connection.execute(query, parameters).fetchall()

    async def finish(
        self, pipeline: Pipeline, items: Any = None, *, within: float = 10_000, **options: Any
    ) -> Result:
        """Run a pipeline to its end and check the sums that it leaves."""
        run = await self.runtime.start(pipeline, items, **options)
        with trio.fail_after(within):
            result = await run.wait()
        sums_hold(self.store._connection)
        return result

    def outcomes(self, result: Result, stage: int = 0) -> dict[int, str]:
        """Outcome by item of one stage."""
        rows = self.sql(
            "SELECT o.item, o.outcome FROM item_overview o JOIN runs r ON r.id = o.run"
            " JOIN stages s ON s.run = r.run AND s.generation = o.generation AND s.name = o.stage"
            " WHERE o.run = ? AND s.stage = ? ORDER BY o.item",
            result.id,
            stage,
        )
        return dict(rows)

    def causes(self, result: Result, stage: int = 0) -> dict[int, str]:
        """Cause by item of what did not end ``ok`` in one stage."""
        return {item: cause for item, cause, _, _ in self.failures(result, stage)}

    def failures(self, result: Result, stage: int = 0) -> list[tuple[int, str, str, str | None]]:
        """Item, cause, message and error of what did not end ``ok`` in one stage."""
        return self.sql(
            "SELECT f.item, f.cause, f.message, f.error FROM failures f"
            " JOIN runs r ON r.run = f.run WHERE r.id = ? AND f.stage = ? ORDER BY f.item",
            result.id,
            stage,
        )


def sums_hold(connection: sqlite3.Connection | None) -> None:
    """Check on disk: accepted = outcomes + in flight + waiting, and counters equal rows."""
    assert connection is not None, "the store is closed"
    columns = "ok, failed, timed_out, cancelled, skipped, crashed"
    stages = connection.execute(
        f"SELECT s.run, s.generation, s.stage, s.name, s.accepted, s.in_flight, g.finished_at,"
        f" s.since, s.failed_since, {columns}"
        f" FROM stages s JOIN generations g USING (run, generation)"
    ).fetchall()
    for run, generation, stage, name, accepted, in_flight, finished_at, *rest in stages:
        since, failed_since, *counted = rest
        where = f"run {run}, generation {generation}, stage {name}"
        rows = connection.execute(
            "SELECT outcome, generation, count(*) FROM items"
            " WHERE run = ? AND generation <= ? AND stage = ? GROUP BY outcome, generation",
            (run, generation, stage),
        ).fetchall()
        stored = [0] * 6
        for outcome, recorded, count in rows:
            final = recorded >= (since if outcome in (0, 4) else failed_since)
            if final and (outcome != _CANCELLED or recorded == generation):
                stored[outcome] += count
        assert counted == stored, f"{where}: counters {counted}, rows {stored}"
        waiting = accepted - sum(counted) - in_flight
        assert waiting >= 0, f"{where}: more outcomes than items"
        assert in_flight >= 0, where
        if finished_at is not None:
            assert in_flight == 0, f"{where}: still in flight after the end"
    twice = connection.execute(
        "SELECT run, stage, item, generation FROM items"
        " GROUP BY run, stage, item, generation HAVING count(*) > 1"
    ).fetchall()
    assert not twice, f"more than one outcome: {twice}"
    bare = connection.execute(
        "SELECT i.run, i.stage, i.item FROM items i LEFT JOIN failures f"
        " USING (run, stage, item, generation)"
        " WHERE i.outcome NOT IN (0, 4) AND f.cause IS NULL"
    ).fetchall()
    assert not bare, f"outcomes without a cause: {bare}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests on a virtual bench run in virtual time; the plugin looks at arguments only."""
    for item in items:
        if {"bench", "new_bench"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.trio(run=_run_in_virtual_time), append=False)


def _run_in_virtual_time(main: Any, *, clock: Any, instruments: Any) -> Any:
    clock = clock or trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, clock=clock, instruments=instruments)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A runtime in virtual time; nothing here takes wall time, and no thread may be used."""
    store = InlineStore(":memory:")
    async with open_runtime(store=store, env=virtual_env()) as opened:
        yield Bench(opened, store)
        sums_hold(store._connection)


@pytest.fixture
def runtime(bench: Bench) -> Runtime:
    """The runtime of ``bench``, for tests that need no look at its database."""
    return bench.runtime


@pytest.fixture
def new_bench() -> Callable[..., AbstractAsyncContextManager[Bench]]:
    """Open further runtimes in virtual time: ``async with new_bench() as bench``."""

    @asynccontextmanager
    async def make(
        *,
        store: InlineStore | None = None,
        pipelines: Sequence[Pipeline] = (),
        **options: Any,
    ) -> AsyncIterator[Bench]:
        store = store or InlineStore(":memory:")
        env = virtual_env(**options)
        async with open_runtime(store=store, env=env, pipelines=pipelines) as opened:
            yield Bench(opened, store)

    return make


async def listed(results: AsyncIterator[Any]) -> list[Any]:
    """Read an iterator of results to its end."""
    return [value async for value in results]
