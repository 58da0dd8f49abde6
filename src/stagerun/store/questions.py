"""What the engine asks of runs and owners, as functions of a reading connection.

What waits in a run: ``frontier.py`` and ``groups.py``. Documents: ``documents.py``.
"""

import sqlite3
from typing import Any

from attrs import frozen

from stagerun.errors import UsageError
from stagerun.model.outcome import Outcome
from stagerun.model.stage import Kind
from stagerun.model.status import Cause, Counts, Ending, Status
from stagerun.store.documents import find_run
from stagerun.store.driver import Question

__all__ = [
    "KnownRun",
    "SettledRun",
    "ending_of",
    "generation_of",
    "is_running",
    "left_open",
    "open_owners",
    "run_of_id",
    "run_of_key",
    "settled_runs",
    "turn_of",
]


@frozen(kw_only=True)
class KnownRun:
    """One generation of a run, as it stands on disk."""

    id: str
    pipeline: str
    run: int
    generation: int
    status: Status
    ending: Ending | None
    counts: tuple[Counts, ...]
    kinds: tuple[Kind, ...]
    percent: float | None
    source_length: int | None
    cancelled: bool
    """Whether somebody has asked for it to be cancelled."""
    seconds: float
    """From its creation to its end, or to its last commit."""


def run_of_key(request_key: str) -> Question[KnownRun | None]:
    """Ask which run was started with an idempotency key; None: no run that is still kept."""
    where = "r.request_key = ? AND g.generation = r.generation"
    return lambda connection: _known(connection, where, (request_key,))


