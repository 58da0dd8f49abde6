"""The statements about owners, as values: register, show life, end, and settle the dead."""

from collections.abc import Sequence
from typing import Any

from stagerun.store.owner import Identity
from stagerun.store.transaction import Statement, Unit

__all__ = ["DIED", "beat", "end_owner", "owner", "settle_left", "settle_owner"]


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


DIED = (
    "'its process died (pid ' || o.pid || ' on ' || o.host || ')' || CASE WHEN o.memory_used >="
    " 0.9 * o.memory_limit THEN ', probably out of memory: it used ' || (o.memory_used / 1048576)"
    " || ' of ' || (o.memory_limit / 1048576) || ' MB' ELSE '' END"
)
"""What is said of a run whose process has died; SQL over a row ``o`` of owners."""


def beat(
    owner: int,
    now: int,
    tick_at: int,
    identity: Identity | None = None,
    memory: tuple[int | None, int | None] = (None, None),
) -> Unit:
    """Return the unit that shows life. Refused: somebody has ended this owner, stop all work.

    *identity*: which file is locked by now, when it is another one than before.
    """
    device, inode = (None, None) if identity is None else (identity.device, identity.inode)
    return Unit(
        Statement(
            "UPDATE owners SET alive_at = ?, tick_at = ?, device = coalesce(?, device),"
            " inode = coalesce(?, inode), memory_used = ?, memory_limit = ?"
            " WHERE owner = ? AND ended_at IS NULL",
            (now, tick_at, device, inode, *memory, owner),
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


def settle_owner(
    dead: int,
    identity: Identity,
    by: int,
    now: int,
    in_hand: Sequence[tuple[int, int, int, int]] = (),
    *,
    alive_at: int | None = None,
) -> Unit:
    """Return the unit that ends a dead owner and everything of it that had not ended.

    The guard asks for the file that was looked at: an owner that has locked a new one lives.

    *alive_at*: it is settled by its lease; when it was last seen alive.
    *in_hand*: run, generation, stage and item of what was under way: one of them may be to blame.
    """
    cause = "dead" if alive_at is None else "lease"
    guard = Statement(
        "UPDATE owners SET ended_at = ?, ended_by = ?, ended_cause = ?"
        " WHERE owner = ? AND ended_at IS NULL AND device = ? AND inode = ?"
        " AND alive_at = coalesce(?, alive_at)",
        (now, by, cause, dead, identity.device, identity.inode, alive_at),
    )
    deaths = [_deaths(in_hand, (dead, now, by), now)] if in_hand else []
    return Unit(guard, [*_end_work(dead, by, now), *deaths])


def settle_left(ended: int, by: int, now: int) -> Unit:
    """Return the unit that ends what an owner has left open that has ended, in whichever way."""
    guard = Statement(
        "UPDATE owners SET ended_by = ended_by WHERE owner = ? AND ended_at IS NOT NULL", (ended,)
    )
    return Unit(guard, _end_work(ended, by, now))


def _end_work(dead: int, by: int, now: int) -> list[Statement]:
    mine = "owner = ? AND finished_at = ? AND ended_by = ?"
    ended: tuple[Any, ...] = (dead, now, by)
    runs = f"SELECT run FROM generations WHERE {mine}"  # noqa: S608 - a constant
    return [
        Statement(
            "UPDATE generations SET status = 'interrupted', cause = 'owner_died',"  # noqa: S608 - a constant
            f" message = (SELECT {DIED} FROM owners o WHERE o.owner = ?),"  # made once for all
            " finished_at = ?, updated_at = ?, ended_by = ?"
            " WHERE owner = ? AND status IN ('queued', 'running')",
            (dead, now, now, by, dead),
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
    ]


def _deaths(
    in_hand: Sequence[tuple[int, int, int, int]], ended: tuple[Any, ...], now: int
) -> Statement:
    """Return the statement that notes which items were under way when their process died."""
    rows = ",".join(["(?, ?, ?, ?)"] * len(in_hand))
    sql = f"""
        INSERT OR IGNORE INTO deaths
        WITH held (run, generation, stage, item) AS (VALUES {rows}),
        open AS MATERIALIZED (
            SELECT h.* FROM held h JOIN generations g
                ON g.run = h.run AND g.generation = h.generation
               AND g.owner = ? AND g.finished_at = ? AND g.ended_by = ?
            WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.run = h.run AND i.stage = h.stage
                              AND i.item = h.item AND i.generation = h.generation))
        SELECT run, stage, item, generation, (SELECT count(*) FROM open), ? FROM open"""  # noqa: S608 - only marks
    flat = [value for each in in_hand for value in each]
    return Statement(sql, (*flat, *ended, now))
