"""The items of a run, and its log lines, page by page. Each answer is bounded.

Items are told in the order of stages, then of their numbers; those of earlier generations are among
them as long as they count, so that a page's rows are what the stages' sums have counted.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

from attrs import frozen

from stagerun.errors import UsageError
from stagerun.model.outcome import Outcome
from stagerun.store.documents import find_run, iso
from stagerun.store.driver import Question
from stagerun.store.frontier import COUNTS
from stagerun.store.selection import NEWEST

__all__ = ["LEVELS", "item_page", "log_page"]

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""Levels of log lines, the least important first."""

_LOOKED_AT: Final = 50_000
"""Rows that one page looks at, per stage and outcome: outcomes that count no more may be many."""
_LABELS: Final = tuple(outcome.label for outcome in Outcome)


def item_page(
    identifier: str,
    *,
    stage: str | None = None,
    outcomes: Collection[str] = (),
    after: str | None = None,
    limit: int = 50,
) -> Question[tuple[list[dict[str, Any]], str | None]]:
    """Ask for a page of a run's items that have an outcome, and where the next one begins.

    Where it is told, there may be more: a page can be shorter than *limit*, when many outcomes of
    earlier generations had to be passed over. None: that was all.

    Args:
        identifier: The run's, or the beginning of it.
        stage: Only items of the stage of this name.
        outcomes: Only items with one of these outcomes; none given: with any.
        after: Where the page begins, as the one before has told.
        limit: Items on the page at most.

    Raises:
        UsageError: There is no such run, stage or outcome, or *after* was told by no page.
    """
    chosen = _chosen(outcomes)
    begin = _Point(0, 0) if after is None else _Point.of(after)

    def ask(connection: sqlite3.Connection) -> tuple[list[dict[str, Any]], str | None]:
        run = find_run(connection, identifier)
        rows: list[Sequence[Any]] = []
        for place in _places(connection, run, stage, chosen):
            if place.stage < begin.stage:
                continue
            item = begin.item if place.stage == begin.stage else 0
            found, seen = _rows(connection, place, chosen, item, limit + 1 - len(rows))
            rows += found
            if len(rows) > limit:
                return [_document(row) for row in rows[:limit]], str(_Point(*rows[limit - 1][:2]))
            if seen is not None:
                return [_document(row) for row in rows], str(_Point(place.stage, seen))
        return [_document(row) for row in rows], None

    return ask


def log_page(
    identifier: str,
    *,
    after: int = 0,
    limit: int = 200,
    level: str | None = None,
    stage: str | None = None,
) -> Question[tuple[list[dict[str, Any]], int | None]]:
    """Ask for a page of a run's kept log lines, the oldest first, and after which the next begins.

    Args:
        identifier: The run's, or the beginning of it.
        after: The number of an event; only what was said after it.
        limit: Lines on the page at most.
        level: Only lines of this level and of more important ones.
        stage: Only lines of the stage of this name.

    Raises:
        UsageError: There is no such run or level.
    """
    levels = _from(level)

    def ask(connection: sqlite3.Connection) -> tuple[list[dict[str, Any]], int | None]:
        rows = connection.execute(
            "SELECT seq, at, level, stage, item, body FROM events"  # noqa: S608 - only marks
            " WHERE run = ? AND seq > ? AND kind = 'log'"
            f" AND (? OR level IN ({', '.join('?' * len(levels))})) AND stage IS coalesce(?, stage)"
            " ORDER BY seq LIMIT ?",
            (find_run(connection, identifier), after, level is None, *levels, stage, limit + 1),
        ).fetchall()
        names = ("seq", "time", "level", "stage", "item", "message")
        lines = [
            dict(zip(names, (seq, iso(at), *rest), strict=True)) for seq, at, *rest in rows[:limit]
        ]
        return lines, lines[-1]["seq"] if len(rows) > limit else None

    return ask


@frozen
class _Point:
    """The last row of a page: its stage and item."""

    stage: int
    item: int

    @classmethod
    def of(cls, cursor: str) -> "_Point":
        stage, dot, item = cursor.partition(".")
        if all(x.isascii() and x.isdecimal() and len(x) < 19 for x in (stage, item)) and dot:
            return cls(int(stage), int(item))
        raise UsageError(
            f"there is no page after {cursor[:40]!r}: give `next` of the page before, or nothing"
        )

    def __str__(self) -> str:
        return f"{self.stage}.{self.item}"


@frozen
class _Place:
    """A stage of the current generation, and how many items have each outcome there."""

    run: int
    generation: int
    stage: int
    sums: tuple[int, ...]


