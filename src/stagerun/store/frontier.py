"""What is still to be done, asked in SQL: paged, by key, in item order, never a set in memory.

The rules are in ``rules/frontier.py``. Item tables are insert-only; whether a row counts is said by
the floors in the row of its stage and by ``superseded``. Every page is an ordered merge: one table
read forward from *after*, the others looked up by key.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

from attrs import asdict, frozen

from stagerun.model.stage import Kind
from stagerun.store.driver import Question
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "PAGE",
    "Place",
    "children",
    "entered",
    "group_changes",
    "key_holder",
    "last_number",
    "made",
    "make_groups",
    "members",
    "next_generation",
    "results",
    "settled",
    "supersede",
    "supersede_descendants",
    "supersede_groups",
    "unlisted",
    "waiting",
]

PAGE = 500
"""Rows of one answer at most."""

Feed = Literal["source", "children", "groups", "results"]


@frozen
class Place:
    """A stage of one generation, and where its items come from."""

    run: int
    generation: int
    stage: int
    feed: Feed
    """``source`` and ``children``: items made for this stage; ``groups``: made by it;
    ``results``: passed on by the stage before, under their numbers."""
    origin: int
    """The stage whose numbering the items have."""
    before: int
    """The same of the upstream outcomes that a collect stage gathers."""

    @classmethod
    def of(cls, run: int, generation: int, kinds: Sequence[Kind], stage: int) -> "Place":
        """Return the place of a stage; ``len(kinds)`` is where the last stage's results are."""
        upstream = 0
        for index in range(1, stage + 1):
            before = index if kinds[index - 1] is Kind.MANY else upstream
            collects = index < len(kinds) and kinds[index] is Kind.COLLECT
            origin = index if collects else before
            if index == stage:
                feed: Feed = "results"
                if collects:
                    feed = "groups"
                elif kinds[index - 1] is Kind.MANY:
                    feed = "children"
                return cls(run, generation, stage, feed, origin, before)
            upstream = origin
        return cls(run, generation, 0, "source", 0, 0)

    def names(self, **more: Any) -> dict[str, Any]:
        """Return the parameters of a statement about this place."""
        return asdict(self) | more


# The stage's own row and that of the one before it. Whether the outcome in row i counts there.
_FLOORS = """
    here AS (SELECT * FROM stages
             WHERE run = :run AND generation = :generation AND stage = :stage),
    upstream AS (SELECT * FROM stages
                 WHERE run = :run AND generation = :generation AND stage = :stage - 1)
"""
_COUNTS = """i.generation >= CASE WHEN i.outcome IN (0, 4) THEN s.since
                                  WHEN i.outcome = 3 THEN s.generation ELSE s.failed_since END"""
_OPEN = f"""NOT EXISTS (SELECT 1 FROM items i JOIN here s
                        WHERE i.run = :run AND i.stage = :stage AND i.item = w.item
                          AND {_COUNTS})"""  # noqa: S608 - constants alone
_SUPERSEDED = """EXISTS (SELECT 1 FROM superseded u
                         WHERE u.run = :run AND u.stage = {origin} AND u.item = {item})"""
# What the stage before has passed on.
_RESULTS = """
    FROM items w JOIN upstream b
    LEFT JOIN results v ON v.run = w.run AND v.stage = w.stage AND v.item = w.item
                       AND v.generation = w.generation
    WHERE w.run = :run AND w.stage = :stage - 1 AND w.outcome = 0 AND w.generation >= b.since"""
# Items made for, or by, a stage: which rows of emissions, and from which generation on they count.
_MADE = {
    "source": "w.parent = 0",
    "children": "w.parent > 0 AND w.generation >= (SELECT since FROM upstream)",
    "groups": "w.parent = 0 AND w.generation >= (SELECT since FROM here)",
}


