"""Questions and statements about what is late: owners without a sign of life, overdue runs."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from stagerun.store.driver import Question
from stagerun.store.owner import Identity
from stagerun.store.owners import settle_owner
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "OverdueRun",
    "SilentOwner",
    "all_running",
    "end_overdue",
    "end_silent",
    "end_stages",
    "keep_time",
    "overdue_runs",
    "silent_owners",
]

_GENERATIONS: Final = 2**20
"""More than a run can have: run and generation are one number with it."""
_PAST: Final = 5_000_000
"""Microseconds beyond deadline and grace: the first word is the owner's own."""


_SILENT: Final = 15_000_000
"""Microseconds without a beat after which an owner's queued runs are looked at too."""


@frozen
class SilentOwner:
    """An owner that has not ended, as it stood when it was looked at."""

    owner: int
    id: str
    device: int
    inode: int
    alive_at: int


@frozen
class OverdueRun:
    """A generation past its deadline, as it stood when it was looked at."""

    run: int
    generation: int
    id: str
    deadline_at: int
    owner: int
    owner_id: str
    device: int | None
    inode: int | None
    pid: int
    host: str


def silent_owners(but: int) -> Question[list[SilentOwner]]:
    """Ask for all owners, but one, that have not ended."""

    def ask(connection: sqlite3.Connection) -> list[SilentOwner]:
        rows = connection.execute(
            "SELECT owner, id, device, inode, alive_at FROM owners"
            " WHERE ended_at IS NULL AND device IS NOT NULL AND owner <> ?",
            (but,),
        )
        return [SilentOwner(*row) for row in rows.fetchall()]

    return ask


def end_silent(silent: SilentOwner, by: int, now: int) -> Unit:
    """Return the unit that settles an owner by its lease; refused when it has shown life."""
    identity = Identity(silent.device, silent.inode)
    return settle_owner(silent.owner, identity, by, now, alive_at=silent.alive_at)


def overdue_runs(but: int, now: int) -> Question[list[OverdueRun]]:
    """Ask for running generations, but of one owner, that are well past deadline and grace."""

    def ask(connection: sqlite3.Connection) -> list[OverdueRun]:
        rows = connection.execute(
            "SELECT g.run, g.generation, r.id, g.deadline_at, g.owner, o.id, o.device, o.inode,"
            " o.pid, o.host FROM generations g JOIN runs r ON r.run = g.run"
            " JOIN owners o ON o.owner = g.owner"
            " WHERE g.owner <> ? AND o.ended_at IS NULL AND g.deadline_at + g.grace < ?"
            # A queued one's deadline is not put right while its machine sleeps: it must be silent.
            " AND (g.status = 'running' OR g.status = 'queued' AND o.alive_at < ?)",
            (but, now - _PAST, now - _SILENT),
        )
        return [OverdueRun(*row) for row in rows.fetchall()]

    return ask


def end_overdue(seen: OverdueRun, by: int, now: int, message: str) -> Unit:
    """Return the unit that ends an overdue run of a living owner; refused when it has changed."""
    return Unit(
        Statement(
            "UPDATE generations SET status = 'timed_out', cause = 'run_deadline', message = ?,"
            " finished_at = ?, updated_at = ?, ended_by = ? WHERE run = ? AND generation = ?"
            " AND status IN ('queued', 'running') AND owner = ? AND deadline_at = ?",
            (message, now, now, by, seen.run, seen.generation, seen.owner, seen.deadline_at),
        ),
        (
            end_stages(seen.run, seen.generation, "timed_out", now),
            Statement("UPDATE runs SET events = events + 1 WHERE run = ?", (seen.run,), expected=1),
            Statement(
                "INSERT INTO events SELECT run, events, ?, ?, 'run', NULL, NULL, NULL, 'timed_out'"
                " FROM runs WHERE run = ?",
                (seen.generation, now, seen.run),
                expected=1,
            ),
        ),
    )


def end_stages(run: int, generation: int, status: str, now: int) -> Statement:
    """Return the statement that ends the stages which have not ended."""
    return Statement(
        "UPDATE stages SET in_flight = 0, finished_at = ?,"
        " status = CASE WHEN accepted = 0 THEN 'skipped' ELSE ? END"
        " WHERE run = ? AND generation = ? AND finished_at IS NULL",
        (now, status, run, generation),
    )


def all_running(places: Sequence[tuple[int, int]]) -> Unit:
    """Return the unit that is refused when one of these runs' generations does not run any more."""
    keys = [run * _GENERATIONS + generation for run, generation in places]
    return Unit(
        Statement(
            f"SELECT 1 WHERE ? = (SELECT count(*) FROM json_each(?) k CROSS JOIN generations g"  # noqa: S608 - a constant
            f" ON g.run = k.value / {_GENERATIONS} AND g.generation = k.value % {_GENERATIONS}"
            " WHERE g.status = 'running')",
            (len(keys), json.dumps(keys)),
        )
    )


def keep_time(run: int, generation: int, deadline_at: int | None, grace: int) -> Unit:
    """Return the unit by which an owner keeps a run's deadline right; refused: it has been ended.

    *deadline_at* is wall time, which jumps, and stands still to a machine that sleeps.
    """
    return Unit(
        Statement(
            "UPDATE generations SET deadline_at = CASE WHEN ? - deadline_at BETWEEN -1000000 AND"
            " 1000000 THEN deadline_at ELSE ? END, grace = ?"
            " WHERE run = ? AND generation = ? AND status = 'running'",
            (deadline_at, deadline_at, grace, run, generation),
        )
    )
