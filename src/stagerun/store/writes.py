"""Every statement that changes data, as values. Their guards are what makes an ending final."""

from collections.abc import Mapping, Sequence

import msgspec

from stagerun.model.status import Counts, Ending
from stagerun.store import packing
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "INSERT",
    "WIDTH",
    "end",
    "end_minimally",
    "last_event",
    "late",
    "prune_events",
    "request_stop",
    "stage_counts",
    "stage_status",
    "supersede",
    "touch",
]

WIDTH: Mapping[str, int] = {
    "items": packing.WIDTH,
    "results": 5,
    "failures": 9,
    "emissions": 8,
    "members": 5,
    "keys": 5,
    "events": 9,
    "labels": 3,
}
INSERT: Mapping[str, str] = {
    # A claim that is void, of a superseded item for one, gives way to the new one.
    table: f"INSERT {'OR REPLACE ' if table == 'keys' else ''}INTO {table} VALUES"
    for table in WIDTH
} | {"items": packing.INSERT}

_RUNNING = "run = ? AND generation = ? AND status = 'running'"
"""The fence: a generation that somebody has ended takes no more writes."""


def touch(
    run: int,
    generation: int,
    now: int,
    percent: float | None,
    report: tuple[str, str, float | None, float | None] | None,
    *,
    moved_at: int | None = None,
) -> Statement:
    """Return the guard of a run's batch: it notes the progress, and is the fence.

    *moved_at*: when there was the last outcome, report or heartbeat, if there was one.
    """
    step, note, done, total = report or (None, None, None, None)
    return Statement(
        "UPDATE generations SET updated_at = ?, percent = ?, step = coalesce(?, step),"  # noqa: S608 - a constant
        f" note = coalesce(?, note), done = ?, total = ?, moved_at = coalesce(?, moved_at)"
        f" WHERE {_RUNNING}",
        (now, percent, step, note, done, total, moved_at, run, generation),
    )


def stage_counts(run: int, generation: int, stage: int, counts: Counts) -> Statement:
    """Return the statement that writes a stage's sums."""
    return Statement(
        "UPDATE stages SET accepted = ?, ok = ?, failed = ?, timed_out = ?, cancelled = ?,"
        " skipped = ?, crashed = ?, in_flight = ? WHERE run = ? AND generation = ? AND stage = ?",
        (
            counts.accepted,
            counts.ok,
            counts.failed,
            counts.timed_out,
            counts.cancelled,
            counts.skipped,
            counts.crashed,
            counts.in_flight,
            run,
            generation,
            stage,
        ),
        expected=1,
    )


def stage_status(
    run: int,
    generation: int,
    stage: int,
    status: str,
    *,
    started_at: int | None = None,
    finished_at: int | None = None,
    error: tuple[str, str] | None = None,
) -> Statement:
    """Return the statement that moves a stage on."""
    code, message = error or (None, None)
    return Statement(
        "UPDATE stages SET status = ?, started_at = coalesce(started_at, ?), finished_at = ?,"
        " error_code = coalesce(?, error_code), error_message = coalesce(?, error_message)"
        " WHERE run = ? AND generation = ? AND stage = ?",
        (status, started_at, finished_at, code, message, run, generation, stage),
        expected=1,
    )


def last_event(run: int, seq: int, source_length: int | None) -> Statement:
    """Return the statement that notes the last event's number, and the source's length if known."""
    return Statement(
        "UPDATE runs SET events = ?, source_length = coalesce(?, source_length) WHERE run = ?",
        (seq, source_length, run),
        expected=1,
    )


def prune_events(run: int, kind: str, keep: int) -> tuple[Statement, Statement]:
    """Return the statements that drop all but a run's last events of a kind, and count them."""
    old = (
        "run = ? AND kind = ? AND seq <= (SELECT seq FROM events"
        " WHERE run = ? AND kind = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)"
    )
    which = (run, kind, run, kind, keep)
    count = f"(SELECT count(*) FROM events WHERE {old})"  # noqa: S608 - a constant
    return (
        Statement(
            f"UPDATE runs SET events_pruned = events_pruned + {count} WHERE run = ?",  # noqa: S608 - a constant
            (*which, run),
        ),
        Statement(f"DELETE FROM events WHERE {old}", which),  # noqa: S608 - a constant
    )


def request_stop(run: int, generation: int, now: int) -> Statement:
    """Return the statement that notes when a stop was asked for; the first time stays."""
    return Statement(
        "UPDATE generations SET requested_at = coalesce(requested_at, ?)"  # noqa: S608 - a constant
        f" WHERE {_RUNNING}",
        (now, run, generation),
    )


def end(
    run: int,
    generation: int,
    ending: Ending,
    *,
    now: int,
    stopped_at: int | None,
    survivors: Sequence[str],
) -> Statement:
    """Return the statement that ends a generation, once and for all."""
    succeeded = ending.status.value == "succeeded"
    names = msgspec.json.encode(list(survivors)).decode() if survivors else None
    return Statement(
        "UPDATE generations SET status = ?, cause = ?, message = ?, error_code = ?,"  # noqa: S608 - a constant
        " finished_at = ?, updated_at = ?, stopped_at = ?, survivors = ?, ended_by = owner,"
        f" percent = CASE WHEN ? THEN 100.0 ELSE percent END WHERE {_RUNNING}",
        (
            ending.status.value,
            ending.cause.value,
            ending.message,
            ending.code,
            now,
            now,
            stopped_at,
            names,
            succeeded,
            run,
            generation,
        ),
        expected=1,
    )


def end_minimally(run: int, generation: int, ending: Ending, now: int) -> Unit:
    """Return the unit that ends a generation whose last writes broke a rule of the database.

    It holds nothing that a stage has said: so it cannot break one itself.
    """
    this = (run, generation)
    return Unit(
        Statement(
            "UPDATE generations SET status = ?, cause = ?, message = ?, finished_at = ?,"  # noqa: S608 - a constant
            f" updated_at = ?, ended_by = owner WHERE {_RUNNING}",
            (ending.status.value, ending.cause.value, ending.message, now, now, *this),
        ),
        (
            Statement(
                "UPDATE stages SET in_flight = 0, finished_at = ?, status ="
                " CASE WHEN accepted = 0 THEN 'skipped' ELSE ? END"
                " WHERE run = ? AND generation = ? AND finished_at IS NULL",
                (now, ending.status.value, *this),
            ),
            Statement("UPDATE runs SET events = events + 1 WHERE run = ?", (run,)),
            Statement(
                "INSERT INTO events SELECT run, events, ?, ?, 'run', NULL, NULL, NULL, ?"
                " FROM runs WHERE run = ?",
                (generation, now, ending.status.value, run),
            ),
        ),
    )


def late(run: int, generation: int, stage: int, item: int, microseconds: int) -> Unit:
    """Return the unit that notes how long cut work went on after its item had ended."""
    return Unit(
        Statement(
            "UPDATE failures SET late = ? WHERE run = ? AND stage = ? AND item = ?"
            " AND generation = ?",
            (microseconds, run, stage, item, generation),
        )
    )


def supersede(run: int, stage: int, number: int) -> Statement:
    """Return the statement by which an item counts no more: its parent gave something else."""
    return Statement("INSERT OR IGNORE INTO superseded VALUES (?, ?, ?)", (run, stage, number))
