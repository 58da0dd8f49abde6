"""The groups of a collect stage, asked and made in SQL; see ``frontier.py`` for what counts.

The members of a group are the upstream outcomes that count. Groups are children of their stage:
made when nothing waits before it, compared with those that stand, and superseded if they differ.
"""

import sqlite3

from attrs import frozen

from stagerun.model.outcome import Failure, ItemCause, Outcome, StageOutcome
from stagerun.store import codec
from stagerun.store.driver import Question
from stagerun.store.frontier import COUNTS, FLOORS, MADE, PAGE, SUPERSEDED, Place, page_of
from stagerun.store.transaction import Statement

__all__ = [
    "changes",
    "make",
    "members",
    "sums",
    "supersede",
    "unlisted",
]

# The upstream outcomes of a collect stage that count, one row per item: from items, or, behind a
# one-to-many stage, its children themselves. A member is valid when it was enlisted for such an
# outcome, by the collect stage as it is now.
_PASSED = f"""JOIN upstream s
              LEFT JOIN results v ON v.run = i.run AND v.stage = i.stage AND v.item = i.item
                                 AND v.generation = i.generation
              WHERE i.run = :run AND i.stage = :stage - 1 AND {COUNTS}"""
_GIVEN = f"WHERE w.run = :run AND w.stage = :stage AND {MADE['children']}"
_STAMP = "max({o}.generation, (SELECT since FROM here))"
_MEMBER = f"m.run = :run AND m.stage = :stage AND m.item = {{o}}.item AND m.generation = {_STAMP}"
# The same, where members are read first: the plus keeps SQLite from reading outcomes by range.
_LED = _MEMBER.replace("m.item = {o}.item", "{o}.item = +m.item")


@frozen
class _Upstream:
    """The parts of a query over the upstream outcomes of a collect stage; *o*: their alias."""

    o: str
    table: str
    outcome: str
    value: str
    where: str

    @classmethod
    def of(cls, place: Place) -> "_Upstream":
        many = place.before == place.stage
        o = "w" if many else "i"
        void = SUPERSEDED.format(origin=":before", item=f"{o}.item")
        if many:
            return cls(o, "emissions w", "0", "w.value", f"{_GIVEN} AND NOT {void}")
        value = "coalesce(i.result, v.value)"
        return cls(o, "items i", "i.outcome", value, f"{_PASSED} AND NOT {void}")


def unlisted(place: Place, after: int) -> Question[list[tuple[int, int, int, bytes | None]]]:
    """Ask for upstream outcomes that are in no group yet: item, stamp, outcome and value.

    There are some after a crash between an outcome and its enlisting, and all of them when the
    collect stage has changed. *stamp* is the generation to write into the row of ``members``.
    """
    up = _Upstream.of(place)
    sql = f"""
        WITH {FLOORS}
        SELECT {up.o}.item, {_STAMP.format(o=up.o)}, {up.outcome}, {up.value}
        FROM {up.table} {up.where} AND {up.o}.item > :after
          AND NOT EXISTS (SELECT 1 FROM members m WHERE {_MEMBER.format(o=up.o)})
        ORDER BY {up.o}.item LIMIT :page"""  # noqa: S608 - constants alone
    return page_of(sql, place.names(after=after, page=PAGE))


