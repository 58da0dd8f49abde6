"""What a new generation of a run has to know of the ones before it, and the unit that opens it."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from stagerun.model.outcome import Outcome
from stagerun.model.stage import Kind
from stagerun.model.status import Cause, Counts, Ending, Status
from stagerun.store.documents import find_run
from stagerun.store.driver import Question
from stagerun.store.frontier import COUNTS, FLOORS, Place, page_of
from stagerun.store.starting import OWNER_LIVES
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "StoredRun",
    "StoredStage",
    "Suspect",
    "adoptable",
    "next_generation",
    "stored_run",
    "suspects",
]

_LABELS = tuple(outcome.label for outcome in Outcome)


@frozen
class StoredStage:
    """A stage of the last generation, as it stands in the database."""

    name: str
    kind: Kind
    version: int
    since: int
    failed_since: int
    counts: Counts


@frozen(kw_only=True)
class StoredRun:
    """A run with its last generation."""

    run: int
    id: str
    pipeline: str
    target: str | None
    generation: int
    ending: Ending | None
    """How the last generation ended; None: it has not."""
    begun: bool
    """Whether anything of the last generation can have been executed."""
    seconds: float
    source: str
    own_source: bool
    source_length: int | None
    params: bytes
    events: int
    percent: float | None
    on_interrupt: str
    concurrency_key: str | None
    concurrency: int
    stages: tuple[StoredStage, ...]


def stored_run(identifier: str) -> Question[StoredRun]:
    """Ask for a run by its identifier or the beginning of it.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> StoredRun:
        number = find_run(connection, identifier)
        row = connection.execute(
            "SELECT r.run, r.id, r.pipeline, r.target, r.generation, r.source, r.source_length,"
            " r.params, r.events, r.on_interrupt, r.own_source,"
            " r.concurrency_key, coalesce(r.concurrency, 1), g.percent, g.started_at IS NOT NULL,"
            " (coalesce(g.finished_at, g.updated_at) - g.created_at) / 1e6,"
            " g.status, g.cause, g.message, g.error_code"
            " FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation"
            " WHERE r.run = ?",
            (number,),
        ).fetchone()
        (run, id_, pipeline, target, generation, source, source_length, params, events,
         on_interrupt, own_source, concurrency_key, concurrency, percent, begun, seconds,
         status, cause, message, code) = row  # fmt: skip
        return StoredRun(
            run=run,
            id=id_,
            pipeline=pipeline,
            target=target,
            generation=generation,
            ending=None if cause is None else Ending(Status(status), Cause(cause), message, code),
            begun=bool(begun),
            seconds=seconds,
            source=source,
            own_source=bool(own_source),
            source_length=source_length,
            params=params,
            events=events,
            percent=percent,
            on_interrupt=on_interrupt,
            concurrency_key=concurrency_key,
            concurrency=concurrency,
            stages=_stages(connection, run, generation),
        )

    return ask


def _stages(connection: sqlite3.Connection, run: int, generation: int) -> tuple[StoredStage, ...]:
    rows = connection.execute(
        f"SELECT name, kind, version, since, failed_since, accepted, {', '.join(_LABELS)}"  # noqa: S608 - constants
        " FROM stages WHERE run = ? AND generation = ? ORDER BY stage",
        (run, generation),
    ).fetchall()
    return tuple(
        StoredStage(
            name,
            Kind(kind),
            version,
            since,
            failed_since,
            Counts(name=name, accepted=accepted, **dict(zip(_LABELS, sums, strict=True))),
        )
        for name, kind, version, since, failed_since, accepted, *sums in rows
    )


