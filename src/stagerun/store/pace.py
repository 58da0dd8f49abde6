"""How fast a run gets on, told by its sums and by the progress events that are kept."""

import sqlite3
from typing import Any, Final

import msgspec
from attrs import frozen

from stagerun.store.driver import Question
from stagerun.store.subject import Subject, subject

__all__ = ["Point", "measured", "pace", "points"]

_WINDOW: Final = 60_000_000
"""Microseconds that are looked back."""
_LEAST: Final = 500_000
"""Of less than so many nothing is told: the first items are not typical."""
_POINTS: Final = 300
"""Progress events that are read of one run; they are at most four a second."""


@frozen
class Point:
    """Where a run stood at a moment, in microseconds."""

    at: int
    percent: float | None
    settled: dict[str, tuple[int, int]]
    """Per stage the items that had ended well, and the others."""

    @classmethod
    def of(cls, at: int, body: str) -> "Point":
        """Read a progress event."""
        told = msgspec.json.decode(body)
        settled = {}
        for name, (_, ok, failed, timed_out, cancelled, skipped, crashed) in told["stages"].items():
            settled[name] = (ok + skipped, failed + timed_out + cancelled + crashed)
        return cls(at, told["percent"], settled)

    @classmethod
    def now(cls, run: Subject) -> "Point":
        """Return where a run stands, or stood when it ended."""
        settled = {stage.name: (stage.settled - stage.bad, stage.bad) for stage in run.stages}
        return cls(run.ended, run.percent, settled)


def pace(identifier: str, *, now: int | None = None) -> Question[dict[str, Any]]:
    """Ask how fast a run gets on: see ``measured``. *now*: microseconds; None: the clock's.

    Raises:
        UsageError: There is no such run, or more than one.
    """
    return lambda connection: measured(connection, subject(connection, identifier, now=now))


def measured(connection: sqlite3.Connection, run: Subject) -> dict[str, Any]:
    """Return items per second of the last stage that moves, and the seconds that are left.

    Over the last minute, or less when it has begun since; of a run that has ended, over the whole
    of its only generation. None: not known. ``seconds_left`` goes by the percentage.
    """
    unknown = {"items_per_second": None, "stage": None, "seconds_left": None, "measured_over": 0.0}
    here = Point.now(run)
    before = _before(connection, run, here.at - _WINDOW if run.running else run.begun)
    if run.status == "queued" or before is None or here.at - before.at < _LEAST:
        return unknown
    seconds = (here.at - before.at) / 1e6
    done = {
        name: sum(ended) - sum(before.settled.get(name, ())) for name, ended in here.settled.items()
    }
    moving = [name for name, count in done.items() if count > 0]
    stage = (moving or [*done])[-1]
    left = None
    if run.running and here.percent is not None:
        gained = here.percent - (before.percent or 0.0)
        left = (100.0 - here.percent) * seconds / gained if gained > 0 else None
    return {
        "items_per_second": max(0, done[stage]) / seconds,
        "stage": stage,
        "seconds_left": left,
        "measured_over": seconds,
    }


def points(connection: sqlite3.Connection, run: Subject) -> list[Point]:
    """Return where the generation stood at moments spread over what is kept, and where it is."""
    which = "FROM events WHERE run = ? AND generation = ? AND kind = 'progress'"
    this = (run.run, run.generation)
    (count,) = connection.execute(f"SELECT count(*) {which}", this).fetchone()
    (rows,) = connection.execute(
        f"SELECT json_group_array(json_array(at, body)) {which} AND seq % ? = 0",
        (*this, 1 + count // _POINTS),
    ).fetchone()
    told = [Point.of(at, body) for at, body in msgspec.json.decode(rows)]
    return [*told, Point.now(run)]


def _before(connection: sqlite3.Connection, run: Subject, at: int) -> Point | None:
    """Return where the generation stood at a moment, or as soon after it as is known."""
    if run.generation == 1 and at <= run.begun:
        return Point(run.begun, 0.0, {stage.name: (0, 0) for stage in run.stages})
    if not run.running:
        return None
    this = (run.run, run.generation, at)
    told = "SELECT at, body FROM events WHERE run = ? AND generation = ? AND kind = 'progress'"
    row = (
        connection.execute(f"{told} AND at <= ? ORDER BY seq DESC LIMIT 1", this).fetchone()
        or connection.execute(f"{told} AND at > ? ORDER BY seq LIMIT 1", this).fetchone()
    )
    return None if row is None else Point.of(*row)
