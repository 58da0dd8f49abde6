"""The verdict on a run that has not ended, from the lock and the live page of its process.

No clock of the reader's is compared with one of the writer's: ages are told by the page, whose
clock both share, and by the owner's last beat.
"""

import os
import sqlite3
import time
from pathlib import Path
from statistics import median
from typing import Final

from attrs import frozen

from stagerun.rules.liveness import Signs, Thresholds, judge
from stagerun.store.driver import Question
from stagerun.store.owner import Identity, Liveness, folder_of, probe
from stagerun.store.page import read_page

__all__ = ["Place", "limits_of_today", "usual_seconds", "verdict"]

_RUNS: Final = 50
"""The last runs of a pipeline that tell how long one usually takes."""


@frozen(kw_only=True)
class Place:
    """Where a generation stands, by its row and its owner's. Times in microseconds."""

    pipeline: str
    status: str
    owner: str | None
    device: int | None
    inode: int | None
    owner_ended_at: int | None
    alive_at: int | None
    begun_at: int
    moved_at: int | None


def limits_of_today() -> Thresholds:
    """Return the thresholds that this process's environment sets.

    Raises:
        SettingError: One of them is no number of seconds.
    """
    return Thresholds.of(os.environ)


def verdict(connection: sqlite3.Connection, place: Place, limits: Thresholds) -> str:
    """Judge a run that has not ended, as its process stands at this moment."""
    file = _file(connection, place)
    life, now = _life(file, place), place.alive_at or place.begun_at
    page = None if file is None or life is not Liveness.ALIVE else read_page(file)
    pulse = page.pulse if page is not None and page.pulse else None
    facts = Signs(
        status=place.status,
        owner=life.value,
        age=(now - place.begun_at) / 1e6,
        unmoved=(now - max(place.begun_at, place.moved_at or 0)) / 1e6,
        median=usual_seconds(place.pipeline)(connection),
        pulse=None if pulse is None else time.monotonic() - pulse,
        tick=None if page is None or pulse is None or not page.tick else pulse - page.tick,
        commit=None if page is None or pulse is None or not page.commit else pulse - page.commit,
    )
    return judge(facts, limits)


def usual_seconds(pipeline: str) -> Question[float | None]:
    """Ask for the median duration of a pipeline's last runs that succeeded."""

    def ask(connection: sqlite3.Connection) -> float | None:
        rows = connection.execute(
            "SELECT g.finished_at - g.started_at FROM runs r JOIN generations g"
            " ON g.run = r.run AND g.generation = r.generation"
            " WHERE r.pipeline = ? AND g.status = 'succeeded' AND g.started_at IS NOT NULL"
            " ORDER BY r.created_at DESC LIMIT ?",
            (pipeline, _RUNS),
        ).fetchall()
        return median(duration for (duration,) in rows) / 1e6 if rows else None

    return ask


def _file(connection: sqlite3.Connection, place: Place) -> Path | None:
    (database,) = connection.execute("SELECT file FROM pragma_database_list").fetchone()
    if not database or place.owner is None:
        return None
    return folder_of(Path(database)) / place.owner


def _life(file: Path | None, place: Place) -> Liveness:
    if place.owner_ended_at is not None:
        return Liveness.DEAD
    if file is None or place.device is None or place.inode is None:
        return Liveness.UNKNOWN
    return probe(file, Identity(place.device, place.inode))
