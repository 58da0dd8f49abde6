"""Questions of whoever looks after a database: its owners, and what dead ones have left."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stagerun.store.driver import Question
from stagerun.store.owner import Identity, Liveness, folder_of, probe

__all__ = ["iso", "orphaned_runs", "owner_list", "what_became"]


def orphaned_runs(database: Path) -> Question[list[dict[str, Any]]]:
    """Ask for runs that have not ended though their owner has, or is dead; oldest first."""

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        rows = connection.execute(
            "SELECT r.id, r.pipeline, g.status, o.pid, o.host, o.id, o.device, o.inode, o.ended_at"
            " FROM generations g JOIN runs r USING (run) JOIN owners o ON o.owner = g.owner"
            " WHERE g.status IN ('queued', 'running') ORDER BY r.run"
        ).fetchall()
        looked = dict[str, str]()
        left = []
        for run, pipeline, status, pid, host, owner, device, inode, ended_at in rows:
            if owner not in looked:
                looked[owner] = _look(database, owner, device, inode, ended_at)
            if looked[owner] in ("dead", "ended"):
                left.append(
                    {
                        "id": run,
                        "pipeline": pipeline,
                        "status": status,
                        "cause": None,
                        "message": f"its process died (pid {pid} on {host})",
                    }
                )
        return left

    return ask


def what_became(identifier: str) -> Question[dict[str, Any]]:
    """Ask for a run's status, cause and message now, and its generation."""

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        row = connection.execute(
            "SELECT g.status, g.cause, coalesce(g.message, ''), g.generation"
            " FROM runs r JOIN generations g USING (run, generation) WHERE r.id = ?",
            (identifier,),
        ).fetchone()
        return dict(zip(("status", "cause", "message", "generation"), row, strict=True))

    return ask


def owner_list(database: Path, *, limit: int) -> Question[list[dict[str, Any]]]:
    """Ask for the processes that had the database open, the newest first.

    ``verdict``: what its locked file says of one that has not ended, else how it ended.
    """

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        rows = connection.execute(
            "SELECT o.id, o.device, o.inode, o.ended_at, o.ended_cause, o.pid, o.host, o.revision,"
            " o.started_at, o.alive_at, o.memory_used, o.memory_limit,"
            " (SELECT count(*) FROM generations g WHERE g.owner = o.owner)"
            " FROM owners o ORDER BY o.started_at DESC, o.owner DESC LIMIT ?",
            (limit,),
        ).fetchall()
        return [
            {
                "id": owner,
                "pid": pid,
                "host": host,
                "revision": revision,
                "started_at": iso(started),
                "last_heartbeat_at": iso(alive),
                "ended_at": iso(ended),
                "cause": cause,
                "verdict": cause or _look(database, owner, device, inode, ended),
                "memory_used": used,
                "memory_limit": most,
                "runs": runs,
            }
            for (
                owner, device, inode, ended, cause, pid, host, revision, started, alive, used,
                most, runs,
            ) in rows
        ]  # fmt: skip

    return ask


def iso(microseconds: int | None) -> str | None:
    """Return a moment as documents show it."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")


def _look(
    database: Path, owner: str, device: int | None, inode: int | None, ended_at: int | None
) -> str:
    if ended_at is not None:
        return "ended"
    if device is None or inode is None:
        return Liveness.UNKNOWN.value
    return probe(folder_of(database.resolve()) / owner, Identity(device, inode)).value
