"""The documents that people and programs read: ``show``, ``runs``, ``logs``, ``stats``."""

import math
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from stagerun.errors import UsageError
from stagerun.redaction import PUT, is_secret_name, redacted
from stagerun.rules.liveness import Thresholds
from stagerun.store.driver import Question
from stagerun.store.frontier import COUNTS
from stagerun.store.owners import DIED
from stagerun.store.selection import NEWEST, Selection, matching
from stagerun.store.verdicts import Looks, Place

__all__ = [
    "LOG_LINES",
    "find_run",
    "heads",
    "iso",
    "item_list",
    "log_lines",
    "nearest_rank",
    "run_document",
    "run_list",
    "statistics",
]

LOG_LINES = 20
"""Log lines in a run's document."""

_AT_ONCE = 500
"""Runs of one statement; SQLite bounds the marks in it."""
_OUTCOMES = ("ok", "failed", "timed_out", "cancelled", "skipped", "crashed")


def run_document(identifier: str, limits: Thresholds | None = None) -> Question[dict[str, Any]]:
    """Ask for all about one run, found by its identifier or the beginning of it.

    *limits*: from when on it is called stalled or slow; None: as the environment says.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        run = find_run(connection, identifier)
        (head,) = heads(connection, [run], Looks(connection, limits))
        current = head["generation"]
        earlier = connection.execute(
            "SELECT generation, status, cause, message, finished_at FROM generations"
            " WHERE run = ? AND generation < ? ORDER BY generation",
            (run, current),
        ).fetchall()
        return head | {
            "recent_logs": log_lines(run, last=LOG_LINES)(connection),
            "stages": _stages(connection, run, current),
            "generations": [
                {
                    "generation": generation,
                    "status": status,
                    "cause": cause,
                    "message": message,
                    "finished_at": iso(finished),
                }
                for generation, status, cause, message, finished in earlier
            ],
        }

    return ask


def run_list(
    *,
    status: str | None = None,
    pipeline: str | None = None,
    labels: Mapping[str, str] | None = None,
    created_before: int | None = None,
    finished_since: int | None = None,
    limit: int = 50,
    limits: Thresholds | None = None,
) -> Question[list[dict[str, Any]]]:
    """Ask for runs, the newest first. Times are microseconds; *limits* as in a document.

    Raises:
        UsageError: There is no such status.
    """
    selection = Selection(
        status=status,
        pipeline=pipeline,
        labels=labels or {},
        created_before=created_before,
        finished_since=finished_since,
    )

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        looks = Looks(connection, limits)
        return heads(connection, matching(connection, selection, looks, NEWEST, limit), looks)

    return ask


def log_lines(
    run: int, *, after: int = 0, since: int = 0, last: int = 1_000
) -> Question[list[dict[str, Any]]]:
    """Ask for the last kept log lines of a run, of those after event *after* and time *since*."""

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        rows = connection.execute(
            "SELECT seq, at, level, stage, item, body FROM events"
            " WHERE run = ? AND kind = 'log' AND seq > ? AND at >= ? ORDER BY seq DESC LIMIT ?",
            (run, after, since, last),
        ).fetchall()
        return [
            {
                "seq": seq,
                "time": iso(at),
                "level": level,
                "stage": stage,
                "item": item,
                "message": text,
            }
            for seq, at, level, stage, item, text in reversed(rows)
        ]

    return ask


def item_list(
    run: int, generation: int, *, limit: int = 50, but: Sequence[int] = (0,)
) -> Question[list[dict[str, Any]]]:
    """Ask for the first items whose outcome is none of *but*, with their causes.

    Outcomes of earlier generations are among them, as long as they count.
    """

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        marks = ",".join("?" * len(but))
        rows = connection.execute(
            "SELECT s.name, i.item, i.outcome, i.attempts, i.elapsed, f.cause, f.message, f.error,"  # noqa: S608 - only marks
            " f.late FROM items i"
            " JOIN stages s ON s.run = i.run AND s.generation = ? AND s.stage = i.stage"
            " LEFT JOIN failures f ON f.run = i.run AND f.stage = i.stage AND f.item = i.item"
            " AND f.generation = i.generation"
            " WHERE i.run = ? AND i.generation <= s.generation"
            f" AND {COUNTS} AND i.outcome NOT IN ({marks})"
            " ORDER BY i.stage, i.item LIMIT ?",
            (generation, run, *but, limit),
        ).fetchall()
        return [
            {
                "stage": stage,
                "item": item,
                "outcome": _OUTCOMES[outcome],
                "attempts": attempts,
                "seconds": elapsed / 1e6,
                "cause": cause,
                "message": message,
                "error": error,
                "late_seconds": None if late is None else late / 1e6,
            }
            for stage, item, outcome, attempts, elapsed, cause, message, error, late in rows
        ]

    return ask


def statistics(pipeline: str, since: int) -> Question[dict[str, Any]]:
    """Ask for the durations and endings of a pipeline's runs that ended after *since*."""

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        rows = connection.execute(
            "SELECT g.status, g.finished_at - g.created_at FROM runs r JOIN generations g"
            " ON g.run = r.run AND g.generation = r.generation"
            " WHERE r.pipeline = ? AND g.finished_at >= ?"
            " ORDER BY g.finished_at - g.created_at",
            (pipeline, since),
        ).fetchall()
        by_status: dict[str, int] = {}
        for status, _ in rows:
            by_status[status] = by_status.get(status, 0) + 1
        seconds = [duration / 1e6 for _, duration in rows]
        (running,) = connection.execute(
            "SELECT count(*) FROM runs r JOIN generations g ON g.run = r.run"
            " AND g.generation = r.generation"
            " WHERE r.pipeline = ? AND g.status IN ('queued', 'running')",
            (pipeline,),
        ).fetchone()
        (items_timed_out,) = connection.execute(
            "SELECT coalesce(sum(s.timed_out), 0) FROM runs r JOIN generations g ON g.run = r.run"
            " AND g.generation = r.generation"
            " JOIN stages s ON s.run = g.run AND s.generation = g.generation"
            " WHERE r.pipeline = ? AND g.finished_at >= ?",
            (pipeline, since),
        ).fetchone()
        return {
            "pipeline": pipeline,
            "since": iso(since),
            "runs": len(rows),
            "running": running,
            "by_status": by_status,
            "timed_out_items": items_timed_out,
            "seconds": {
                "median": nearest_rank(seconds, 0.5),
                "p99": nearest_rank(seconds, 0.99),
                "longest": seconds[-1] if seconds else None,
            },
        }

    return ask