def _given(place: Place) -> tuple[str, str]:
    """Return what was given to a stage and counts, as row w: its value, and where it stands."""
    if place.feed == "results":
        return "coalesce(w.result, v.value)", _RESULTS
    made_here = f"w.run = :run AND w.stage = :stage AND {_MADE[place.feed]}"
    return "w.value", f"FROM emissions w WHERE {made_here}"


def waiting(place: Place, below: int, after: int) -> Question[list[tuple[int, bytes, bool]]]:
    """Ask what waits in a stage after item *after*: number, value, whether it is superseded.

    Only what came there in a generation less than *below*. A resumed generation asks with its own
    number (a collect stage, for its groups: one more): what comes later is handed on in memory, so
    nothing is given twice. A superseded item is to end ``skipped`` without being run.
    """
    value, given = _given(place)
    sql = f"""
        WITH {_FLOORS}
        SELECT w.item, {value}, {_SUPERSEDED.format(origin=":origin", item="w.item")} {given}
          AND w.item > :after AND w.generation < :below AND {_OPEN}
        ORDER BY w.item LIMIT :page"""
    return _page(sql, place.names(below=below, after=after, page=PAGE))


def settled(place: Place, after: int) -> Question[list[int]]:
    """Ask which items have a final outcome in a stage; a function that gives again is merged
    with them, position by position, to find what it still has to give.
    """
    sql = f"""
        WITH {_FLOORS} SELECT i.item FROM items i JOIN here s
        WHERE i.run = :run AND i.stage = :stage AND i.item > :after AND {_COUNTS}
        ORDER BY i.item LIMIT :page"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> list[int]:
        rows = connection.execute(sql, place.names(after=after, page=PAGE)).fetchall()
        return [item for (item,) in rows]

    return ask


def made(place: Place) -> Question[int]:
    """Ask how many items that count were made for a stage, superseded ones included."""
    sql = f"WITH {_FLOORS} SELECT count(*) {_given(place)[1]}"
    return _first(sql, place.names())


def last_number(run: int, stage: int) -> Question[int]:
    """Ask for the greatest number of an item made for, or by, a stage; numbers go on there."""
    sql = "SELECT coalesce(max(item), 0) FROM emissions WHERE run = :run AND stage = :stage"
    return _first(sql, {"run": run, "stage": stage})


def _page(sql: str, names: dict[str, Any]) -> Question[list[Any]]:
    return lambda connection: connection.execute(sql, names).fetchall()


def _first(sql: str, names: dict[str, Any]) -> Question[Any]:
    return lambda connection: next(iter(connection.execute(sql, names).fetchone() or ()), None)


def children(place: Place, parent: int) -> Question[dict[Any, tuple[int, bytes]]]:
    """Ask what *parent* has made for a stage and still counts: ident to number and fingerprint."""
    sql = f"""
        WITH {_FLOORS} SELECT w.ident, w.item, w.fingerprint
        FROM emissions w INDEXED BY emissions_by_parent JOIN upstream b
        WHERE w.run = :run AND w.stage = :stage AND w.parent = :parent
          AND w.fingerprint IS NOT NULL AND w.generation >= b.since
          AND NOT {_SUPERSEDED.format(origin=":stage", item="w.item")}"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> dict[Any, tuple[int, bytes]]:
        rows = connection.execute(sql, place.names(parent=parent)).fetchall()
        return {ident: (item, mark) for ident, item, mark in rows}

    return ask


def key_holder(place: Place, key: bytes) -> Question[int | None]:
    """Ask which item holds *key* in a stage. Claims of superseded items are void."""
    sql = f"""
        WITH {_FLOORS} SELECT k.item FROM keys k JOIN here s
        WHERE k.run = :run AND k.stage = :stage AND k.key = :key AND k.generation >= s.since
          AND NOT {_SUPERSEDED.format(origin=":origin", item="k.item")}"""  # noqa: S608 - constants alone
    return _first(sql, place.names(key=key))


def supersede(run: int, stage: int, item: int) -> Statement:
    """Return the statement that takes back an item which *stage* was given."""
    return Statement("INSERT INTO superseded VALUES (?, ?, ?)", (run, stage, item), expected=1)


