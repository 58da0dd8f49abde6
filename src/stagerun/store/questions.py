"""Every read the engine makes, as functions of a reading connection. Documents: ``documents.py``.

Each answer is one page of rows at most, found by key, and no cursor stays open behind it.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from stagerun.model.outcome import Failure, ItemCause, Outcome, StageOutcome
from stagerun.model.status import Cause, Counts, Ending, Status
from stagerun.store import codec
from stagerun.store.driver import Question

__all__ = [
    "PAGE",
    "Group",
    "KnownRun",
    "children",
    "group_count",
    "group_page",
    "group_sums",
    "key_holder",
    "last_results",
    "made_items",
    "open_owners",
    "run_of_key",
]

PAGE = 500
"""Rows of one answer at most."""


def made_items(run: int, stage: int, after: int) -> Question[Sequence[tuple[int, bytes]]]:
    """Ask for items that no other item made: of the source, or groups. Number and value."""

    def ask(connection: sqlite3.Connection) -> Sequence[tuple[int, bytes]]:
        return connection.execute(
            "SELECT item, value FROM emissions"
            " WHERE run = ? AND stage = ? AND item > ? AND parent = 0 ORDER BY item LIMIT ?",
            (run, stage, after, PAGE),
        ).fetchall()

    return ask


def children(run: int, stage: int, parent: int) -> Question[dict[Any, tuple[int, bytes]]]:
    """Ask for all that *parent* has given and that still counts: ident to number, fingerprint."""

    def ask(connection: sqlite3.Connection) -> dict[Any, tuple[int, bytes]]:
        rows = connection.execute(
            "SELECT ident, item, fingerprint FROM emissions e INDEXED BY emissions_by_parent"
            " WHERE run = ? AND stage = ? AND parent = ? AND fingerprint IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM superseded s"
            "  WHERE s.run = e.run AND s.stage = e.stage AND s.item = e.item)",
            (run, stage, parent),
        )
        return {ident: (item, mark) for ident, item, mark in rows.fetchall()}

    return ask


def key_holder(place: tuple[int, int, int], key: bytes) -> Question[int | None]:
    """Ask which item holds *key*. *place*: run, stage, and the stage of its items' numbers."""
    run, stage, origin = place

    def ask(connection: sqlite3.Connection) -> int | None:
        row = connection.execute(
            "SELECT item FROM keys k WHERE run = ? AND stage = ? AND key = ?"
            " AND NOT EXISTS (SELECT 1 FROM superseded s"
            "  WHERE s.run = k.run AND s.stage = ? AND s.item = k.item)",
            (run, stage, key, origin),
        ).fetchone()
        return None if row is None else int(row[0])

    return ask


def group_count(run: int, stage: int) -> Question[int]:
    """Ask how many groups a collect stage has."""

    def ask(connection: sqlite3.Connection) -> int:
        sql = "SELECT count(DISTINCT key) FROM members WHERE run = ? AND stage = ?"
        return int(connection.execute(sql, (run, stage)).fetchone()[0])

    return ask


@frozen
class Group:
    """One group of a collect stage, and where its members' outcomes stand."""

    run: int
    stage: int
    key: bytes
    origin: int
    """The stage at whose door the members got their numbers."""
    children: bool
    """Whether the stage before makes many of one: then its children are the members."""

    @property
    def _from(self) -> tuple[str, tuple[Any, ...]]:
        """Return FROM and WHERE; the numbers are bound, so that members lead the search."""
        if self.children:
            return _CHILDREN, (self.run, self.stage, self.key)
        return _OUTCOMES, (self.stage - 1, self.origin, self.run, self.stage, self.key)


# Of an item's outcomes over the generations the last one counts; what was superseded does not.
# `+` keeps SQLite from searching items by "item > ?" instead of by each member's number.
_OUTCOMES = """
    FROM members m CROSS JOIN items i ON i.run = m.run AND i.stage = ? AND i.item = +m.item
    LEFT JOIN results v ON v.run = i.run AND v.stage = i.stage AND v.item = i.item
                       AND v.generation = i.generation
    LEFT JOIN failures x ON x.run = i.run AND x.stage = i.stage AND x.item = i.item
                        AND x.generation = i.generation
    WHERE i.generation = (SELECT max(generation) FROM items l
                          WHERE l.run = i.run AND l.stage = i.stage AND l.item = i.item)
      AND NOT EXISTS (SELECT 1 FROM superseded s
                      WHERE s.run = m.run AND s.stage = ? AND s.item = m.item)
      AND m.run = ? AND m.stage = ? AND m.key = ?
"""
_CHILDREN = """
    FROM members m
    CROSS JOIN (SELECT run, stage, item, value, 0 AS outcome, NULL AS result FROM emissions
                WHERE parent > 0) i
        ON i.run = m.run AND i.stage = m.stage AND i.item = +m.item
    CROSS JOIN (SELECT NULL AS cause, NULL AS message, NULL AS error) x
    CROSS JOIN (SELECT NULL AS value) v
    WHERE m.run = ? AND m.stage = ? AND m.key = ?
      AND NOT EXISTS (SELECT 1 FROM superseded s
                      WHERE s.run = m.run AND s.stage = m.stage AND s.item = m.item)
"""


