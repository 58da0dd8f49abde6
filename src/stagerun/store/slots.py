"""What becomes of slots: each statement changes a row that only one process can change."""

import json
from collections.abc import Sequence

from stagerun.store.codec import words
from stagerun.store.schedules import Standing
from stagerun.store.starting import Claim
from stagerun.store.transaction import Statement, Unit

__all__ = ["claim_slot", "fire_asked", "make_room", "move", "skip_asked", "skip_slot"]

_KEPT = 1_000
"""The last slots of a schedule of which is known what became of them."""


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