def supersede_descendants(run: int, kinds: Sequence[Kind]) -> list[Statement]:
    """Return the statements that take back what superseded items had made, however far.

    They follow the rows of a batch in which something was superseded. Groups are not descendants:
    they are compared when they are made again.
    """
    statements = []
    for stage in range(2, len(kinds) + 1):
        if kinds[stage - 1] is Kind.MANY:
            origin = Place.of(run, 0, kinds, stage - 1).origin
            sql = (
                "INSERT OR IGNORE INTO superseded SELECT w.run, w.stage, w.item"
                " FROM superseded u CROSS JOIN emissions w INDEXED BY emissions_by_parent"
                " ON w.run = u.run AND w.stage = ? AND w.parent = u.item"
                " AND w.fingerprint IS NOT NULL"
                " WHERE u.run = ? AND u.stage = ?"
            )
            statements.append(Statement(sql, (stage, run, origin)))
    return statements


# The upstream outcomes of a collect stage that count, one row per item: from items, or, behind a
# one-to-many stage, its children themselves. A member is valid when it was enlisted for such an
# outcome, by the collect stage as it is now.
_PASSED = f"""JOIN upstream s
              LEFT JOIN results v ON v.run = i.run AND v.stage = i.stage AND v.item = i.item
                                 AND v.generation = i.generation
              WHERE i.run = :run AND i.stage = :stage - 1 AND {_COUNTS}"""
_GIVEN = f"WHERE w.run = :run AND w.stage = :stage AND {_MADE['children']}"
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
        void = _SUPERSEDED.format(origin=":before", item=f"{o}.item")
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
        WITH {_FLOORS}
        SELECT {up.o}.item, {_STAMP.format(o=up.o)}, {up.outcome}, {up.value}
        FROM {up.table} {up.where} AND {up.o}.item > :after
          AND NOT EXISTS (SELECT 1 FROM members m WHERE {_MEMBER.format(o=up.o)})
        ORDER BY {up.o}.item LIMIT :page"""  # noqa: S608 - constants alone
    return _page(sql, place.names(after=after, page=PAGE))


def members(place: Place, key: bytes, after: int) -> Question[list[tuple[int, int, bytes | None]]]:
    """Ask for the outcomes of a group after item *after*: item, outcome and value."""
    up = _Upstream.of(place)
    sql = f"""
        WITH {_FLOORS} SELECT m.item, {up.outcome}, {up.value}
        FROM members m CROSS JOIN {up.table} {up.where}
          AND m.key = :key AND m.item > :after AND {_LED.format(o=up.o)}
        ORDER BY m.item LIMIT :page"""  # noqa: S608 - constants alone
    return _page(sql, place.names(key=key, after=after, page=PAGE))


# The groups as the members make them now, with a fingerprint of who is in them with which outcome,
# and the groups that stand. No upstream outcome is added to a generation whose groups are made, so
# the greatest generation of a result tells whether one came later.
def _groups(place: Place) -> str:
    up = _Upstream.of(place)
    return f"""
        WITH {_FLOORS},
        formed AS MATERIALIZED (
            SELECT m.key, min(m.item) AS first,
                   CAST(printf('%d %d %d', count(*), sum({up.o}.item * 8 + {up.outcome}),
                               max(CASE {up.outcome} WHEN 0 THEN {up.o}.generation END))
                        AS BLOB) AS mark
            FROM members m CROSS JOIN {up.table} {up.where} AND {_LED.format(o=up.o)}
            GROUP BY m.key),
        standing AS MATERIALIZED (
            SELECT w.ident, w.item, w.fingerprint FROM emissions w
            WHERE w.run = :run AND w.stage = :stage AND {_MADE["groups"]}
              AND NOT {_SUPERSEDED.format(origin=":stage", item="w.item")})
    """  # noqa: S608 - constants alone


_GONE = """FROM standing LEFT JOIN formed ON formed.key = standing.ident
                                         AND formed.mark = standing.fingerprint
           WHERE formed.key IS NULL"""
_FRESH = """FROM formed LEFT JOIN standing ON standing.ident = formed.key
                                          AND standing.fingerprint = formed.mark
            WHERE standing.ident IS NULL"""


def group_changes(place: Place) -> Question[tuple[int, int]]:
    """Ask how many groups of a collect stage are to be superseded, and how many to be made."""
    sql = f"{_groups(place)} SELECT (SELECT count(*) {_GONE}), (SELECT count(*) {_FRESH})"

    def ask(connection: sqlite3.Connection) -> tuple[int, int]:
        gone, fresh = connection.execute(sql, place.names()).fetchone()
        return int(gone), int(fresh)

    return ask


def supersede_groups(place: Place, gone: int) -> Statement:
    """Return the statement that takes back groups whose members are others by now."""
    sql = f"""INSERT INTO superseded
              {_groups(place)} SELECT :run, :stage, standing.item {_GONE}"""
    return Statement(sql, place.names(), expected=gone)  # type: ignore[arg-type] # named parameters


def make_groups(place: Place, fresh: int) -> Statement:
    """Return the statement that makes new groups items; after ``supersede_groups``."""
    sql = f"""INSERT INTO emissions
              {_groups(place)}
              SELECT :run, :stage, row_number() OVER (ORDER BY formed.first) +
                     (SELECT coalesce(max(item), 0) FROM emissions
                      WHERE run = :run AND stage = :stage),
                     :generation, 0, formed.key, formed.mark, formed.key {_FRESH}"""  # noqa: S608 - constants alone
    return Statement(sql, place.names(), expected=fresh)  # type: ignore[arg-type] # named parameters


def results(place: Place, after: int) -> Question[list[tuple[int, bytes]]]:
    """Ask for a run's results after number *after*; *place* is the one behind the last stage."""
    value, given = _given(place)
    sql = f"""
        WITH {_FLOORS} SELECT w.item, {value} {given} AND w.item > :after
          AND NOT {_SUPERSEDED.format(origin=":origin", item="w.item")}
        ORDER BY w.item LIMIT :page"""
    return _page(sql, place.names(after=after, page=PAGE))