def group_sums(group: Group) -> Question[dict[Outcome, int]]:
    """Ask for the number of outcomes of each sort in a group."""
    body, parameters = group._from  # noqa: SLF001 - written for the two questions below it

    def ask(connection: sqlite3.Connection) -> dict[Outcome, int]:
        sql = f"SELECT i.outcome, count(*) {body} GROUP BY i.outcome"
        rows = connection.execute(sql, parameters)
        return {Outcome(outcome): count for outcome, count in rows.fetchall()}

    return ask


def group_page(group: Group, after: int) -> Question[list[StageOutcome]]:
    """Ask for the next outcomes of a group after item *after*, in item order."""
    body, parameters = group._from  # noqa: SLF001 - as above
    value = "i.value" if group.children else "coalesce(i.result, v.value)"

    def ask(connection: sqlite3.Connection) -> list[StageOutcome]:
        rows = connection.execute(
            f"SELECT i.item, i.outcome, {value}, x.cause, x.message, x.error {body}"
            " AND m.item > ? ORDER BY m.item LIMIT ?",
            (*parameters, after, PAGE),
        ).fetchall()
        return [_outcome(*row) for row in rows]

    return ask


def _outcome(  # noqa: PLR0917 - the columns of a row
    item: int,
    outcome: int,
    value: bytes | None,
    cause: str | None,
    message: str | None,
    error: str | None,
) -> StageOutcome:
    failure = None if cause is None else Failure(ItemCause(cause), message or "", error)
    decoded = None if value is None else codec.decode(value)
    return StageOutcome(item, Outcome(outcome), decoded, failure)


def last_results(
    run: int, stage: int, origin: int, after: int, *, children: bool
) -> Question[list[Any]]:
    """Ask for the next results of the last *stage* after number *after*: number and bytes.

    *origin*: the stage at whose door its items got their numbers. *children*: the stage gives many,
    so its results are the items it made.
    """
    sql = (
        "SELECT item, value FROM emissions e WHERE run = ? AND stage = ? AND item > ?"
        " AND NOT EXISTS (SELECT 1 FROM superseded s"
        "  WHERE s.run = e.run AND s.stage = e.stage AND s.item = e.item)"
        " ORDER BY item LIMIT ?"
        if children
        else "SELECT i.item, coalesce(i.result, v.value) FROM items i"
        " LEFT JOIN results v ON v.run = i.run AND v.stage = i.stage AND v.item = i.item"
        " AND v.generation = i.generation"
        " WHERE i.run = ? AND i.stage = ? AND i.item > ? AND i.outcome = 0"
        " AND NOT EXISTS (SELECT 1 FROM superseded s"
        "  WHERE s.run = i.run AND s.item = i.item AND s.stage = ?)"
        " ORDER BY i.item LIMIT ?"
    )

    def ask(connection: sqlite3.Connection) -> list[Any]:
        where = (run, stage + 1, after) if children else (run, stage, after, origin)
        return connection.execute(sql, (*where, PAGE)).fetchall()

    return ask


@frozen
class KnownRun:
    """A run that is on disk already, and how it ended if it has."""

    id: str
    pipeline: str
    run: int
    generation: int
    ending: Ending | None
    counts: tuple[Counts, ...]
    seconds: float


def run_of_key(request_key: str) -> Question[KnownRun | None]:
    """Ask which run was started with an idempotency key."""

    def ask(connection: sqlite3.Connection) -> KnownRun | None:
        row = connection.execute(
            "SELECT r.id, r.pipeline, r.run, r.generation, g.status, g.cause, g.message,"
            " g.error_code, (coalesce(g.finished_at, g.updated_at) - g.created_at) / 1e6"
            " FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation"
            " WHERE r.request_key = ?",
            (request_key,),
        ).fetchone()
        if row is None:
            return None
        identifier, pipeline, run, generation, status, cause, message, code, seconds = row
        ending = None if cause is None else Ending(Status(status), Cause(cause), message, code)
        counts = _counts(connection, run, generation)
        return KnownRun(identifier, pipeline, run, generation, ending, counts, seconds)

    return ask


def _counts(connection: sqlite3.Connection, run: int, generation: int) -> tuple[Counts, ...]:
    columns = ("name", "accepted", "in_flight", *(outcome.label for outcome in Outcome))
    rows = connection.execute(
        f"SELECT {', '.join(columns)} FROM stages WHERE run = ? AND generation = ? ORDER BY stage",  # noqa: S608 - constants
        (run, generation),
    ).fetchall()
    return tuple(Counts(**dict(zip(columns, row, strict=True))) for row in rows)


def open_owners(but: int) -> Question[list[tuple[int, str, int, int]]]:
    """Ask for the owners, but one, that have not ended: number, identifier, device, inode."""

    def ask(connection: sqlite3.Connection) -> list[tuple[int, str, int, int]]:
        return connection.execute(
            "SELECT owner, id, device, inode FROM owners"
            " WHERE ended_at IS NULL AND device IS NOT NULL AND owner != ? ORDER BY owner",
            (but,),
        ).fetchall()

    return ask
