"""A database as it stands after a year of service: many runs, and some of them with many items."""

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from stagerun.store.opening import connect
from stagerun.store.owner import OwnerFile

_PIPELINES = ("crawl",) * 6 + ("embed",) * 3 + ("doomed",)
_ENDINGS = (
    ("succeeded", "completed"),
    *(("succeeded", "completed"),) * 15,
    ("failed", "least_ok"),
    ("cancelled", "requested"),
    ("timed_out", "run_deadline"),
    ("interrupted", "shutdown"),
)
_STAGES = ("fetch", "parse", "store")
_STAGES_OF = {1: _STAGES[:1], 2: _STAGES, 3: _STAGES[:1]}
"""Stages of the runs that have items; all others have all stages, and no rows of items."""
_SECOND = 1_000_000
_RUNNING = 40
"""Of the newest runs: as many run, and a quarter as many wait for their turn."""
_EVERY = 97
"""Every so many runs were resumed; and so many items did not come through."""
_PROGRESS = 1_000
_LASTS = 300 * _SECOND
"""Microseconds that the runs with items took."""


@frozen
class Crowd:
    path: Path
    large: str
    """The run that has most of the items."""
    small: str
    """A run of 10,000 items in each of three stages."""
    middle: str
    """A run of 100,000 items in one stage."""
    running: str
    """One that is under way."""


@contextmanager
def crowd(directory: Path, runs: int, items: int) -> Iterator[Crowd]:
    """Build the database; one of its owners lives until this ends, another one has died."""
    path = directory / "stagerun.db"
    chance = random.Random(7)
    with closing(connect(path)) as connection, ExitStack() as stack:
        living, dead = OwnerFile(path, "living"), OwnerFile(path, "dead")
        stack.callback(living.close)
        dead.let_go()
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        now = int(time.time() * 1e6)
        for owner, file in (("living", living), ("dead", dead)):
            identity = (file.identity.device, file.identity.inode)
            connection.execute(
                "INSERT INTO owners (id, device, inode, pid, host, started_at, alive_at, tick_at)"
                " VALUES (?, ?, ?, ?, 'here', ?, ?, ?)",
                (owner, *identity, os.getpid(), now - 60 * _SECOND, now, now),
            )
        identifiers = [chance.randbytes(16).hex() for _ in range(runs)]
        _insert(connection, "runs (run, id, pipeline, generation, created_at, params, source,"
                " source_length, events)", 9, _runs(identifiers, now))  # fmt: skip
        _insert(connection, "labels (run, name, value)", 3, _labels(runs))
        _insert(connection, "generations (run, generation, owner, status, cause, message,"
                " created_at, started_at, updated_at, deadline_at, moved_at, finished_at, ended_by,"
                " percent)", 14, _generations(runs, now, chance))  # fmt: skip
        _insert(connection, "stages (run, generation, stage, name, kind, version, workers,"
                " deadline, status, started_at, accepted, ok, failed)", 13,
                _stages(runs, now, items))  # fmt: skip
        for run in _STAGES_OF:
            began = _created(run, runs, now)
            _insert(connection, "items", 9, _items(run, items, began, chance))
            _insert(connection, "failures", 9, _failures(run, items))
            _insert(connection, "events", 9, _progress(run, items, began))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        large, small, middle, *_, running = identifiers
        yield Crowd(path, large, small, middle, running)


def _insert(connection: sqlite3.Connection, table: str, width: int, rows: Iterator[Any]) -> None:
    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * width)})", rows)


def _number(run: int, items: int) -> int:
    return min(items, {1: items, 2: 10_000, 3: 100_000}.get(run, 100))


def _created(run: int, runs: int, now: int) -> int:
    return now - (runs - run + 1) * 300 * _SECOND


def _generation(run: int) -> int:
    return 2 if run not in _STAGES_OF and run % _EVERY == 0 else 1