def find_run(connection: sqlite3.Connection, identifier: str) -> int:
    """Return a run's number by its identifier or the beginning of it."""
    rows = connection.execute(
        "SELECT run, id FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT 2",
        (identifier, identifier + "\uffff"),
    ).fetchall()
    if not identifier or not rows:
        raise UsageError(f"there is no run {identifier!r}: `stagerun runs` lists them")
    if len(rows) > 1 and rows[0][1] != identifier:
        raise UsageError(f"more than one run begins with {identifier!r}: give more of it")
    return int(rows[0][0])


def heads(
    connection: sqlite3.Connection, runs: Sequence[int], looks: Looks
) -> list[dict[str, Any]]:
    """Return the documents of the runs with these numbers as a list shows them, newest first."""
    documents, ordered = [], sorted(runs, reverse=True)
    for first in range(0, len(ordered), _AT_ONCE):
        page = ordered[first : first + _AT_ONCE]
        sql = f"{_HEAD} WHERE r.run IN ({', '.join('?' * len(page))}) ORDER BY r.run DESC"
        documents += [_head(row, looks) for row in connection.execute(sql, page).fetchall()]
    return documents


# The step of a run is the last stage that has begun, unless it reports one.
_HEAD = f"""
    SELECT r.id, r.pipeline, r.target, r.params, r.generation, g.status, g.cause,
           g.message, g.error_code, g.percent, g.note, g.done, g.total, r.created_at,
           g.started_at, g.updated_at, o.alive_at, g.finished_at, g.deadline_at, g.requested_at,
           g.stopped_at, g.survivors, r.source_length, o.id, o.device, o.inode, o.ended_at,
           g.moved_at, {DIED},
           (SELECT json_group_object(name, value) FROM labels l WHERE l.run = r.run),
           coalesce(nullif(g.step, ''), (SELECT name FROM stages s WHERE s.run = r.run
                             AND s.generation = r.generation AND s.started_at IS NOT NULL
                             ORDER BY s.stage DESC LIMIT 1))
    FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation
    LEFT JOIN owners o ON o.owner = g.owner
"""  # noqa: S608 - a constant


