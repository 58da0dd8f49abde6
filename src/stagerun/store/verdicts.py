"""The verdict on a run that has not ended, from the lock and the live page of its process.

No clock of the reader's is compared with one of the writer's: ages are told by the page, whose
clock both share, and by the owner's last beat.
"""

import os
import sqlite3
import time
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from attrs import frozen

from stagerun.rules.liveness import Signs, Thresholds, judge
from stagerun.store.driver import Question
from stagerun.store.owner import Identity, Liveness, folder_of, probe
from stagerun.store.page import InFlight, PageView, read_page

__all__ = ["Looks", "Place", "limits_of_today", "usual_seconds"]

_RUNS: Final = 50
"""The last runs of a pipeline that tell how long one usually takes."""
_LOOKED_AT: Final = 500
"""Of so many at most: a pipeline that never succeeds is not read to its beginning."""


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


class Looks:
    """What one answer tells of the processes: each is looked at once, however many runs it has.

    So a run cannot be alive where runs are chosen, and dead where they are shown.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Thresholds | None = None) -> None:
        self._connection = connection
        self._limits = limits or limits_of_today()
        self._seen: dict[str, tuple[Liveness, PageView | None]] = {}
        self._usual = cache(lambda pipeline: usual_seconds(pipeline)(connection))

    def verdict(self, place: Place) -> str:
        """Judge a run that has not ended, as its process stands at this moment."""
        (life, page), now = self._look(place), place.alive_at or place.begun_at
        pulse = page.pulse if page is not None and page.pulse else None
        facts = Signs(
            status=place.status,
            owner=life.value,
            age=(now - place.begun_at) / 1e6,
            unmoved=(now - max(place.begun_at, place.moved_at or 0)) / 1e6,
            median=self._usual(place.pipeline),
            pulse=None if pulse is None else time.monotonic() - pulse,
            tick=None if page is None or pulse is None or not page.tick else pulse - page.tick,
            commit=(
                None if page is None or pulse is None or not page.commit else pulse - page.commit
            ),
        )
        return judge(facts, self._limits)

    @cached_property
    def dead(self) -> tuple[int, ...]:
        """The owners that have died and left runs open which nobody has settled yet."""
        # From the few runs that are open: of owners that have ended there may be many.
        rows = self._connection.execute(
            "SELECT owner, id, device, inode, ended_at FROM owners WHERE owner IN"
            " (SELECT owner FROM generations WHERE status IN ('running', 'queued'))"
        ).fetchall()
        return tuple(owner for owner, *rest in rows if self._see(*rest)[0] is Liveness.DEAD)

    def is_dead(
        self, owner: str, device: int | None, inode: int | None, ended_at: int | None
    ) -> bool:
        """Whether an owner's process has gone, settled or not."""
        return self._see(owner, device, inode, ended_at)[0] is Liveness.DEAD

    def in_hand(self, owner: str) -> tuple[InFlight, ...]:
        """Return the items that an owner has in flight; nothing of one that does not live."""
        life, page = self._seen.get(owner, (Liveness.UNKNOWN, None))
        return () if page is None or life is not Liveness.ALIVE else page.in_flight

    def _look(self, place: Place) -> tuple[Liveness, PageView | None]:
        return self._see(place.owner, place.device, place.inode, place.owner_ended_at)

    def _see(
        self, owner: str | None, device: int | None, inode: int | None, ended_at: int | None
    ) -> tuple[Liveness, PageView | None]:
        """Look at the lock and the page of a process."""
        if ended_at is not None:
            return Liveness.DEAD, None
        if owner is None or device is None or inode is None or self._folder is None:
            return Liveness.UNKNOWN, None
        if owner not in self._seen:
            file = self._folder / owner
            life = probe(file, Identity(device, inode))
            self._seen[owner] = life, read_page(file) if life is Liveness.ALIVE else None
        return self._seen[owner]

    @cached_property
    def _folder(self) -> Path | None:
        """Where the owners' files are; None: the database is in memory."""
        query = "SELECT file FROM pragma_database_list WHERE name = 'main'"
        (database,) = self._connection.execute(query).fetchone()
        return folder_of(Path(database)) if database else None


def usual_seconds(pipeline: str) -> Question[float | None]:
    """Ask for the median duration of a pipeline's last runs that succeeded, if any did lately."""

    def ask(connection: sqlite3.Connection) -> float | None:
        rows = connection.execute(
            "SELECT g.finished_at - g.started_at FROM"
            " (SELECT run, generation FROM runs WHERE pipeline = ? ORDER BY run DESC LIMIT ?) last"
            " CROSS JOIN generations g ON g.run = last.run AND g.generation = last.generation"
            " WHERE g.status = 'succeeded' AND g.started_at IS NOT NULL LIMIT ?",
            (pipeline, _LOOKED_AT, _RUNS),
        ).fetchall()
        durations = sorted(duration for (duration,) in rows)
        return durations[len(durations) // 2] / 1e6 if durations else None

    return ask
