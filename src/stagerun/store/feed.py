"""The events of a run from any point on: what streams are made of."""

import sqlite3
from typing import Final

from attrs import frozen

from stagerun.errors import UsageError
from stagerun.store.documents import find_run
from stagerun.store.driver import Question

__all__ = ["Feed", "FeedEvent", "feed", "run_number"]

_EVENTS: Final = 256
"""Events of one answer, unless more or fewer are asked for."""


@frozen
class FeedEvent:
    """One event as it is stored; *at* in microseconds."""

    seq: int
    at: int
    generation: int
    kind: str
    level: str | None
    stage: str | None
    item: int | None
    body: str
    """By kind: of ``run`` and ``stage`` the status, of ``log`` the message, else JSON."""


@frozen
class Feed:
    """The next events of a run after a certain one, and how the run stands."""

    events: tuple[FeedEvent, ...]
    """In order; some numbers are missing where events were pruned."""
    first_kept: int
    """From here on no event was pruned. At most one more than what was asked after, unless some
    of the events behind that were pruned."""
    last: int
    """The number of the run's last event; 0 when there is none."""
    generation: int
    """The current one."""
    ended: bool
    """Whether it has ended: unless it is resumed, no event comes after ``last``."""


def run_number(identifier: str) -> Question[tuple[int, str]]:
    """Ask for a run's number and whole identifier, by the identifier or the beginning of it.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> tuple[int, str]:
        run = find_run(connection, identifier)
        row = connection.execute("SELECT id FROM runs WHERE run = ?", (run,)).fetchone()
        return run, str(row[0])

    return ask


def feed(run: int, after: int, limit: int = _EVENTS) -> Question[Feed]:
    """Ask for up to *limit* kept events of a run after event *after*.

    Raises:
        UsageError: The run is not kept any more.
    """

    def ask(connection: sqlite3.Connection) -> Feed:
        row = connection.execute(
            "SELECT r.events, r.events_pruned, r.generation, g.finished_at IS NOT NULL FROM runs r"
            " JOIN generations g ON g.run = r.run AND g.generation = r.generation WHERE r.run = ?",
            (run,),
        ).fetchone()
        if row is None:
            raise UsageError("the run is not kept any more")
        last, pruned, generation, ended = row
        rows = connection.execute(
            "SELECT seq, at, generation, kind, level, stage, item, body FROM events"
            " WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?",
            (run, after, limit),
        ).fetchall()
        return Feed(
            events=tuple(FeedEvent(*event) for event in rows),
            first_kept=_first_kept(connection, run, after, last) if pruned else 1,
            last=last,
            generation=generation,
            ended=bool(ended),
        )

    return ask


def _first_kept(connection: sqlite3.Connection, run: int, after: int, last: int) -> int:
    """Return the number from which on nothing is missing; whoever is near the end hears it soon."""
    (kept,) = connection.execute(
        "SELECT count(*) FROM events WHERE run = ? AND seq > ?", (run, after)
    ).fetchone()
    if kept >= last - after:
        return after + 1
    (first,) = connection.execute(
        "SELECT coalesce(max(seq), ?) FROM events e WHERE run = ? AND NOT EXISTS"
        " (SELECT 1 FROM events b WHERE b.run = e.run AND b.seq = e.seq - 1)",
        (last + 1, run),
    ).fetchone()
    return int(first)