def _runs(identifiers: list[str], now: int) -> Iterator[Any]:
    number = len(identifiers)
    for run, identifier in enumerate(identifiers, 1):
        pipeline = "rare" if run % 20_000 == 5 else _PIPELINES[run * 7 % len(_PIPELINES)]
        created = _created(run, number, now)
        events = _PROGRESS if run in _STAGES_OF else 0
        yield (run, identifier, pipeline, _generation(run), created, b"\x80", "stored", 100, events)


def _labels(runs: int) -> Iterator[Any]:
    for run in range(1, runs + 1):
        yield run, "environment", "staging" if run % 100 == 0 else "production"
        yield run, "team", f"team-{run % 20}"
        yield run, "tenant", f"tenant-{run * 31 % 5_000}"
        if run % 25_000 == 9:
            yield run, "incident", "INC-7"


def _generations(runs: int, now: int, chance: random.Random) -> Iterator[Any]:
    for run in range(1, runs + 1):
        created = _created(run, runs, now)
        if run > runs - _RUNNING:
            status = "queued" if run % 5 == 0 else "running"
            begun = None if status == "queued" else created
            owner = 2 if run % 3 == 0 else 1
            yield (run, _generation(run), owner, status, None, None, created, begun, now,
                   created + 1800 * _SECOND, now, None, None, 40.0)  # fmt: skip
            continue
        endings = _ENDINGS[16:] if _PIPELINES[run * 7 % 10] == "doomed" else _ENDINGS
        for generation in range(1, _generation(run) + 1):
            last = generation == _generation(run)
            status, cause = chance.choice(endings) if last else ("interrupted", "shutdown")
            finished = created + chance.randrange(_SECOND, 400 * _SECOND)
            if run in _STAGES_OF:
                finished = created + _LASTS + 20 * _SECOND
            yield (run, generation, 1, status, cause, "so it ended", created, created, finished,
                   created + 1800 * _SECOND, finished, finished, 1, 100.0)  # fmt: skip


def _stages(runs: int, now: int, items: int) -> Iterator[Any]:
    for run in range(1, runs + 1):
        number = _number(run, items)
        created = _created(run, runs, now)
        for generation in range(1, _generation(run) + 1):
            for stage, name in enumerate(_STAGES_OF.get(run, _STAGES)):
                failed = number // _EVERY if run in _STAGES_OF else 0
                yield (run, generation, stage, name, "each", 1, 4, 30 * _SECOND, "succeeded",
                       created, number, number - failed, failed)  # fmt: skip


def _items(run: int, items: int, began: int, chance: random.Random) -> Iterator[Any]:
    number = _number(run, items)
    for stage, _ in enumerate(_STAGES_OF[run]):
        for item in range(1, number + 1):
            elapsed = int(chance.lognormvariate(12, 1))
            begun = began + stage * _SECOND + item * _LASTS // number
            outcome = 1 if item % _EVERY == 0 else 0
            yield run, stage, item, 1, outcome, 1 + outcome, begun, elapsed, b"\xa5hello"


def _failures(run: int, items: int) -> Iterator[Any]:
    for stage, _ in enumerate(_STAGES_OF[run]):
        for item in range(_EVERY, _number(run, items) + 1, _EVERY):
            message = f"record {item} was refused" if item % 2 else "the service is away"
            yield run, stage, item, 1, "error", message, "builtins.OSError", "Traceback", None


def _progress(run: int, items: int, began: int) -> Iterator[Any]:
    number = _number(run, items)
    for seq in range(1, _PROGRESS + 1):
        done = number * seq // _PROGRESS
        sums = [number, done - done // _EVERY, done // _EVERY, 0, 0, 0, 0]
        stages = dict.fromkeys(_STAGES_OF[run], sums)
        body = json.dumps({"percent": 100 * seq / _PROGRESS, "stages": stages})
        yield run, seq, 1, began + _LASTS * seq // _PROGRESS, "progress", None, None, None, body
