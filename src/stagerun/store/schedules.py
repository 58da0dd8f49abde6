"""Schedules on disk: who serves them, and the statements by which each slot is decided once."""

import json
import sqlite3
from collections.abc import Collection, Sequence

from attrs import frozen

from stagerun.model.schedule import Schedule
from stagerun.store.codec import words
from stagerun.store.driver import Question
from stagerun.store.starting import Claim
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "Standing",
    "claim_slot",
    "decided_after",
    "declare",
    "desert",
    "fire_asked",
    "make_room",
    "move",
    "open_runs",
    "pause",
    "place",
    "serve",
    "skip_asked",
    "skip_slot",
    "standing",
    "timing",
    "trigger",
    "unpause",
]

_KEPT = 1_000
"""The last slots of a schedule of which is known what became of them."""
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


def timing(schedule: Schedule) -> tuple[str | None, int | None, str]:
    """Return what is stored of a schedule's times."""
    every = None if schedule.every is None else round(schedule.every * 1e6)
    return schedule.cron, every, schedule.zone


# -- serving --------------------------------------------------------------------------------------


def declare(schedule: Schedule, next_at: int, owner: int, now: int) -> Unit:
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


def make_room(runs: Sequence[str], reason: str, now: int) -> tuple[Statement, ...]:
    """Return the statements that ask runs to stop, in the transaction that starts the next one."""
    body = json.dumps({"by": "their schedule", "reason": words(reason)})
    return tuple(
        Statement(
            "INSERT INTO requests (run, generation, kind, body, asked_at)"
            " SELECT g.run, g.generation, 'cancel', ?, ? FROM runs r"
            " JOIN generations g USING (run, generation)"
            " WHERE r.id = ? AND g.status IN ('queued', 'running')",
            (body, now, run),
        )
        for run in runs
    )


# -- deciding: each statement changes a row that only one process can change ----------------------


def claim_slot(at: Standing, due: tuple[int, int, int], run: str, now: int) -> Claim:
    """Return what makes the start of a run the decision about a slot.

    *due*: the slot, how many were missed before it, and the next one.
    """
    slot, missed, next_at = due
    return Claim(
        "EXISTS (SELECT 1 FROM schedules WHERE schedule = ? AND next_at = ? AND paused_at IS NULL)",
        (at.schedule, at.next_at),
        (
            Statement(
                "UPDATE schedules SET next_at = ?, fired = fired + 1, missed = missed + ?"
                " WHERE schedule = ? AND next_at = ?",
                (next_at, missed, at.schedule, at.next_at),
                expected=1,
            ),
            _decided(at, slot, missed, decision="fired", run=run, reason=None, now=now),
            _forget_old(at),
        ),
    )


def fire_asked(at: Standing, slot: int, run: str, now: int) -> Claim:
    """Return what makes the start of a run the answer to a trigger. *slot*: its number."""
    return Claim(
        "EXISTS (SELECT 1 FROM slots WHERE slot = ? AND decided_at IS NULL)",
        (slot,),
        (
            Statement(
                "UPDATE slots SET decided_at = ?, decision = 'fired', run = ?"
                " WHERE slot = ? AND decided_at IS NULL",
                (now, run, slot),
                expected=1,
            ),
            Statement("UPDATE schedules SET fired = fired + 1 WHERE schedule = ?", (at.schedule,)),
            _forget_old(at),
        ),
    )


def skip_slot(at: Standing, due: tuple[int, int, int], reason: str, now: int) -> Unit:
    """Return the unit that says why a slot became no run; *due* as in ``claim_slot``."""
    slot, missed, next_at = due
    return Unit(
        Statement(
            "UPDATE schedules SET next_at = ?, skipped = skipped + 1, missed = missed + ?"
            " WHERE schedule = ? AND next_at = ? AND paused_at IS NULL",
            (next_at, missed, at.schedule, at.next_at),
        ),
        (
            _decided(at, slot, missed, decision="skipped", run=None, reason=reason, now=now),
            _forget_old(at),
        ),
    )


def skip_asked(at: Standing, slot: int, reason: str, now: int) -> Unit:
    """Return the unit that says why a trigger started no run."""
    return Unit(
        Statement(
            "UPDATE slots SET decided_at = ?, decision = 'skipped', reason = ?"
            " WHERE slot = ? AND decided_at IS NULL",
            (now, words(reason), slot),
        ),
        (
            Statement(
                "UPDATE schedules SET skipped = skipped + 1 WHERE schedule = ?", (at.schedule,)
            ),
            _forget_old(at),
        ),
    )


def _decided(
    at: Standing,
    slot: int,
    missed: int,
    *,
    decision: str,
    run: str | None,
    reason: str | None,
    now: int,
) -> Statement:
    return Statement(
        "INSERT INTO slots (schedule, at, missed, decided_at, decision, run, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (at.schedule, slot, missed, now, decision, run, None if reason is None else words(reason)),
    )


def _forget_old(at: Standing) -> Statement:
    return Statement(
        "DELETE FROM slots WHERE decided_at IS NOT NULL AND slot IN"
        " (SELECT slot FROM slots WHERE schedule = ? ORDER BY slot DESC LIMIT -1 OFFSET ?)",
        (at.schedule, _KEPT),
    )


def move(at: Standing, next_at: int) -> Unit:
    """Return the unit that puts another slot in the place of the next one."""
    return Unit(
        Statement(
            "UPDATE schedules SET next_at = ? WHERE schedule = ? AND next_at IS ?",
            (next_at, at.schedule, at.next_at),
        )
    )


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
