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
    "end_queued",
    "groups",
    "last_event",
    "late",
    "more_items",
    "prune_lines",
    "refused",
    "request_stop",
    "stage_counts",
    "stage_status",
    "store_items",
    "supersede",
    "supersede_children",
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
        " source_length, request_key) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)"
        " ON CONFLICT (request_key) DO NOTHING RETURNING run",
        (identifier, pipeline.name, target, now, params, source, source_length, request_key),
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


def begin(run: int, generation: int, now: int, items: Rows, accepted: int) -> Unit:
    """Return the unit that stores the last of a queued run's items and lets it run."""
    return Unit(
        Statement(
            "UPDATE generations SET status = 'running', started_at = ?, updated_at = ?"
            " WHERE run = ? AND generation = ? AND status = 'queued'",
            (now, now, run, generation),
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


def end_queued(run: int, generation: int, ending: Ending, now: int) -> Unit:
    """Return the unit that ends a run which never began."""
    return Unit(
        Statement(
            "UPDATE generations SET status = ?, cause = ?, message = ?, finished_at = ?,"
            " updated_at = ? WHERE run = ? AND generation = ? AND status = 'queued'",
            (
                ending.status.value,
                ending.cause.value,
                ending.message,
                now,
                now,
                run,
                generation,
            ),
        )
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
) -> Statement:
    """Return the guard of a run's batch: it notes the progress, and is the fence."""
    step, note, done, total = report or (None, None, None, None)
    return Statement(
        "UPDATE generations SET updated_at = ?, percent = ?, step = coalesce(?, step),"  # noqa: S608 - a constant
        f" note = coalesce(?, note), done = ?, total = ? WHERE {_RUNNING}",
        (now, percent, step, note, done, total, run, generation),
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


def groups(run: int, generation: int, stage: int, count: int) -> Statement:
    """Return the statement that makes the groups of a collect stage its items.

    Their numbers go on after those of the children that they may gather.
    """
    return Statement(
        "INSERT INTO emissions SELECT run, stage, row_number() OVER (ORDER BY min(item))"
        " + coalesce((SELECT max(item) FROM emissions WHERE run = ? AND stage = ?), 0),"
        " ?, 0, key, x'', key FROM members WHERE run = ? AND stage = ? GROUP BY key",
        (run, stage, generation, run, stage),
        expected=count,
    )


def last_event(run: int, seq: int, source_length: int | None) -> Statement:
    """Return the statement that notes the last event's number, and the source's length if known."""
    return Statement(
        "UPDATE runs SET events = ?, source_length = coalesce(?, source_length) WHERE run = ?",
        (seq, source_length, run),
        expected=1,
    )


def prune_lines(run: int, keep: int) -> Statement:
    """Return the statement that drops all but a run's last log lines."""
    return Statement(
        "DELETE FROM events WHERE run = ? AND kind = 'log' AND seq <= (SELECT seq FROM events"
        " WHERE run = ? AND kind = 'log' ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (run, run, keep),
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


def supersede_children(run: int, origin: int, made_for: int) -> Statement:
    """Return the statement that takes back what superseded items have given for *made_for*.

    *origin*: the stage at whose door those items got their numbers.
    """
    return Statement(
        "INSERT OR IGNORE INTO superseded SELECT e.run, e.stage, e.item FROM emissions e"
        " JOIN superseded s ON s.run = e.run AND s.stage = ? AND s.item = e.parent"
        " WHERE e.run = ? AND e.stage = ? AND e.parent > 0",
        (origin, run, made_for),
    )
