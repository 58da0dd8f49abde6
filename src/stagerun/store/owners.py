"""The statements about owners, as values: register, show life, end, and settle the dead."""

from typing import Any

from stagerun.store.owner import Identity
from stagerun.store.transaction import Statement, Unit

__all__ = ["beat", "end_owner", "owner", "settle_owner"]


def owner(
    identifier: str,
    identity: Identity | None,
    *,
    now: int,
    pid: int,
    host: str,
    revision: str | None,
) -> Unit:
    """Return the unit that registers a process as an owner; its guard returns the number."""
    device, inode = (None, None) if identity is None else (identity.device, identity.inode)
    return Unit(
        Statement(
            "INSERT INTO owners (id, device, inode, pid, host, revision, started_at, alive_at,"
            " tick_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING owner",
            (identifier, device, inode, pid, host, revision, now, now, now),
        )
    )


def beat(owner: int, now: int, tick_at: int) -> Unit:
    """Return the unit that shows life. Refused: somebody has ended this owner, stop all work."""
    return Unit(
        Statement(
            "UPDATE owners SET alive_at = ?, tick_at = ? WHERE owner = ? AND ended_at IS NULL",
            (now, tick_at, owner),
        )
    )


def end_owner(owner: int, now: int) -> Unit:
    """Return the unit that notes an owner's orderly end."""
    return Unit(
        Statement(
            "UPDATE owners SET ended_at = ?, ended_by = owner, ended_cause = 'closed'"
            " WHERE owner = ? AND ended_at IS NULL",
            (now, owner),
        )
    )


def settle_owner(dead: int, identity: Identity, by: int, now: int) -> Unit:
    """Return the unit that ends a dead owner and everything of it that had not ended.

    The guard asks for the file that was looked at: an owner that has locked a new one lives.
    """
    mine = "owner = ? AND finished_at = ? AND ended_by = ?"
    ended: tuple[Any, ...] = (dead, now, by)
    runs = f"SELECT run FROM generations WHERE {mine}"  # noqa: S608 - a constant
    return Unit(
        Statement(
            "UPDATE owners SET ended_at = ?, ended_by = ?, ended_cause = 'dead'"
            " WHERE owner = ? AND ended_at IS NULL AND device = ? AND inode = ?",
            (now, by, dead, identity.device, identity.inode),
        ),
        (
            Statement(
                "UPDATE generations SET status = 'interrupted', cause = 'owner_died',"
                " message = (SELECT 'its process died (pid ' || pid || ' on ' || host || ')'"
                " FROM owners o WHERE o.owner = generations.owner),"
                " finished_at = ?, updated_at = ?, ended_by = ?"
                " WHERE owner = ? AND status IN ('queued', 'running')",
                (now, now, by, dead),
            ),
            Statement(
                "UPDATE stages SET in_flight = 0, finished_at = ?,"  # noqa: S608 - a constant
                " status = CASE WHEN accepted = 0 THEN 'skipped' ELSE 'interrupted' END"
                f" WHERE finished_at IS NULL AND (run, generation) IN"
                f" (SELECT run, generation FROM generations WHERE {mine})",
                (now, *ended),
            ),
            Statement(f"UPDATE runs SET events = events + 1 WHERE run IN ({runs})", ended),  # noqa: S608 - a constant
            Statement(
                "INSERT INTO events SELECT run, events, generation, ?, 'run', NULL, NULL, NULL,"  # noqa: S608 - a constant
                f" 'interrupted' FROM runs WHERE run IN ({runs})",
                (now, *ended),
            ),
        ),
    )
