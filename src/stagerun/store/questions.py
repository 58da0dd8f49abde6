"""Every read the engine makes, as functions of a reading connection. Documents: ``documents.py``.

Each answer is one page of rows at most, found by key, and no cursor stays open behind it.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from stagerun.model.outcome import Failure, ItemCause, Outcome, StageOutcome
from stagerun.store import codec
from stagerun.store.driver import Question

__all__ = [
    "PAGE",
    "children",
    "group_count",
    "group_page",
    "group_sums",
    "key_holder",
    "last_results",
    "made_items",
    "run_of_key",
]

PAGE = 500
"""Rows of one answer at most."""


def made_items(
    run: int, stage: int, parent: int, after: Any
) -> Question[Sequence[tuple[Any, int, bytes]]]:
    """Ask for items that *parent* made for *stage*: ident, number, value; in order of ident."""

    def ask(connection: sqlite3.Connection) -> Sequence[tuple[Any, int, bytes]]:
        return connection.execute(
            "SELECT ident, item, value FROM emissions"
            " WHERE run = ? AND stage = ? AND parent = ? AND ident > ? ORDER BY ident LIMIT ?",
            (run, stage, parent, after, PAGE),
        ).fetchall()

    return ask


def children(run: int, stage: int, parent: int) -> Question[dict[Any, tuple[int, bytes]]]:
    """Ask for all that *parent* has given so far: ident to number and fingerprint."""

    def ask(connection: sqlite3.Connection) -> dict[Any, tuple[int, bytes]]:
        rows = connection.execute(
            "SELECT ident, item, fingerprint FROM emissions"
            " WHERE run = ? AND stage = ? AND parent = ?",
            (run, stage, parent),
        )
        return {ident: (item, mark) for ident, item, mark in rows.fetchall()}

    return ask


def key_holder(run: int, stage: int, key: bytes) -> Question[int | None]:
    """Ask which item holds *key* in *stage*."""

    def ask(connection: sqlite3.Connection) -> int | None:
        row = connection.execute(
            "SELECT item FROM keys WHERE run = ? AND stage = ? AND key = ?", (run, stage, key)
        ).fetchone()
        return None if row is None else int(row[0])

    return ask


def group_count(run: int, stage: int) -> Question[int]:
    """Ask how many groups a collect stage has."""

    def ask(connection: sqlite3.Connection) -> int:
        sql = "SELECT count(DISTINCT key) FROM members WHERE run = ? AND stage = ?"
        return int(connection.execute(sql, (run, stage)).fetchone()[0])

    return ask


# Of an item's outcomes over the generations the last one counts; what was superseded does not.
_MEMBERS = """
    FROM members m
    JOIN items i ON i.run = m.run AND i.stage = ? AND i.item = m.item
    WHERE m.run = ? AND m.stage = ? AND m.key = ?
      AND i.generation = (SELECT max(generation) FROM items l
                          WHERE l.run = i.run AND l.stage = i.stage AND l.item = i.item)
      AND NOT EXISTS (SELECT 1 FROM failures f
                      WHERE f.run = i.run AND f.stage = i.stage AND f.item = i.item
                        AND f.generation = i.generation AND f.cause = 'superseded')
"""


def group_sums(run: int, before: int, stage: int, key: bytes) -> Question[dict[Outcome, int]]:
    """Ask for the number of outcomes of each sort in a group. *before*: the upstream stage."""

    def ask(connection: sqlite3.Connection) -> dict[Outcome, int]:
        rows = connection.execute(
            f"SELECT i.outcome, count(*) {_MEMBERS} GROUP BY i.outcome",
            (before, run, stage, key),
        )
        return {Outcome(outcome): count for outcome, count in rows.fetchall()}

    return ask


def group_page(
    run: int, before: int, stage: int, key: bytes, after: int
) -> Question[list[StageOutcome]]:
    """Ask for the next outcomes of a group after item *after*, in item order."""

    def ask(connection: sqlite3.Connection) -> list[StageOutcome]:
        rows = connection.execute(
            "SELECT i.item, i.outcome, coalesce(i.result, v.value), x.cause, x.message, x.error"
            f" {_MEMBERS.replace('WHERE m.run', _VALUES + ' WHERE m.run')}"
            " AND m.item > ? ORDER BY m.item LIMIT ?",
            (before, run, stage, key, after, PAGE),
        ).fetchall()
        return [_outcome(*row) for row in rows]

    return ask


_VALUES = """
    LEFT JOIN results v ON v.run = i.run AND v.stage = i.stage AND v.item = i.item
                       AND v.generation = i.generation
    LEFT JOIN failures x ON x.run = i.run AND x.stage = i.stage AND x.item = i.item
                        AND x.generation = i.generation
"""


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


def last_results(run: int, stage: int, after: int, *, children: bool) -> Question[list[Any]]:
    """Ask for the next results of the last *stage* after number *after*: number and bytes.

    *children*: the stage gives many, so its results are the items it made.
    """

    def ask(connection: sqlite3.Connection) -> list[Any]:
        if children:
            sql = (
                "SELECT item, value FROM emissions WHERE run = ? AND stage = ? AND item > ?"
                " ORDER BY item LIMIT ?"
            )
            parameters: tuple[Any, ...] = (run, stage + 1, after, PAGE)
        else:
            sql = (
                "SELECT i.item, coalesce(i.result, v.value) FROM items i"
                " LEFT JOIN results v ON v.run = i.run AND v.stage = i.stage AND v.item = i.item"
                " AND v.generation = i.generation"
                " WHERE i.run = ? AND i.stage = ? AND i.item > ? AND i.outcome = 0"
                " AND NOT EXISTS (SELECT 1 FROM superseded s WHERE s.run = i.run"
                "  AND s.item = i.item AND s.stage = ?)"
                " ORDER BY i.item LIMIT ?"
            )
            parameters = (run, stage, after, stage, PAGE)
        return connection.execute(sql, parameters).fetchall()

    return ask


def run_of_key(request_key: str) -> Question[tuple[str, int, int] | None]:
    """Ask which run was started with an idempotency key: its id, number and generation."""

    def ask(connection: sqlite3.Connection) -> tuple[str, int, int] | None:
        sql = "SELECT id, run, generation FROM runs WHERE request_key = ?"
        row: tuple[str, int, int] | None = connection.execute(sql, (request_key,)).fetchone()
        return row

    return ask
