"""The story of a run from the database alone: for one that has ended, or whose process is silent.

Who ended it and why, what went wrong how often, what took longest, and its last log lines.
"""

import json
import sqlite3
from datetime import UTC, datetime
from typing import Any

from stagerun.model.outcome import Outcome
from stagerun.store.documents import find_run, run_document
from stagerun.store.driver import Question
from stagerun.store.frontier import COUNTS

__all__ = ["blocks", "story"]

_SORTS = 10
"""Sorts of failures that are told."""
_SLOWEST = 5
_BLOCKS = 5
_FINE = (Outcome.OK, Outcome.SKIPPED)


def story(identifier: str) -> Question[dict[str, Any]]:
    """Ask for the story of a run; counts of failures are those that its current generation counts.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        document = run_document(identifier)(connection)
        run, generation = find_run(connection, document["id"]), document["generation"]
        kept = ("pipeline", "generation", "status", "verdict", "cause", "message", "created_at",
                "started_at", "updated_at", "finished_at", "deadline_at", "requested_at",
                "survivors", "stages", "generations", "recent_logs")  # fmt: skip
        return {
            "run": document["id"],
            **{name: document[name] for name in kept},
            "ended": document["finished_at"] is not None or document["verdict"] == "dead",
            "owner": _owner(connection, run, generation, "owner"),
            "ended_by": _owner(connection, run, generation, "ended_by"),
            "blocks": blocks(document["id"])(connection),
            "failures": _failures(connection, run, generation),
            "slowest": _slowest(connection, run, generation),
        }

    return ask


def blocks(identifier: str) -> Question[list[dict[str, Any]]]:
    """Ask for the last reports that a run has blocked its event loop, the oldest first."""

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        rows = connection.execute(
            "SELECT at, stage, item, body FROM events WHERE run = ? AND kind = 'block'"
            " ORDER BY seq DESC LIMIT ?",
            (find_run(connection, identifier), _BLOCKS),
        ).fetchall()
        return [
            {"time": _moment(at), "stage": stage, "item": item, **json.loads(body)}
            for at, stage, item, body in reversed(rows)
        ]

    return ask


def _owner(
    connection: sqlite3.Connection, run: int, generation: int, column: str
) -> dict[str, Any] | None:
    """Return who works on a generation, or who has ended it."""
    row = connection.execute(
        f"SELECT o.pid, o.host, o.revision, o.ended_cause FROM generations g"  # noqa: S608 - one of two columns
        f" JOIN owners o ON o.owner = g.{column} WHERE g.run = ? AND g.generation = ?",
        (run, generation),
    ).fetchone()
    if row is None:
        return None
    return dict(zip(("pid", "host", "revision", "ended_cause"), row, strict=True))


def _failures(connection: sqlite3.Connection, run: int, generation: int) -> list[dict[str, Any]]:
    """Return what went wrong, like with like, the most frequent first."""
    marks = ",".join("?" * len(_FINE))
    rows = connection.execute(
        "SELECT s.name, i.outcome, f.cause, f.error, f.message, count(*), min(i.item)"  # noqa: S608 - only marks
        " FROM items i JOIN stages s"
        " ON s.run = i.run AND s.generation = ? AND s.stage = i.stage"
        " LEFT JOIN failures f ON f.run = i.run AND f.stage = i.stage AND f.item = i.item"
        " AND f.generation = i.generation"
        f" WHERE i.run = ? AND i.generation <= s.generation AND {COUNTS}"
        f" AND i.outcome NOT IN ({marks})"
        " GROUP BY i.stage, i.outcome, f.cause, f.error, f.message"
        " ORDER BY count(*) DESC, i.stage, min(i.item) LIMIT ?",
        (generation, run, *_FINE, _SORTS),
    ).fetchall()
    return [
        {
            "stage": stage,
            "outcome": Outcome(outcome).label,
            "cause": cause,
            "error": error,
            "message": message,
            "count": count,
            "first_item": item,
        }
        for stage, outcome, cause, error, message, count, item in rows
    ]


def _slowest(connection: sqlite3.Connection, run: int, generation: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT s.name, i.item, i.outcome, i.attempts, i.elapsed FROM items i JOIN stages s"  # noqa: S608 - a constant
        " ON s.run = i.run AND s.generation = ? AND s.stage = i.stage"
        f" WHERE i.run = ? AND i.generation <= s.generation AND {COUNTS}"
        " ORDER BY i.elapsed DESC LIMIT ?",
        (generation, run, _SLOWEST),
    ).fetchall()
    return [
        {
            "stage": stage,
            "item": item,
            "outcome": Outcome(outcome).label,
            "attempts": attempts,
            "seconds": elapsed / 1e6,
        }
        for stage, item, outcome, attempts, elapsed in rows
    ]


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")