def _head(row: Sequence[Any], looks: Looks) -> dict[str, Any]:
    (identifier, pipeline, target, params, generation, status, cause, message, error_code,
     percent, note, done, total, created, started, updated, alive, finished, deadline,
     requested, stopped, survivors, source_length, owner, device, inode, owner_ended, moved,
     died, labels, step) = row  # fmt: skip
    place = Place(
        pipeline=pipeline,
        status=status,
        owner=owner,
        device=device,
        inode=inode,
        owner_ended_at=owner_ended,
        alive_at=alive,
        begun_at=started or created,
        moved_at=moved,
    )
    verdict = "ended" if finished else looks.verdict(place)
    if verdict == "dead":  # nobody has settled it yet; whoever reads now is told the truth
        status, cause = "interrupted", "owner_died"
        message = died
    failed = status in ("failed", "timed_out", "interrupted")
    return {
        "id": identifier,
        "pipeline": pipeline,
        "target": target,
        "generation": generation,
        "status": status,
        "verdict": verdict,
        "cause": cause,
        "step": step,
        "message": message or note,
        "percent": percent,
        "done": done,
        "total": total,
        "labels": msgspec.json.decode(labels),
        "params": _plain(params),
        "source_length": source_length,
        "created_at": iso(created),
        "started_at": iso(started),
        "updated_at": iso(updated),
        "last_heartbeat_at": iso(max(updated, min(alive or 0, finished or alive or 0))),
        "finished_at": iso(finished),
        "deadline_at": iso(deadline),
        "requested_at": iso(requested),
        "stopped_at": iso(stopped),
        "survivors": [] if survivors is None else msgspec.json.decode(survivors),
        "error": {"code": error_code or cause, "message": message} if failed else None,
    }


def _stages(connection: sqlite3.Connection, run: int, generation: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT name, kind, workers, deadline, status, started_at, finished_at, error_code,"
        " error_message, in_flight, accepted, ok, failed, timed_out, cancelled, skipped, crashed"
        " FROM stages WHERE run = ? AND generation = ? ORDER BY stage",
        (run, generation),
    ).fetchall()
    documents = []
    for name, kind, workers, deadline, status, started, finished, code, message, *counts in rows:
        in_flight, accepted, *sums = counts
        settled = sum(sums)
        documents.append(
            {
                "name": name,
                "kind": kind,
                "workers": workers,
                "deadline": None if deadline is None else deadline / 1e6,
                "status": status,
                "percent": 100.0 * settled / accepted if accepted else None,
                "started_at": iso(started),
                "finished_at": iso(finished),
                "error": None if code is None else {"code": code, "message": message},
                "accepted": accepted,
                **dict(zip(_OUTCOMES, sums, strict=True)),
                "in_flight": in_flight,
                "waiting": accepted - settled - in_flight,
            }
        )
    return documents


def _plain(encoded: bytes) -> Any:
    """Return a stored value as JSON can show it, without what its name calls a secret."""
    value = msgspec.msgpack.decode(encoded, strict=False)
    try:
        return _shown(msgspec.json.decode(msgspec.json.encode(value)))
    except (TypeError, ValueError):  # JSON knows text keys only
        return redacted(repr(value))


def _shown(value: Any) -> Any:
    """Hide all that stands below a secret name, and the second of a pair whose first is one."""
    match value:
        case dict():
            return {
                name: PUT if is_secret_name(name) else _shown(each) for name, each in value.items()
            }
        case [str(name), _] if is_secret_name(name):
            return [name, PUT]
        case list():
            return [_shown(each) for each in value]
        case str():
            return redacted(value)
    return value


def iso(microseconds: int | None) -> str | None:
    """Return a moment as documents tell it; None stays None."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")


def nearest_rank(ordered: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank quantile of ordered values."""
    if not ordered:
        return None
    return ordered[math.ceil(share * len(ordered)) - 1]
