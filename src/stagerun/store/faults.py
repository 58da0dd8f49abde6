"""What went wrong in a run, like with like."""

import re
import sqlite3
from typing import Any, Final

import msgspec

from stagerun.model.outcome import Outcome
from stagerun.store.documents import iso
from stagerun.store.subject import Subject, SubjectStage

__all__ = ["faults"]

_BAD: Final = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CRASHED)
_LOOKED_AT: Final = 4_000
"""Items of a run that are looked at; of more, the first and the last ones stand for all."""
_SORTS: Final = 50


def faults(connection: sqlite3.Connection, run: Subject) -> tuple[list[dict[str, Any]], bool]:
    """Return sorts of faults, the most frequent first, and whether not all were looked at.

    Messages that differ in numbers alone are of one sort; the first one stands for them.
    """
    parts = [(stage, bad) for stage in run.stages for bad in _BAD if stage.sums[bad.label]]
    most, sampled = _LOOKED_AT // max(1, len(parts)), False
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for stage, outcome in parts:
        rows = _read(connection, stage, outcome, most)
        weight = 1.0
        if stage.sums[outcome.label] > most:
            weight, sampled = stage.sums[outcome.label] / max(1, len(rows)), True
        for item, ended, cause, error, message in rows:
            sort = (stage.name, outcome, cause, error, _like(message))
            fault = found.get(sort)
            if fault is None:
                found[sort] = {
                    "stage": stage.name,
                    "outcome": outcome.label,
                    "cause": cause,
                    "error": error,
                    "message": message,
                    "count": weight,
                    "first_item": item,
                    "last_at": ended,
                }
            else:
                fault["count"] += weight
                fault["last_at"] = max(fault["last_at"], ended)
    ordered = sorted(found.values(), key=lambda fault: -fault["count"])[:_SORTS]
    told = [x | {"count": round(x["count"]), "last_at": iso(x["last_at"])} for x in ordered]
    return told, sampled


def _read(
    connection: sqlite3.Connection, stage: SubjectStage, outcome: Outcome, most: int
) -> list[tuple[int, int, str | None, str | None, str | None]]:
    """Return item, end, cause, error and message of items with one outcome, in their order."""
    # What has one of these outcomes stands in an index of its own, whose rows are few.
    chosen = f"""SELECT i.run, i.stage, i.item, i.generation, i.started_at + i.elapsed AS ended
        FROM stages s CROSS JOIN items i INDEXED BY items_by_outcome
        WHERE s.run = :run AND s.generation = :generation AND s.stage = :stage
        AND i.run = s.run AND i.stage = s.stage AND i.outcome = :outcome AND i.outcome <> 0
        AND {stage.counts} ORDER BY i.item"""  # noqa: S608 - constants
    (rows,) = connection.execute(
        f"""SELECT json_group_array(json_array(c.item, c.ended, f.cause, f.error, f.message))
        FROM (SELECT * FROM ({chosen} LIMIT :most) UNION
              SELECT * FROM ({chosen} DESC LIMIT :most) ORDER BY item) c
        LEFT JOIN failures f ON f.run = c.run AND f.stage = c.stage AND f.item = c.item
        AND f.generation = c.generation""",  # noqa: S608 - constants
        stage.place.names(outcome=int(outcome), most=max(1, most // 2)),
    ).fetchone()
    return msgspec.json.decode(rows, type=list[tuple[int, int, str | None, str | None, str | None]])


def _like(message: str | None) -> str:
    """Return what a message has in common with its like."""
    return re.sub(r"\d+", "#", message or "")