def sums(place: Place, key: bytes) -> Question[dict[Outcome, int]]:
    """Ask for the number of outcomes of each sort in a group."""
    up = _Upstream.of(place)
    sql = f"""
        WITH {FLOORS} SELECT {up.outcome}, count(*)
        FROM members m CROSS JOIN {up.table} {up.where}
          AND m.key = :key AND {_LED.format(o=up.o)}
        GROUP BY 1"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> dict[Outcome, int]:
        rows = connection.execute(sql, place.names(key=key)).fetchall()
        return {Outcome(outcome): count for outcome, count in rows}

    return ask


def members(place: Place, key: bytes, after: int) -> Question[list[StageOutcome]]:
    """Ask for the outcomes of a group after item *after*, in item order."""
    up = _Upstream.of(place)
    sql = f"""
        WITH {FLOORS},
        page AS (SELECT m.item, {up.outcome} AS outcome, {up.value} AS value,
                        {up.o}.generation AS generation
                 FROM members m CROSS JOIN {up.table} {up.where}
                   AND m.key = :key AND m.item > :after AND {_LED.format(o=up.o)}
                 ORDER BY m.item LIMIT :page)
        SELECT p.item, p.outcome, p.value, x.cause, x.message, x.error
        FROM page p LEFT JOIN failures x ON x.run = :run AND x.stage = :stage - 1
                                        AND x.item = p.item AND x.generation = p.generation
                                        AND p.outcome > 0"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> list[StageOutcome]:
        rows = connection.execute(sql, place.names(key=key, after=after, page=PAGE)).fetchall()
        return [_outcome(*row) for row in sorted(rows)]

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


# The groups as the members make them now, with a fingerprint of who is in them with which outcome,
# and the groups that stand. No upstream outcome is added to a generation whose groups are made, so
# the greatest generation of a result tells whether one came later.
def _groups(place: Place) -> str:
    up = _Upstream.of(place)
    return f"""
        WITH {FLOORS},
        formed AS MATERIALIZED (
            SELECT m.key, min(m.item) AS first,
                   CAST(printf('%d %d %d', count(*), sum({up.o}.item * 8 + {up.outcome}),
                               max(CASE {up.outcome} WHEN 0 THEN {up.o}.generation END))
                        AS BLOB) AS mark
            FROM members m CROSS JOIN {up.table} {up.where} AND {_LED.format(o=up.o)}
            GROUP BY m.key),
        standing AS MATERIALIZED (
            SELECT w.ident, w.item, w.fingerprint FROM emissions w
            WHERE w.run = :run AND w.stage = :stage AND {MADE["groups"]}
              AND NOT {SUPERSEDED.format(origin=":stage", item="w.item")})
    """  # noqa: S608 - constants alone


_GONE = """FROM standing LEFT JOIN formed ON formed.key = standing.ident
                                         AND formed.mark = standing.fingerprint
           WHERE formed.key IS NULL"""
_FRESH = """FROM formed LEFT JOIN standing ON standing.ident = formed.key
                                          AND standing.fingerprint = formed.mark
            WHERE standing.ident IS NULL"""


def changes(place: Place) -> Question[tuple[int, int]]:
    """Ask how many groups of a collect stage are to be superseded, and how many to be made."""
    sql = f"{_groups(place)} SELECT (SELECT count(*) {_GONE}), (SELECT count(*) {_FRESH})"

    def ask(connection: sqlite3.Connection) -> tuple[int, int]:
        gone, fresh = connection.execute(sql, place.names()).fetchone()
        return int(gone), int(fresh)

    return ask


def supersede(place: Place, gone: int) -> Statement:
    """Return the statement that takes back groups whose members are others by now."""
    sql = f"""INSERT INTO superseded
              {_groups(place)} SELECT :run, :stage, standing.item {_GONE}"""
    return Statement(sql, place.names(), expected=gone)  # type: ignore[arg-type] # named parameters


def make(place: Place, fresh: int) -> Statement:
    """Return the statement that makes new groups items; after ``supersede``."""
    sql = f"""INSERT INTO emissions
              {_groups(place)}
              SELECT :run, :stage, row_number() OVER (ORDER BY formed.first) +
                     (SELECT coalesce(max(item), 0) FROM emissions
                      WHERE run = :run AND stage = :stage),
                     :generation, 0, formed.key, formed.mark, formed.key {_FRESH}"""  # noqa: S608 - constants alone
    return Statement(sql, place.names(), expected=fresh)  # type: ignore[arg-type] # named parameters
