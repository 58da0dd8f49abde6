"""Every statement that changes data, as values. Their guards are what makes an ending final."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stagerun.model.pipeline import Pipeline
from stagerun.model.status import Counts, Ending
from stagerun.store.transaction import Rows, Statement, Unit

__all__ = [
    "INSERT",
    "WIDTH",
    "begin",
    "create_run",
    "end",
    "end_minimally",
    "end_queued",
    "last_event",
    "late",
    "more_items",
    "prune_events",
    "refused",
    "request_stop",
    "stage_counts",
    "stage_status",
    "store_items",
    "supersede",
    "take_turn",
    "touch",
]

WIDTH: Mapping[str, int] = {
    "items": 9,
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
}

_RUNNING = "run = ? AND generation = ? AND status = 'running'"
"""The fence: a generation that somebody has ended takes no more writes."""


def create_run(
    *,
    identifier: str,
    pipeline: Pipeline,
    owner: int,
    now: int,
    params: bytes,
    labels: Mapping[str, str],
    source: str,
    source_length: int | None,
    target: str | None,
    request_key: str | None,
    queued: bool,
    concurrency_key: str | None = None,
    concurrency: int | None = None,
    own_source: bool = False,
) -> Unit:
    """Return the unit that makes a run with its first generation; its guard returns the number.

    With *queued* it waits for ``begin``, as a run whose items are yet to be stored does.

    The guard refuses when ``request_key`` has been used: the run exists already.
    """
    status = "queued" if queued else "running"
    this = "(SELECT run FROM runs WHERE id = ?)"
    deadline = None if pipeline.deadline is None else now + int(pipeline.deadline * 1e6)
    guard = Statement(
        "INSERT INTO runs (id, pipeline, target, generation, created_at, params, source,"
        " source_length, request_key, concurrency_key, concurrency, on_interrupt, resumes,"
        " own_source) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (request_key) DO NOTHING RETURNING run",
        (
            identifier,
            pipeline.name,
            target,
            now,
            params,
            source,
            source_length,
            request_key,
            concurrency_key,
            concurrency,
            pipeline.on_interrupt,
            pipeline.resumes,
            own_source,
        ),
    )
    body = [
        Statement(
            "INSERT INTO generations (run, generation, owner, status, created_at, started_at,"  # noqa: S608 - `this` is the constant above
            f" updated_at, deadline_at) VALUES ({this}, 1, ?, ?, ?, ?, ?, ?)",
            (identifier, owner, status, now, None if queued else now, now, deadline),
        )
    ]
    body += [
        Statement(
            "INSERT INTO stages (run, generation, stage, name, kind, version)"  # noqa: S608 - as above
            f" VALUES ({this}, 1, ?, ?, ?, ?)",
            (identifier, index, stage.name, stage.kind.value, stage.version),
        )
        for index, stage in enumerate(pipeline.stages)
    ]
    body += [
        Statement(f"INSERT INTO labels VALUES ({this}, ?, ?)", (identifier, name, value))  # noqa: S608 - as above
        for name, value in labels.items()
    ]
    return Unit(guard, body)


def refused(unit: Unit, identifier: str, ending: Ending, now: int) -> Unit:
    """Return the unit that makes a run as *unit* does, and ends it at once."""
    end_ = Statement(
        "UPDATE generations SET status = ?, cause = ?, message = ?, finished_at = ?,"
        " ended_by = owner WHERE run = (SELECT run FROM runs WHERE id = ?)",
        (ending.status.value, ending.cause.value, ending.message, now, identifier),
        expected=1,
    )
    return Unit(unit.guard, (*unit.body, end_))


def begin(run: int, now: int, items: Rows, accepted: int, *, waits: bool) -> Unit:
    """Return the unit that stores the last of a queued run's items and lets it run.

    *waits*: it stays queued, for its turn.
    """
    status, started_at = ("queued", None) if waits else ("running", now)
    generation = 1
    return Unit(
        Statement(
            "UPDATE generations SET status = ?, started_at = ?, updated_at = ?"
            " WHERE run = ? AND generation = ? AND status = 'queued'",
            (status, started_at, now, run, generation),
        ),
        (
            items,
            Statement(
                "UPDATE stages SET accepted = ? WHERE run = ? AND generation = ? AND stage = 0",
                (accepted, run, generation),
                expected=1,
            ),
        ),
    )


def more_items(run: int, first: int, values: Sequence[bytes]) -> Unit:
    """Return the unit that stores a part of a queued run's items."""
    return Unit(None, (store_items(run, first, values),))


def take_turn(
    run: int, generation: int, *, key: str, places: int, deadline_at: int | None, now: int
) -> Unit:
    """Return the unit that lets a queued run begin; refused while no place is free.

    Its guard counts the runs that hold one, and those that came before it and still wait.
    """
    others = (
        "SELECT count(*) FROM runs r JOIN generations o ON o.run = r.run"
        " AND o.generation = r.generation WHERE r.concurrency_key = ?"
    )
    return Unit(
        Statement(
            "UPDATE generations SET status = 'running', started_at = ?, updated_at = ?,"  # noqa: S608 - a constant
            " deadline_at = ? WHERE run = ? AND generation = ? AND status = 'queued'"
            f" AND ({others} AND o.status = 'running') < ?"
            f" AND ({others} AND o.status = 'queued' AND r.run < generations.run) = 0",
            (now, now, deadline_at, run, generation, key, places, key),
        )
    )


def end_queued(run: int, generation: int, ending: Ending, now: int) -> Unit:
    """Return the unit that ends a run which never began; refused when it does not wait any more."""
    return Unit(
        Statement(
            "UPDATE generations SET status = ?, cause = ?, message = ?, finished_at = ?,"
            " updated_at = ?, stopped_at = ?, ended_by = owner"
            " WHERE run = ? AND generation = ? AND status = 'queued'",
            (
                ending.status.value,
                ending.cause.value,
                ending.message,
                now,
                now,
                now,
                run,
                generation,
            ),
        ),
        (
            Statement("UPDATE runs SET events = events + 1 WHERE run = ?", (run,)),
            Statement(
                "INSERT INTO events SELECT run, events, ?, ?, 'run', NULL, NULL, NULL, ?"
                " FROM runs WHERE run = ?",
                (generation, now, ending.status.value, run),
            ),
        ),
    )


def store_items(run: int, first: int, values: Sequence[bytes]) -> Rows:
    """Return the rows that keep items given as a list, before the start is acknowledged."""
    flat: list[Any] = []
    for position, value in enumerate(values, first):
        flat += (run, 0, position, 0, 0, position, None, value)
    return Rows(INSERT["emissions"], WIDTH["emissions"], flat)


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
