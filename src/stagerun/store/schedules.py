"""Schedules on disk: who serves them, where they stand, and what is said to them from outside."""

import sqlite3
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from stagerun.store.codec import words
from stagerun.store.driver import Question
from stagerun.store.transaction import Statement, Unit

if TYPE_CHECKING:
    from stagerun.model.schedule import Schedule

__all__ = [
    "Standing",
    "decided_after",
    "declare",
    "desert",
    "forget",
    "open_runs",
    "pause",
    "place",
    "serve",
    "standing",
    "timing",
    "trigger",
    "unpause",
]

_PER_QUESTION = 500
"""Names that stand in one question at most."""


@frozen
class Standing:
    """A schedule as its row has it. Times in microseconds."""

    schedule: int
    name: str
    timing: tuple[str | None, int | None, str]
    """cron, every (in microseconds) and the zone, as declared last."""
    next_at: int | None
    """None: the next slot is to be told by whoever serves it."""
    paused: bool
    abandoned: bool
    """Whether the process that declared it so has ended."""
    asked: tuple[int, ...]
    """Triggers that nobody has taken yet, by the number of their slot."""


def timing(schedule: "Schedule") -> tuple[str | None, int | None, str]:
    """Return what is stored of a schedule's times."""
    every = None if schedule.every is None else round(schedule.every * 1e6)
    return schedule.cron, every, schedule.zone


# -- serving --------------------------------------------------------------------------------------


def declare(schedule: "Schedule", next_at: int, owner: int, now: int) -> Unit:
    """Return the unit that stores a schedule as it is declared now.

    Its next slot stays what it is, so that those missed meanwhile are told, unless its times are
    other ones than before.
    """
    cron, every, zone = timing(schedule)
    return Unit(
        Statement(
            "INSERT INTO schedules (name, pipeline, cron, every, zone, overlap, active, created_at,"
            " next_at, declared_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET declared_by = excluded.declared_by,"
            " pipeline = excluded.pipeline, overlap = excluded.overlap, active = excluded.active,"
            " next_at = CASE WHEN cron IS excluded.cron AND every IS excluded.every"
            " AND zone = excluded.zone THEN next_at ELSE excluded.next_at END,"
            " cron = excluded.cron, every = excluded.every, zone = excluded.zone"
            " RETURNING schedule",
            (
                schedule.name,
                schedule.pipeline.name,
                cron,
                every,
                zone,
                schedule.overlap,
                schedule.active,
                now,
                next_at,
                owner,
            ),
        )
    )


def desert(name: str, owner: int) -> Unit:
    """Return the unit that says that a process serves a schedule no longer."""
    return Unit(
        None,
        (
            Statement(
                "DELETE FROM schedule_owners WHERE owner = ?"
                " AND schedule = (SELECT schedule FROM schedules WHERE name = ?)",
                (owner, name),
            ),
        ),
    )


def serve(names: Collection[str], owner: int) -> Unit:
    """Return the unit that says which process serves schedules; void ones are forgotten."""
    marks = ", ".join("?" * len(names))
    return Unit(
        None,
        (
            Statement(
                "DELETE FROM schedule_owners WHERE owner IN"
                " (SELECT owner FROM owners WHERE ended_at IS NOT NULL)"
                " OR owner NOT IN (SELECT owner FROM owners)"
            ),
            Statement(
                "INSERT OR IGNORE INTO schedule_owners SELECT schedule, ? FROM schedules"  # noqa: S608 - marks only
                f" WHERE name IN ({marks})",
                (owner, *names),
            ),
        ),
    )


