"""The run that charts are drawn of, as it stands at one moment. Times in microseconds."""

import sqlite3
import time

from attrs import frozen

from stagerun.model.outcome import Outcome
from stagerun.model.stage import Kind
from stagerun.rules.liveness import Thresholds
from stagerun.store.documents import find_run, heads
from stagerun.store.frontier import COUNTS, SUPERSEDED, Place
from stagerun.store.page import InFlight
from stagerun.store.verdicts import Looks

__all__ = ["Subject", "SubjectStage", "subject"]

_LABELS = tuple(outcome.label for outcome in Outcome)


@frozen(kw_only=True)
class SubjectStage:
    """A stage of the current generation: as it was declared, and the sums of its outcomes."""

    place: Place
    name: str
    kind: Kind
    workers: int
    deadline: int | None
    sums: dict[str, int]
    counts: str
    """SQL: whether row i of items, with row s of this stage, counts."""

    @property
    def settled(self) -> int:
        """Items that have an outcome which counts."""
        return sum(self.sums.values())

    @property
    def bad(self) -> int:
        """Those of them that are not ``ok``; ``skipped`` is a decision, and as good."""
        return self.settled - self.sums["ok"] - self.sums["skipped"]


@frozen(kw_only=True)
class Subject:
    """A run and its stages."""

    run: int
    id: str
    pipeline: str
    generation: int
    status: str
    """As its document says: ``interrupted`` when its process has died."""
    percent: float | None
    begun: int
    ended: int
    """When it ended; of one that is under way, the reader's now."""
    now: int
    stages: tuple[SubjectStage, ...]
    in_hand: tuple[InFlight, ...]
    """Items in flight, as the page of its process tells."""

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self.status == "running"

    @property
    def rows(self) -> int:
        """Outcomes that count."""
        return sum(stage.settled for stage in self.stages)


def subject(
    connection: sqlite3.Connection,
    identifier: str,
    limits: Thresholds | None = None,
    now: int | None = None,
) -> Subject:
    """Read a run, found by its identifier or the beginning of it. *now*: None means the clock's.

    Raises:
        UsageError: There is no such run, or more than one.
    """
    run, looks = find_run(connection, identifier), Looks(connection, limits)
    (head,) = heads(connection, [run], looks)
    generation, begun, finished, updated, owner = connection.execute(
        "SELECT g.generation, coalesce(g.started_at, g.created_at), g.finished_at, g.updated_at,"
        " o.id FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation"
        " LEFT JOIN owners o ON o.owner = g.owner WHERE r.run = ?",
        (run,),
    ).fetchone()
    now = time.time_ns() // 1000 if now is None else now
    alive = head["status"] in ("queued", "running")
    held = looks.in_hand(owner) if alive and owner is not None else ()
    return Subject(
        run=run,
        id=head["id"],
        pipeline=head["pipeline"],
        generation=generation,
        status=head["status"],
        percent=head["percent"],
        begun=begun,
        ended=max(begun, finished or (max(now, updated) if alive else updated)),
        now=now,
        stages=_stages(connection, run, generation),
        in_hand=tuple(x for x in held if (x.run, x.generation) == (run, generation)),
    )


def _stages(connection: sqlite3.Connection, run: int, generation: int) -> tuple[SubjectStage, ...]:
    rows = connection.execute(
        f"SELECT name, kind, workers, deadline, {', '.join(_LABELS)} FROM stages"  # noqa: S608 - constants
        " WHERE run = ? AND generation = ? ORDER BY stage",
        (run, generation),
    ).fetchall()
    (taken_back,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM superseded WHERE run = ?)", (run,)
    ).fetchone()
    kinds = [Kind(kind) for _, kind, *_ in rows]
    stages = []
    for index, (name, kind, workers, deadline, *sums) in enumerate(rows):
        place = Place.of(run, generation, kinds, index)
        stages.append(
            SubjectStage(
                place=place,
                name=name,
                kind=Kind(kind),
                workers=workers,
                deadline=deadline,
                sums=dict(zip(_LABELS, sums, strict=True)),
                counts=_counts(place, taken_back=bool(taken_back)),
            )
        )
    return tuple(stages)


def _counts(place: Place, *, taken_back: bool) -> str:
    if not taken_back:
        return COUNTS if place.generation > 1 else "1"
    origin = SUPERSEDED.format(origin=place.origin, item="i.item")
    return f"{COUNTS} AND NOT {origin}"