def run_of_id(identifier: str) -> Question[KnownRun]:
    """Ask for a run by its identifier or the beginning of it.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> KnownRun:
        number = find_run(connection, identifier)
        known = _known(connection, "r.run = ? AND g.generation = r.generation", (number,))
        assert known is not None  # noqa: S101 - found in the same transaction's view, or pruned
        return known

    return ask


def generation_of(run: int, generation: int) -> Question[KnownRun]:
    """Ask for one generation.

    Raises:
        UsageError: It is not kept any more.
    """

    def ask(connection: sqlite3.Connection) -> KnownRun:
        known = _known(connection, "r.run = ? AND g.generation = ?", (run, generation))
        if known is None:
            raise UsageError("the run has ended and is not kept any more")
        return known

    return ask


def _known(
    connection: sqlite3.Connection, where: str, parameters: tuple[Any, ...]
) -> KnownRun | None:
    row = connection.execute(
        "SELECT r.id, r.pipeline, r.run, g.generation, g.status, g.cause, g.message,"  # noqa: S608 - constants
        " g.error_code, g.percent, r.source_length,"
        " g.requested_at IS NOT NULL, (coalesce(g.finished_at, g.updated_at) - g.created_at) / 1e6"
        f" FROM runs r JOIN generations g ON g.run = r.run WHERE {where}",
        parameters,
    ).fetchone()
    if row is None:
        return None
    identifier, pipeline, run, generation, status, cause, message, code, *rest = row
    percent, source_length, cancelled, seconds = rest
    kinds = connection.execute(
        "SELECT kind FROM stages WHERE run = ? AND generation = ? ORDER BY stage",
        (run, generation),
    )
    return KnownRun(
        id=identifier,
        pipeline=pipeline,
        run=run,
        generation=generation,
        status=Status(status),
        ending=None if cause is None else Ending(Status(status), Cause(cause), message, code),
        counts=_counts(connection, run, generation),
        kinds=tuple(Kind(kind) for (kind,) in kinds.fetchall()),
        percent=percent,
        source_length=source_length,
        cancelled=bool(cancelled),
        seconds=seconds,
    )


def ending_of(run: int, generation: int) -> Question[Ending | None]:
    """Ask how a generation has ended; None: it has not."""

    def ask(connection: sqlite3.Connection) -> Ending | None:
        row = connection.execute(
            "SELECT status, cause, message, error_code FROM generations"
            " WHERE run = ? AND generation = ? AND cause IS NOT NULL",
            (run, generation),
        ).fetchone()
        return None if row is None else Ending(Status(row[0]), Cause(row[1]), row[2], row[3])

    return ask


def turn_of(run: int, generation: int, key: str, places: int) -> Question[bool | None]:
    """Ask whether a place is free for a run, and it is the first in line; None: it waits no more.

    It is ``starting.take_turn`` that decides.
    """
    # By status first: of the runs that ever had the key most have ended.
    sql = """
        SELECT coalesce(sum(o.status = 'running'), 0) < ?
               AND coalesce(sum(o.status = 'queued' AND o.run < ?), 0) = 0
        FROM generations o CROSS JOIN runs r ON r.run = o.run AND r.generation = o.generation
        WHERE o.status IN ('queued', 'running') AND r.concurrency_key = ?"""

    def ask(connection: sqlite3.Connection) -> bool | None:
        if _status(connection, run, generation) != Status.QUEUED.value:
            return None
        return bool(connection.execute(sql, (places, run, key)).fetchone()[0])

    return ask


def is_running(run: int, generation: int) -> Question[bool]:
    """Ask whether a generation is under way."""
    return lambda connection: _status(connection, run, generation) == "running"


def _status(connection: sqlite3.Connection, run: int, generation: int) -> str:
    sql = "SELECT status FROM generations WHERE run = ? AND generation = ?"
    return str(connection.execute(sql, (run, generation)).fetchone()[0])


def _counts(connection: sqlite3.Connection, run: int, generation: int) -> tuple[Counts, ...]:
    columns = ("name", "accepted", "in_flight", *(outcome.label for outcome in Outcome))
    rows = connection.execute(
        f"SELECT {', '.join(columns)} FROM stages WHERE run = ? AND generation = ? ORDER BY stage",  # noqa: S608 - constants
        (run, generation),
    ).fetchall()
    return tuple(Counts(**dict(zip(columns, row, strict=True))) for row in rows)


def open_owners(but: int) -> Question[list[tuple[int, str, int, int]]]:
    """Ask for the owners, but one, that have not ended: number, identifier, device, inode."""

    def ask(connection: sqlite3.Connection) -> list[tuple[int, str, int, int]]:
        return connection.execute(
            "SELECT owner, id, device, inode FROM owners"
            " WHERE ended_at IS NULL AND device IS NOT NULL AND owner != ? ORDER BY owner",
            (but,),
        ).fetchall()

    return ask


def left_open(but: int) -> Question[list[int]]:
    """Ask for owners, but one, that have ended and have left work open."""

    def ask(connection: sqlite3.Connection) -> list[int]:
        rows = connection.execute(
            "SELECT DISTINCT g.owner FROM generations g JOIN owners o ON o.owner = g.owner"
            " WHERE g.status IN ('queued', 'running') AND o.ended_at IS NOT NULL AND o.owner != ?",
            (but,),
        )
        return [owner for (owner,) in rows.fetchall()]

    return ask


@frozen
class SettledRun:
    """A run that was ended because its process had died."""

    id: str
    pipeline: str
    cause: str
    message: str


def settled_runs(owner: int, by: int, now: int) -> Question[list[SettledRun]]:
    """Ask which runs of a dead owner were ended by *by* at time *now*."""

    def ask(connection: sqlite3.Connection) -> list[SettledRun]:
        rows = connection.execute(
            "SELECT r.id, r.pipeline, g.cause, g.message FROM generations g"
            " JOIN runs r ON r.run = g.run AND r.generation = g.generation"
            " WHERE g.status = 'interrupted' AND g.owner = ? AND g.ended_by = ?"
            " AND g.finished_at = ? ORDER BY r.run",
            (owner, by, now),
        ).fetchall()
        return [SettledRun(*row) for row in rows]

    return ask
