"""Alerts in the database: who listens, what was told, and what is to be seen."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import evolve

from stagerun.model.sights import Blocked, Book, RunSeen, Sights, Window
from stagerun.rules.liveness import Thresholds
from stagerun.store.driver import Question
from stagerun.store.outbox import Parcel, keep
from stagerun.store.outdated import SWEEP
from stagerun.store.transaction import Statement, Unit
from stagerun.store.verdicts import Looks, Place

__all__ = ["begin", "news", "turn"]

_ENDINGS: Final = 500
"""Endings of one look; what is beyond is seen by the next one, at once."""
_LATE: Final = 1_000_000
"""Microseconds without a sign of life of an event loop from which on a process is looked at."""


def begin(name: str, fingerprint: str, *, owner: int, now: int) -> Unit:
    """Return the unit by which an owner serves a name from now on, or goes on serving it.

    It is refused while another owner that lives serves it with another fingerprint. What has ended
    before a name's first beginning is not told.
    """
    living = "owner IN (SELECT owner FROM owners WHERE ended_at IS NULL)"
    return Unit(
        Statement(
            "INSERT INTO alert_books (name, ending, window, looked_at) SELECT ?1,"  # noqa: S608 - a constant
            " (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'endings'), '{}', ?2"
            " WHERE NOT EXISTS (SELECT 1 FROM alert_listeners"
            f" WHERE name = ?1 AND owner <> ?3 AND fingerprint <> ?4 AND {living})"
            " ON CONFLICT (name) DO UPDATE SET looked_at = excluded.looked_at",
            (name, now, owner, fingerprint),
        ),
        (
            Statement(f"DELETE FROM alert_listeners WHERE name = ? AND NOT {living}", (name,)),  # noqa: S608 - a constant
            Statement(
                "INSERT OR REPLACE INTO alert_listeners (name, owner, fingerprint)"
                " VALUES (?, ?, ?)",
                (name, owner, fingerprint),
            ),
        ),
    )


def news(
    name: str, now: int, limits: Thresholds, *, since: int, but: int, under_way: bool
) -> Question[tuple[Book, Sights]]:
    """Ask for the book of a name, and for what is to be seen.

    Args:
        name: Of the alerts; they have begun.
        now: The time of the look.
        limits: From when on a run is called stalled.
        since: What has ended before is old news, and left out.
        but: The owner whose own event loop is not to be looked at.
        under_way: Whether the runs under way are looked at, too.
    """

    def ask(connection: sqlite3.Connection) -> tuple[Book, Sights]:
        book, looks = _book(connection, name), Looks(connection, limits)
        ended = connection.execute(
            "SELECT ending, run, generation, g.finished_at"
            " FROM endings LEFT JOIN generations g USING (run, generation)"
            " WHERE ending > ? ORDER BY ending LIMIT ?",
            (book.ending, _ENDINGS),
        ).fetchall()
        seen = [_ended(connection, *place) for _, *place, at in ended if at and at >= since]
        return book, Sights(
            now=now,
            ended=[run for run in seen if run is not None],  # of None nothing is left: pruned
            ending=ended[-1][0] if ended else None,
            under_way=[*_under_way(connection, looks, limits)] if under_way else [],
            blocked=[*_blocked(connection, looks, but)],
        )

    return ask


def turn(name: str, before: Book, after: Book, raised: Sequence[Parcel]) -> Unit:
    """Return the unit that turns a page of the book; refused: another process has done so."""
    gone = before.episodes.keys() - after.episodes.keys()
    seen = after.episodes.items() - before.episodes.items()
    window = {"since": after.window.since, "told": after.window.told, "held": after.window.held}
    return Unit(
        Statement(
            "UPDATE alert_books SET version = version + 1, ending = ?, window = ?"
            " WHERE name = ? AND version = ?",
            (after.ending, json.dumps(window), name, before.version),
        ),
        (
            SWEEP,
            *(
                Statement("DELETE FROM alert_episodes WHERE name = ? AND key = ?", (name, key))
                for key in gone
            ),
            *(
                Statement("INSERT OR REPLACE INTO alert_episodes VALUES (?, ?, ?)", (name, *each))
                for each in seen
            ),
            *(keep(parcel) for parcel in raised),
        ),
    )


def _book(connection: sqlite3.Connection, name: str) -> Book:
    version, ending, window = connection.execute(
        "SELECT version, ending, window FROM alert_books WHERE name = ?", (name,)
    ).fetchone()
    episodes = connection.execute(
        "SELECT key, seen_at FROM alert_episodes WHERE name = ?", (name,)
    ).fetchall()
    return Book(
        version=version,
        ending=ending,
        window=Window(**json.loads(window)),
        episodes=dict(episodes),
    )


_RUN: Final = """
    SELECT g.run, g.generation, r.id, r.pipeline, g.status, g.cause, g.message, g.error_code,
           coalesce(nullif(g.step, ''), (SELECT name FROM stages s WHERE s.run = g.run
                             AND s.generation = g.generation AND s.started_at IS NOT NULL
                             ORDER BY s.stage DESC LIMIT 1)),
           g.percent, (SELECT json_group_object(name, value) FROM labels l WHERE l.run = g.run),
           g.created_at, g.started_at, g.finished_at, g.moved_at,
           o.id, o.device, o.inode, o.ended_at, o.alive_at
    FROM generations g JOIN runs r ON r.run = g.run LEFT JOIN owners o ON o.owner = g.owner