def adoptable(pipelines: Sequence[str], after: int) -> Question[list[tuple[int, str]]]:
    """Ask for runs that any process which knows their pipeline shall take over, the oldest first.

    A page of those above number *after*: number and identifier.

    Those that were interrupted and say ``on_interrupt="resume"``, and those whose process went away
    while they waited for their turn: of these nothing has been executed. Not those that somebody
    asked to cancel when their process was dead already, and nobody was left to hear it.
    """
    marks = ",".join("?" * len(pipelines))
    # By status first: few runs stay interrupted, of all that were resumable or shared places.
    sql = f"""
        SELECT r.run, r.id FROM generations g
        CROSS JOIN runs r ON r.run = g.run AND r.generation = g.generation
        JOIN stages s ON s.run = g.run AND s.generation = g.generation AND s.stage = 0
        WHERE g.status = 'interrupted' AND g.run > ? AND r.pipeline IN ({marks})
          AND (r.on_interrupt = 'resume' OR r.concurrency_key IS NOT NULL)
          AND (r.source != 'function' OR r.own_source)
          AND g.requested_at IS NULL
          AND CASE WHEN g.started_at IS NOT NULL
                   THEN r.on_interrupt = 'resume' AND (r.resumes > 0 OR g.cause != 'owner_died')
                   ELSE r.source = 'function'
                        OR r.source = 'stored' AND s.accepted = r.source_length END
          AND NOT EXISTS (SELECT 1 FROM requests q WHERE q.run = g.run
                          AND q.generation = g.generation AND q.kind = 'cancel')
        ORDER BY g.run LIMIT 100"""  # noqa: S608 - only marks

    def ask(connection: sqlite3.Connection) -> list[tuple[int, str]]:
        return connection.execute(sql, (after, *pipelines)).fetchall()

    return ask


@frozen
class Suspect:
    """An item that was under way when its process died, and has no final outcome since."""

    item: int
    deaths: int
    """Processes that died while it was under way."""
    alone: int
    """Those of them in which nothing else was."""
    company: int
    """The least number of items that were under way with it, itself included."""


def suspects(place: Place) -> Question[list[Suspect]]:
    """Ask for the suspects of a stage, in item order. What ``--failed`` forgave does not count."""
    sql = f"""
        WITH {FLOORS} SELECT d.item, count(*), sum(d.among = 1), min(d.among)
        FROM deaths d JOIN here h
        WHERE d.run = :run AND d.stage = :stage AND d.generation >= h.failed_since
          AND NOT EXISTS (SELECT 1 FROM items i JOIN here s WHERE i.run = :run
                          AND i.stage = :stage AND i.item = d.item AND {COUNTS})
        GROUP BY d.item ORDER BY d.item"""  # noqa: S608 - constants alone
    ask = page_of(sql, place.names())
    return lambda connection: [Suspect(*row) for row in ask(connection)]


def next_generation(
    run: int,
    generation: int,
    *,
    owner: int,
    now: int,
    deadline_at: int | None,
    opened_by: str,
    charge: int,
    percent: float | None,
    queued: bool,
    stages: Sequence[Sequence[Any]],
) -> Unit:
    """Return the unit that opens *generation*; its guard refuses unless the one before has ended.

    Args:
        run: The run's number.
        generation: The number of the new one.
        owner: Who opens it.
        now: Microseconds, as all times.
        deadline_at: When the new generation must have ended.
        opened_by: ``resume``, ``resume_failed`` or ``recovery``.
        charge: 1 if it is one of the resumes that are counted; refused when none is left.
        percent: How far the run is at the beginning.
        queued: Whether it has to wait for its turn.
        stages: Per stage what it is declared as, since, failed_since and the sums to begin with:
            accepted, ok, failed, timed_out, cancelled, skipped, crashed.
    """
    guard = Statement(
        "UPDATE runs SET generation = ?, resumes = resumes - ?"  # noqa: S608 - a constant
        " WHERE run = ? AND generation = ? AND resumes >= ? AND EXISTS"
        " (SELECT 1 FROM generations g WHERE g.run = runs.run"
        "  AND g.generation = runs.generation AND g.finished_at IS NOT NULL)"
        f" AND {OWNER_LIVES.format(owner='?')}",
        (generation, charge, run, generation - 1, charge, owner),
    )
    status, started_at = ("queued", None) if queued else ("running", now)
    body = [
        Statement(
            "INSERT INTO generations (run, generation, owner, opened_by, status, created_at,"
            " started_at, updated_at, deadline_at, percent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, generation, owner, opened_by, status, now, started_at, now, deadline_at, percent),
        )
    ]
    body += [
        Statement(
            "INSERT INTO stages (run, generation, stage, name, kind, version, workers, deadline,"
            " since, failed_since, accepted, ok, failed, timed_out, cancelled, skipped, crashed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, generation, index, *stage),
        )
        for index, stage in enumerate(stages)
    ]
    carried = Statement(
        "UPDATE stages AS s SET (error_code, error_message) = (SELECT b.error_code, b.error_message"
        " FROM stages b WHERE b.run = s.run AND b.generation = s.generation - 1"
        " AND b.stage = s.stage) WHERE run = ? AND generation = ?"
        " AND failed + timed_out + crashed > 0",
        (run, generation),
    )
    return Unit(guard, [*body, carried])