def _chosen(outcomes: Collection[str]) -> tuple[Outcome, ...]:
    for label in outcomes:
        if label not in _LABELS:
            raise UsageError(f"there is no outcome {label!r}: there are {', '.join(_LABELS)}")
    return tuple(outcome for outcome in Outcome if outcome.label in outcomes)


def _from(level: str | None) -> tuple[str, ...]:
    if level is None:
        return ()
    if level.upper() not in LEVELS:
        raise UsageError(f"there is no level {level!r}: there are {', '.join(LEVELS)}")
    return LEVELS[LEVELS.index(level.upper()) :]


def _places(
    connection: sqlite3.Connection, run: int, stage: str | None, chosen: Sequence[Outcome]
) -> Iterator[_Place]:
    """Return the stages in which something is to be found."""
    rows = connection.execute(
        f"SELECT s.name, s.generation, s.stage, {', '.join(f's.{label}' for label in _LABELS)}"  # noqa: S608 - constants
        " FROM runs r JOIN stages s ON s.run = r.run AND s.generation = r.generation"
        " WHERE r.run = ? ORDER BY s.stage",
        (run,),
    ).fetchall()
    names = [name for name, *_ in rows]
    if stage is not None and stage not in names:
        raise UsageError(f"the run has no stage {stage!r}: there are {', '.join(names)}")
    for name, generation, index, *sums in rows:
        wanted = sum(sums[outcome] for outcome in chosen or Outcome)
        if wanted and stage in (None, name):
            yield _Place(run, generation, index, tuple(sums))


def _rows(
    connection: sqlite3.Connection, place: _Place, chosen: Sequence[Outcome], after: int, limit: int
) -> tuple[list[Sequence[Any]], int | None]:
    """Return the next rows of a stage, and up to which item all was looked at; None: to the end.

    Each outcome but ``ok`` has its own part of an index; the parts are merged.
    """
    parts = [*_parts(place, chosen)]
    names = {"run": place.run, "generation": place.generation, "stage": place.stage, "after": after}
    upto = None
    if place.generation > 1 or Outcome.OK in chosen:  # else each row is one that is wanted
        ends = [
            connection.execute(
                f"SELECT i.item {part.rows} ORDER BY i.item LIMIT 1 OFFSET {_LOOKED_AT}",
                names | {"upto": NEWEST},
            ).fetchone()
            for part in parts
        ]
        upto = min((end[0] for end in ends if end is not None), default=None)
    rows: list[Sequence[Any]] = []
    for part in parts:
        sql = f"{_COLUMNS} {part.rows} AND {part.wanted} AND {COUNTS} ORDER BY i.item LIMIT :limit"
        values = names | {"upto": upto or NEWEST, "limit": limit}
        rows += connection.execute(sql, values).fetchall()
    rows.sort(key=itemgetter(1))
    return rows[:limit], upto if len(rows) < limit else None


@frozen
class _Part:
    """Rows of a stage in the order of items, as an index has them, and which of them are wanted."""

    rows: str
    wanted: str = "1"


def _parts(place: _Place, chosen: Sequence[Outcome]) -> Iterator[_Part]:
    stage = """FROM stages s CROSS JOIN items i {} LEFT JOIN failures f ON f.run = i.run
        AND f.stage = i.stage AND f.item = i.item AND f.generation = i.generation
        WHERE s.run = :run AND s.generation = :generation AND s.stage = :stage
        AND i.run = s.run AND i.stage = s.stage AND i.item > :after AND i.item <= :upto"""
    if not chosen:
        yield _Part(stage.format(""))
    for outcome in chosen:
        if outcome is Outcome.OK:
            yield _Part(stage.format(""), "i.outcome = 0")
        elif place.sums[outcome]:
            index = stage.format("INDEXED BY items_by_outcome")
            yield _Part(f"{index} AND i.outcome = {outcome:d} AND i.outcome <> 0")


_COLUMNS = """SELECT i.stage, i.item, s.name, i.outcome, i.attempts, i.started_at, i.elapsed,
    f.cause, f.message, f.error, f.late, i.generation"""


def _document(row: Sequence[Any]) -> dict[str, Any]:
    _, item, stage, outcome, attempts, started, elapsed, cause, message, error, late, made = row
    return {
        "stage": stage,
        "item": item,
        "outcome": _LABELS[outcome],
        "attempts": attempts,
        "started_at": iso(started),
        "seconds": elapsed / 1e6,
        "cause": cause,
        "message": message,
        "error": error,
        "late_seconds": None if late is None else late / 1e6,
        "generation": made,
    }