"""


def _ended(connection: sqlite3.Connection, run: int, generation: int) -> RunSeen | None:
    row = connection.execute(
        f"{_RUN} WHERE g.run = ? AND g.generation = ?", (run, generation)
    ).fetchone()
    return None if row is None else _seen(row)[0]


def _under_way(
    connection: sqlite3.Connection, looks: Looks, limits: Thresholds
) -> Iterator[RunSeen]:
    """Give the runs that are running; what the dead have left will be told as interrupted."""
    living = "coalesce(g.owner, 0) NOT IN (SELECT value FROM json_each(?))"
    sql = f"{_RUN} WHERE g.status = 'running' AND {living}"
    for row in connection.execute(sql, (json.dumps(looks.dead),)).fetchall():
        run, place = _seen(row)
        doubtful = run.unmoved > limits.stalled_after  # the others are not looked at: it costs
        yield evolve(run, verdict=looks.verdict(place)) if doubtful else run


def _blocked(connection: sqlite3.Connection, looks: Looks, but: int) -> Iterator[Blocked]:
    """Give the processes whose event loop does not get on, as far as others can see."""
    rows = connection.execute(
        "SELECT owner, id, device, inode, pid, host, alive_at, tick_at FROM owners"
        " WHERE ended_at IS NULL AND alive_at - tick_at > ? AND owner <> ?",
        (_LATE, but),
    ).fetchall()
    for owner, identifier, device, inode, pid, host, alive, tick in rows:
        # Judged as one of its runs would be.
        place = Place(
            pipeline="",
            status="running",
            owner=identifier,
            device=device,
            inode=inode,
            owner_ended_at=None,
            alive_at=alive,
            begun_at=alive,
            moved_at=None,
        )
        if looks.verdict(place) == "blocked":
            seconds = (alive - tick) / 1e6
            yield Blocked(owner=owner, who=f"process {pid} on {host}", seconds=seconds)


def _seen(row: Sequence[Any]) -> tuple[RunSeen, Place]:
    (number, generation, identifier, pipeline, status, cause, message, code, step, percent, labels,
     created, started, finished, moved, owner, device, inode, owner_ended, alive) = row  # fmt: skip
    begun = started or created
    now = finished or alive or begun  # of a clock that was set back, or no owner: no age
    run = RunSeen(
        number=number,
        generation=generation,
        id=identifier,
        pipeline=pipeline,
        status=status,
        verdict="alive" if finished is None else "ended",
        cause=cause,
        message=message,
        code=code,
        step=step,
        percent=percent,
        labels=json.loads(labels),
        created_at=created,
        started_at=started,
        finished_at=finished,
        age=(now - begun) / 1e6,
        unmoved=(now - max(begun, moved or 0)) / 1e6,
    )
    place = Place(
        pipeline=pipeline,
        status=status,
        owner=owner,
        device=device,
        inode=inode,
        owner_ended_at=owner_ended,
        alive_at=alive,
        begun_at=begun,
        moved_at=moved,
    )
    return run, place
