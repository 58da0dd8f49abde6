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
from stagerun.store.transaction import Statement

__all__ = [
    "COUNTS",
    "FLOORS",
    "MADE",
    "PAGE",
    "SUPERSEDED",
    "Place",
    "children",
    "claimed_before",
    "entered",
    "first_of",
    "key_holder",
    "last_accepted",
    "last_number",
    "made",
    "page_of",
    "results",
    "settled",
    "spent",
    "supersede_descendants",
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
FLOORS = """
    here AS (SELECT * FROM stages
             WHERE run = :run AND generation = :generation AND stage = :stage),
    upstream AS (SELECT * FROM stages
                 WHERE run = :run AND generation = :generation AND stage = :stage - 1)
"""
COUNTS = """i.generation >= CASE WHEN i.outcome IN (0, 4) THEN s.since
                                  WHEN i.outcome = 3 THEN s.generation ELSE s.failed_since END"""
_OPEN = f"""NOT EXISTS (SELECT 1 FROM items i JOIN here s
                        WHERE i.run = :run AND i.stage = :stage AND i.item = w.item
                          AND {COUNTS})"""  # noqa: S608 - constants alone
SUPERSEDED = """EXISTS (SELECT 1 FROM superseded u
                         WHERE u.run = :run AND u.stage = {origin} AND u.item = {item})"""
# What the stage before has passed on.
_RESULTS = """
    FROM items w JOIN upstream b
    LEFT JOIN results v ON v.run = w.run AND v.stage = w.stage AND v.item = w.item
                       AND v.generation = w.generation
    WHERE w.run = :run AND w.stage = :stage - 1 AND w.outcome = 0 AND w.generation >= b.since"""
# Items made for, or by, a stage: which rows of emissions, and from which generation on they count.
MADE = {
    "source": "w.parent = 0",
    "children": "w.parent > 0 AND w.generation >= (SELECT since FROM upstream)",
    "groups": "w.parent = 0 AND w.generation >= (SELECT since FROM here)",
}


def _given(place: Place) -> tuple[str, str]:
    """Return what was given to a stage and counts, as row w: its value, and where it stands."""
    if place.feed == "results":
        return "coalesce(w.result, v.value)", _RESULTS
    made_here = f"w.run = :run AND w.stage = :stage AND {MADE[place.feed]}"
    return "w.value", f"FROM emissions w WHERE {made_here}"


def waiting(place: Place, below: int, after: int) -> Question[list[tuple[int, bytes, bool]]]:
    """Ask what waits in a stage after item *after*: number, value, whether it is superseded.

    Only what came there in a generation less than *below*. A resumed generation asks with its own
    number (a collect stage, for its groups: one more): what comes later is handed on in memory, so
    nothing is given twice. A superseded item is to end ``skipped`` without being run.
    """
    value, given = _given(place)
    sql = f"""
        WITH {FLOORS}
        SELECT w.item, {value}, {SUPERSEDED.format(origin=":origin", item="w.item")} {given}
          AND w.item > :after AND w.generation < :below AND {_OPEN}
        ORDER BY w.item LIMIT :page"""
    return page_of(sql, place.names(below=below, after=after, page=PAGE))


def settled(place: Place, after: int) -> Question[list[int]]:
    """Ask which items have a final outcome in a stage; a function that gives again is merged
    with them, position by position, to find what it still has to give.
    """
    sql = f"""
        WITH {FLOORS} SELECT i.item FROM items i JOIN here s
        WHERE i.run = :run AND i.stage = :stage AND i.item > :after AND {COUNTS}
        ORDER BY i.item LIMIT :page"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> list[int]:
        rows = connection.execute(sql, place.names(after=after, page=PAGE)).fetchall()
        return [item for (item,) in rows]

    return ask


def made(place: Place) -> Question[int]:
    """Ask how many items that count were made for a stage, superseded ones included."""
    sql = f"WITH {FLOORS} SELECT count(*) {_given(place)[1]}"
    return first_of(sql, place.names())


def last_number(run: int, stage: int) -> Question[int]:
    """Ask for the greatest number of an item made for, or by, a stage; numbers go on there."""
    sql = "SELECT coalesce(max(item), 0) FROM emissions WHERE run = :run AND stage = :stage"
    return first_of(sql, {"run": run, "stage": stage})


def page_of(sql: str, names: dict[str, Any]) -> Question[list[Any]]:
    return lambda connection: connection.execute(sql, names).fetchall()


def first_of(sql: str, names: dict[str, Any]) -> Question[Any]:
    return lambda connection: next(iter(connection.execute(sql, names).fetchone() or ()), None)


def children(place: Place, parent: int) -> Question[dict[Any, tuple[int, bytes]]]:
    """Ask what *parent* has made for a stage and still counts: ident to number and fingerprint."""
    sql = f"""
        WITH {FLOORS} SELECT w.ident, w.item, w.fingerprint
        FROM emissions w INDEXED BY emissions_by_parent JOIN upstream b
        WHERE w.run = :run AND w.stage = :stage AND w.parent = :parent
          AND w.fingerprint IS NOT NULL AND w.generation >= b.since
          AND NOT {SUPERSEDED.format(origin=":stage", item="w.item")}"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> dict[Any, tuple[int, bytes]]:
        rows = connection.execute(sql, place.names(parent=parent)).fetchall()
        return {ident: (item, mark) for ident, item, mark in rows}

    return ask


def key_holder(place: Place, key: bytes) -> Question[int | None]:
    """Ask which item holds *key* in a stage. Claims of superseded items are void."""
    sql = f"""
        WITH {FLOORS} SELECT k.item FROM keys k JOIN here s
        WHERE k.run = :run AND k.stage = :stage AND k.key = :key AND k.generation >= s.since
          AND NOT {SUPERSEDED.format(origin=":origin", item="k.item")}"""  # noqa: S608 - constants alone
    return first_of(sql, place.names(key=key))


def claimed_before(place: Place, key: bytes) -> Question[tuple[int, bool] | None]:
    """Ask which item claimed *key* in an earlier generation, and whether its outcome is final."""
    sql = f"""
        WITH {FLOORS} SELECT k.item, EXISTS (SELECT 1 FROM items i WHERE i.run = :run
                                             AND i.stage = :stage AND i.item = k.item AND {COUNTS})
        FROM keys k JOIN here s
        WHERE k.run = :run AND k.stage = :stage AND k.key = :key AND k.generation >= s.since
          AND k.generation < :generation
          AND NOT {SUPERSEDED.format(origin=":origin", item="k.item")}"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> tuple[int, bool] | None:
        row = connection.execute(sql, place.names(key=key)).fetchone()
        return None if row is None else (int(row[0]), bool(row[1]))

    return ask


def spent(place: Place, cause: str) -> Question[list[int]]:
    """Ask for the items whose final outcome has this cause, in order.

    Those of ``key`` and ``duplicate`` have no key of their own by which they are found again.
    """
    sql = f"""
        WITH {FLOORS} SELECT i.item FROM items i JOIN here s
        JOIN failures f ON f.run = i.run AND f.stage = i.stage AND f.item = i.item
                       AND f.generation = i.generation AND f.cause = :cause
        WHERE i.run = :run AND i.stage = :stage AND {COUNTS} ORDER BY i.item"""  # noqa: S608 - constants alone

    def ask(connection: sqlite3.Connection) -> list[int]:
        rows = connection.execute(sql, place.names(cause=cause)).fetchall()
        return [item for (item,) in rows]

    return ask


def last_accepted(place: Place) -> Question[int]:
    """Ask for the greatest number that a stage has recorded or promised to a key."""
    sql = """SELECT max(coalesce((SELECT max(item) FROM items
                                  WHERE run = :run AND stage = :stage), 0),
                        coalesce((SELECT max(item) FROM keys
                                  WHERE run = :run AND stage = :stage), 0))"""
    return first_of(sql, place.names())


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


def results(place: Place, after: int) -> Question[list[tuple[int, bytes]]]:
    """Ask for a run's results after number *after*; *place* is the one behind the last stage."""
    value, given = _given(place)
    sql = f"""
        WITH {FLOORS} SELECT w.item, {value} {given} AND w.item > :after
          AND NOT {SUPERSEDED.format(origin=":origin", item="w.item")}
        ORDER BY w.item LIMIT :page"""
    return page_of(sql, place.names(after=after, page=PAGE))


def entered(place: Place, item: int) -> Question[bytes | None]:
    """Ask for the value that an item went into a stage with; None when it was never stored."""
    value, given = _given(place)
    sql = f"WITH {FLOORS} SELECT {value} {given} AND w.item = :item"
    return first_of(sql, place.names(item=item))