def entered(place: Place, item: int) -> Question[bytes | None]:
    """Ask for the value that an item went into a stage with; None when it was never stored."""
    value, given = _given(place)
    sql = f"WITH {_FLOORS} SELECT {value} {given} AND w.item = :item"
    return _first(sql, place.names(item=item))


def next_generation(
    run: int,
    generation: int,
    *,
    owner: int,
    now: int,
    deadline_at: int | None,
    stages: Sequence[Sequence[Any]],
) -> Unit:
    """Return the unit that opens *generation*; its guard refuses unless the one before has ended.

    *stages*: per stage its name, kind, version, since, failed_since and the sums to begin with:
    accepted, ok, failed, timed_out, cancelled, skipped, crashed.
    """
    guard = Statement(
        "UPDATE runs SET generation = ? WHERE run = ? AND generation = ? AND EXISTS"
        " (SELECT 1 FROM generations g WHERE g.run = runs.run"
        "  AND g.generation = runs.generation AND g.finished_at IS NOT NULL)",
        (generation, run, generation - 1),
    )
    body = [
        Statement(
            "INSERT INTO generations (run, generation, owner, status, created_at, started_at,"
            " updated_at, deadline_at) VALUES (?, ?, ?, 'running', ?, ?, ?, ?)",
            (run, generation, owner, now, now, now, deadline_at),
        )
    ]
    body += [
        Statement(
            "INSERT INTO stages (run, generation, stage, name, kind, version, since, failed_since,"
            " accepted, ok, failed, timed_out, cancelled, skipped, crashed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, generation, index, *stage),
        )
        for index, stage in enumerate(stages)
    ]
    return Unit(guard, body)
