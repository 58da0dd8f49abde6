"""Schedules as documents: where each one stands, and what became of its last slots."""

import sqlite3
from typing import Any, Final

from attrs import frozen

from stagerun.errors import UsageError
from stagerun.store.documents import heads, iso
from stagerun.store.driver import Question
from stagerun.store.verdicts import Looks

__all__ = [
    "ScheduleFigures",
    "asked_slot",
    "schedule_document",
    "schedule_figures",
    "schedule_list",
]

_SORTS: Final = ("fired", "skipped", "missed")
_SLOTS: Final = 20
"""The last slots that the document of one schedule tells."""
_MOST: Final = 1_000
"""Schedules in a list at most."""
_HEADS: Final = (
    "SELECT schedule, name, pipeline, cron, every, zone, overlap, active, next_at, paused_at,"
    " created_at, fired, skipped, missed FROM schedules"
)


def schedule_list() -> Question[list[dict[str, Any]]]:
    """Ask for all schedules, by name. What each key means: docs/reference.md, "Schedules"."""

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        if not _has_schedules(connection):
            return []
        rows = connection.execute(f"{_HEADS} ORDER BY name LIMIT ?", (_MOST,)).fetchall()
        looks = Looks(connection)
        return [_document(connection, row, looks) for row in rows]

    return ask


def schedule_document(name: str, *, slots: int = _SLOTS) -> Question[dict[str, Any]]:
    """Ask for one schedule, with its last slots, the newest first.

    Raises:
        UsageError: There is no schedule of this name.
    """

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        rows = []
        if _has_schedules(connection):
            rows = connection.execute(f"{_HEADS} WHERE name = ?", (name,)).fetchall()
        if not rows:
            raise UsageError(_unknown(connection, name))
        (row,) = rows
        looks = Looks(connection)
        told = _slots(connection, "k.schedule = ?", (row[0], slots), looks)
        return {**_document(connection, row, looks), "slots": told}

    return ask


def asked_slot(slot: int) -> Question[dict[str, Any]]:
    """Ask what has become of a trigger, by the number of its slot."""

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        (found,) = _slots(connection, "k.slot = ?", (slot, 1), Looks(connection))
        return found

    return ask


@frozen
class ScheduleFigures:
    """What is counted of a schedule."""

    name: str
    next_at: int | None
    """In microseconds; None: it is paused."""
    slots: dict[str, int]
    """By what became of them: fired, skipped, missed."""


def schedule_figures(limit: int) -> Question[list[ScheduleFigures]]:
    """Ask for the figures of all schedules, by name, of the first *limit* of them."""

    def ask(connection: sqlite3.Connection) -> list[ScheduleFigures]:
        if not _has_schedules(connection):
            return []
        rows = connection.execute(
            "SELECT name, CASE WHEN paused_at IS NULL THEN next_at END, fired, skipped, missed"
            " FROM schedules ORDER BY name LIMIT ?",
            (limit,),
        )
        return [
            ScheduleFigures(name, next_at, dict(zip(_SORTS, counts, strict=True)))
            for name, next_at, *counts in rows
        ]

    return ask


def _has_schedules(connection: sqlite3.Connection) -> bool:
    """Whether the database knows schedules: only programs that open it bring it up to date."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] >= 2)


def _unknown(connection: sqlite3.Connection, name: str) -> str:
    known = list[str]()
    if _has_schedules(connection):
        found = connection.execute("SELECT name FROM schedules ORDER BY name LIMIT 20").fetchall()
        known = [each for (each,) in found]
    there = f"there is {', '.join(known)}" if known else "there is none in this database"
    return f"there is no schedule {name!r}: {there}"


def _document(connection: sqlite3.Connection, row: tuple[Any, ...], looks: Looks) -> dict[str, Any]:
    number, name, pipeline, cron, every, zone, overlap, active, next_at, *rest = row
    paused_at, created_at, fired, skipped, missed = rest
    owners = connection.execute(
        "SELECT id, device, inode, ended_at FROM schedule_owners JOIN owners USING (owner)"
        " WHERE schedule = ?",
        (number,),
    ).fetchall()
    served_by = sum(not looks.is_dead(*owner) for owner in owners)
    last = _slots(connection, "k.schedule = ?", (number, 1), looks)
    state = "paused" if paused_at is not None else "waiting" if served_by else "unserved"
    return {
        "name": name,
        "pipeline": pipeline,
        "state": state,
        "cron": cron,
        "every": None if every is None else every / 1e6,
        "zone": zone,
        "overlap": overlap,
        "active": active,
        "next_at": None if paused_at is not None else iso(next_at),
        "paused_at": iso(paused_at),
        "created_at": iso(created_at),
        "served_by": served_by,
        "fired": fired,
        "skipped": skipped,
        "missed": missed,
        "last": last[0] if last else None,
    }


def _slots(
    connection: sqlite3.Connection, where: str, parameters: tuple[int, int], looks: Looks
) -> list[dict[str, Any]]:
    """Return slots, the newest first, each with what is known of its run by now."""
    rows = connection.execute(
        "SELECT k.at, k.asked_by, k.missed, k.decided_at, k.decision, k.run, k.reason, r.run"  # noqa: S608 - constants
        f" FROM slots k LEFT JOIN runs r ON r.id = k.run WHERE {where} ORDER BY k.slot DESC"
        " LIMIT ?",
        parameters,
    ).fetchall()
    numbers = [number for *_, number in rows if number is not None]
    runs = {run["id"]: run for run in heads(connection, numbers, looks)}
    return [
        {
            "at": iso(at),
            "asked_by": asked_by,
            "decided_at": iso(decided_at),
            "decision": decision,
            "missed": missed,
            "reason": reason,
            "run": run,
            "status": runs[run]["status"] if run in runs else None,
            "finished_at": runs[run]["finished_at"] if run in runs else None,
        }
        for at, asked_by, missed, decided_at, decision, run, reason, _ in rows
    ]
