"""One dead owner with very many runs: how long they take to settle, and what stands still."""

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.latency.figure import Figure, quantile
from benchmarks.latency.program import heard, program, seen
from benchmarks.process import BenchmarkError
from stagerun.store.opening import connect
from stagerun.store.owner import Identity, OwnerFile
from stagerun.store.owners import settle_owner
from stagerun.store.questions import settled_runs
from stagerun.store.transaction import Rows

__all__ = ["orphans"]

_RUNS = 100_000
_STAGES = (1, 3)
_DEAD = "d" * 32

_OPENER = """
import json, sys, time, trio
from stagerun import open_runtime

worst = 0.0

async def watch():
    global worst
    while True:
        before = time.monotonic()
        await trio.sleep(0.005)
        worst = max(worst, time.monotonic() - before - 0.005)

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.1)
        began = time.monotonic()
        print(began, flush=True)
        async with open_runtime(sys.argv[1]):
            print(json.dumps([time.monotonic() - began, worst]), flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""
_ENDED = "SELECT 1 FROM owners WHERE id = ? AND ended_cause = 'dead'"


def orphans(repeats: int, directory: Path) -> list[Figure]:
    """Open databases in which a dead owner has left 100,000 runs under way, of 1 and 3 stages."""
    return [figure for stages in _STAGES for figure in _settle(repeats, directory, stages)]


def _settle(repeats: int, directory: Path, stages: int) -> list[Figure]:
    settled, opened, still = [], [], []
    costs: dict[str, list[float]] = {}
    for number in range(repeats):
        path = directory / f"orphans-{stages}-{number}.db"
        owner, identity = _leave(path, stages)
        for name, seconds in _costs(path, owner, identity).items():
            costs.setdefault(name, []).append(seconds * 1000)
        with program(_OPENER, path) as opener:
            began = float(heard(opener))
            settled.append((seen(path, _ENDED, _DEAD) - began) * 1000)
            took, worst = json.loads(heard(opener))
            opened.append(took * 1000)
            still.append(worst * 1000)
            opener.wait(timeout=60)
        _check(path, stages)
        path.unlink()
    where = {f"{name}, ms": round(quantile(samples, 0.5)) for name, samples in costs.items()}
    title = f"{_RUNS:,} orphans of {stages} stage{'s'[: stages - 1]}"
    return [
        Figure(f"{title}, settled at start", settled, bound=2000, where=where),
        Figure(f"{title}, open_runtime returns", opened),
        Figure(f"{title}, longest standstill of the loop", still),
    ]


def _leave(path: Path, stages: int) -> tuple[int, Identity]:
    """Make the database that such an owner leaves behind; return its number and its file."""
    with closing(connect(path)) as connection:
        file = OwnerFile(path, _DEAD)
        file.let_go()  # the lock is gone, the file stays: so it is after a death
        now = time.time_ns() // 1000
        connection.execute("BEGIN")
        (owner,) = connection.execute(
            "INSERT INTO owners (id, device, inode, pid, host, started_at, alive_at, tick_at)"
            " VALUES (?, ?, ?, 1, 'there', ?, ?, ?) RETURNING owner",
            (_DEAD, file.identity.device, file.identity.inode, now, now, now),
        ).fetchone()
        connection.execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?)"
            " INSERT INTO runs (run, id, pipeline, generation, created_at, params, source,"
            " source_length, events) SELECT n, lower(hex(randomblob(16))), 'orphan', 1, ?, x'c0',"
            " 'stored', 10, 1 FROM n",
            (_RUNS, now),
        )
        connection.execute(
            "INSERT INTO generations (run, generation, owner, status, created_at, started_at,"
            " updated_at, deadline_at) SELECT run, 1, ?, 'running', ?, ?, ?, ? FROM runs",
            (owner, now, now, now, now + 1800 * 10**6),
        )
        connection.execute(
            "WITH RECURSIVE s(s) AS (SELECT 0 UNION ALL SELECT s + 1 FROM s LIMIT ?)"
            " INSERT INTO stages (run, generation, stage, name, kind, version, status, started_at,"
            " accepted, ok, in_flight) SELECT run, 1, s, 'stage' || s, 'one', 1, 'running', ?,"
            " 10, 2, 1 FROM runs, s ORDER BY run, s",
            (stages, now),
        )
        connection.execute(
            "INSERT INTO events SELECT run, 1, 1, ?, 'run', NULL, NULL, NULL, 'running' FROM runs",
            (now,),
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return owner, file.identity


def _costs(path: Path, owner: int, identity: Identity) -> dict[str, float]:
    """Return what each statement of the settling costs by itself. Nothing of it is kept."""
    now, costs = time.time_ns() // 1000, {}
    unit = settle_owner(owner, identity, owner, now)
    with closing(connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in (unit.guard, *unit.body):
            assert statement is not None
            assert not isinstance(statement, Rows)
            name = " ".join(statement.sql.split()[:3])
            costs[name] = _seconds(connection, statement.sql, statement.parameters)
        began = time.perf_counter()
        settled_runs(owner, owner, now)(connection)
        costs["the question which runs these were"] = time.perf_counter() - began
        connection.execute("ROLLBACK")
    return costs


def _seconds(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> float:
    began = time.perf_counter()
    connection.execute(sql, parameters).fetchall()
    return time.perf_counter() - began


def _check(path: Path, stages: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM generations WHERE status = 'interrupted'),"
            " (SELECT count(*) FROM stages WHERE status = 'interrupted'),"
            " (SELECT count(*) FROM events WHERE body = 'interrupted')"
        ).fetchone()
    if counted != (_RUNS, _RUNS * stages, _RUNS):
        raise BenchmarkError(f"not all runs, stages and events were settled: {counted}")