def standing(names: Sequence[str]) -> Question[list[Standing]]:
    """Ask where schedules stand."""

    def ask(connection: sqlite3.Connection) -> list[Standing]:
        asked: dict[int, list[int]] = {}
        for schedule, slot in connection.execute(
            "SELECT schedule, slot FROM slots WHERE decided_at IS NULL ORDER BY slot"
        ).fetchall():
            asked.setdefault(schedule, []).append(slot)
        found = list[Standing]()
        for first in range(0, len(names), _PER_QUESTION):
            part = names[first : first + _PER_QUESTION]
            rows = connection.execute(
                "SELECT schedule, name, cron, every, zone, next_at, paused_at IS NOT NULL,"  # noqa: S608 - marks only
                " NOT EXISTS (SELECT 1 FROM owners w WHERE w.owner = declared_by"
                "             AND w.ended_at IS NULL)"
                f" FROM schedules WHERE name IN ({', '.join('?' * len(part))})",
                part,
            ).fetchall()
            for number, name, cron, every, zone, next_at, paused, abandoned in rows:
                found.append(
                    Standing(
                        number,
                        name,
                        (cron, every, zone),
                        next_at,
                        paused=bool(paused),
                        abandoned=bool(abandoned),
                        asked=tuple(asked.get(number, ())),
                    )
                )
        return found

    return ask


def decided_after(schedule: int, moment: int) -> Question[frozenset[int]]:
    """Ask which slots after a moment have been decided already: by a clock that was ahead."""

    def ask(connection: sqlite3.Connection) -> frozenset[int]:
        rows = connection.execute(
            "SELECT at FROM slots WHERE schedule = ? AND asked_by IS NULL AND at > ?",
            (schedule, moment),
        ).fetchall()
        return frozenset(at for (at,) in rows)

    return ask


def place(name: str) -> str:
    """Return the concurrency key that the runs of a schedule share."""
    return f"schedule {name}"


def open_runs(name: str) -> Question[list[tuple[str, bool]]]:
    """Ask which of a schedule's runs have not ended, the oldest first, and whether they wait."""

    def ask(connection: sqlite3.Connection) -> list[tuple[str, bool]]:
        rows = connection.execute(
            # By status first: of all that a schedule has ever run, few are under way.
            "SELECT r.id, g.status FROM generations g CROSS JOIN runs r"
            " ON r.run = g.run AND r.generation = g.generation"
            " WHERE g.status IN ('queued', 'running') AND r.concurrency_key = ? ORDER BY r.run",
            (place(name),),
        ).fetchall()
        return [(run, status == "queued") for run, status in rows]

    return ask


# -- from outside ---------------------------------------------------------------------------------


def pause(name: str, now: int) -> Unit:
    """Return the unit that lets no slot come any more; refused when there is no such schedule."""
    return Unit(
        Statement(
            "UPDATE schedules SET paused_at = coalesce(paused_at, ?) WHERE name = ?", (now, name)
        )
    )


def unpause(name: str) -> Unit:
    """Return the unit that lets slots come again: from now on, none of those meanwhile."""
    return Unit(
        Statement(
            "UPDATE schedules SET next_at = CASE WHEN paused_at IS NULL THEN next_at END,"
            " paused_at = NULL WHERE name = ?",
            (name,),
        )
    )


def trigger(name: str, by: str, now: int) -> Unit:
    """Return the unit that asks for a run now; refused when nobody serves the schedule.

    Its guard returns the number of the slot that was added for it.
    """
    return Unit(
        Statement(
            "INSERT INTO slots (schedule, at, asked_by) SELECT schedule, ?, ? FROM schedules s"
            " WHERE name = ? AND EXISTS (SELECT 1 FROM schedule_owners JOIN owners w USING (owner)"
            " WHERE schedule_owners.schedule = s.schedule AND w.ended_at IS NULL)"
            " RETURNING slot",
            (now, words(by), name),
        )
    )


def forget(name: str) -> Unit:
    """Return the unit that forgets a schedule and its slots; refused while somebody serves it."""
    this = "schedule = (SELECT schedule FROM schedules WHERE name = ?)"
    return Unit(
        Statement(
            "UPDATE schedules SET paused_at = 0 WHERE name = ? AND NOT EXISTS (SELECT 1"
            " FROM schedule_owners o JOIN owners w USING (owner)"
            " WHERE o.schedule = schedules.schedule AND w.ended_at IS NULL)",
            (name,),
        ),
        (
            Statement(f"DELETE FROM slots WHERE {this}", (name,)),  # noqa: S608 - the constant above
            Statement(f"DELETE FROM schedule_owners WHERE {this}", (name,)),  # noqa: S608 - as above
            Statement("DELETE FROM schedules WHERE name = ?", (name,)),
        ),
    )
