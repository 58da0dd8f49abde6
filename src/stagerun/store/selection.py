"""Which runs pass the filters of a list: their numbers, the newest first, by index alone.

A run whose process has died and which nobody has settled yet is ``interrupted`` here, as it is in
its document, whatever its row says.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import field, frozen

from stagerun.errors import UsageError
from stagerun.model.status import Status
from stagerun.store.verdicts import Looks

__all__ = ["NEWEST", "Selection", "matching"]

NEWEST: Final = 2**63 - 1
"""Above every number of a run."""

_ENOUGH: Final = 10_000
"""Rows that are counted to find out which filter lets the fewest through."""
_OPEN: Final = (Status.QUEUED.value, Status.RUNNING.value)


def _known(_: Any, __: Any, status: str | None) -> None:
    known = [status.value for status in Status]
    if status is not None and status not in known:
        raise UsageError(f"there is no status {status!r}: there are {', '.join(known)}")


@frozen(kw_only=True)
class Selection:
    """What runs are asked for; times in microseconds.

    Raises:
        UsageError: There is no such status.
    """

    status: str | None = field(default=None, validator=_known)
    pipeline: str | None = None
    labels: Mapping[str, str] = field(factory=dict)
    created_before: int | None = None
    finished_since: int | None = None


def matching(
    connection: sqlite3.Connection, selection: Selection, looks: Looks, below: int, limit: int
) -> list[int]:
    """Return the numbers of up to *limit* runs less than *below* that pass, in falling order."""
    filters = [*_filters(selection, looks)]
    if len(filters) > 1:
        filters.sort(key=lambda each: each.size(connection, below))
    ways = filters[0].ways if filters else (_Way("runs w", "1"),)
    checks = [*filters[1:], *_late_checks(selection)]
    passes = "".join(f" AND {each.check}" for each in checks)
    values = [value for each in checks for value in each.values]
    numbers: list[int] = []
    for way in ways:
        rows = connection.execute(
            f"SELECT w.run FROM {way.table} CROSS JOIN runs r ON r.run = w.run"  # noqa: S608 - constants and marks
            f" WHERE {way.keys} AND w.run < ? AND {way.also}{passes} ORDER BY w.run DESC LIMIT ?",
            (*way.values, below, *way.also_values, *values, limit),
        )
        numbers += [number for (number,) in rows.fetchall()]
    return sorted(numbers, reverse=True)[:limit]


@frozen
class _Way:
    """An index in which the runs that pass stand in order of their numbers."""

    table: str
    keys: str
    values: tuple[Any, ...] = ()
    also: str = "1"
    """What the index does not know: whether run r passes after all."""
    also_values: tuple[Any, ...] = ()


@frozen
class _Filter:
    """One condition, in two forms: what leads to the runs that pass, and a check of run r."""

    check: str
    values: tuple[Any, ...]
    ways: tuple[_Way, ...] = ()

    def size(self, connection: sqlite3.Connection, below: int) -> int:
        """Return about how many runs pass, if they are few."""
        size = 0
        for way in self.ways:
            sql = (
                f"SELECT count(*) FROM (SELECT 1 FROM {way.table}"  # noqa: S608 - constants
                f" WHERE {way.keys} AND w.run < ? LIMIT {_ENOUGH})"
            )
            size += connection.execute(sql, (*way.values, below)).fetchone()[0]
        return size


def _filters(selection: Selection, looks: Looks) -> Iterator[_Filter]:
    for pair in selection.labels.items():
        yield _Filter(
            "EXISTS (SELECT 1 FROM labels l WHERE l.run = r.run AND l.name = ? AND l.value = ?)",
            pair,
            (_Way("labels w INDEXED BY labels_by_value", "w.name = ? AND w.value = ?", pair),),
        )
    if selection.pipeline is not None:
        name = (selection.pipeline,)
        way = _Way("runs w INDEXED BY runs_by_pipeline", "w.pipeline = ?", name)
        yield _Filter("r.pipeline = ?", name, (way,))
    if selection.status is not None:
        yield _status(selection.status, looks.dead)


def _status(status: str, dead: tuple[int, ...]) -> _Filter:
    is_dead = f"coalesce({{}}.owner, 0) IN ({', '.join('?' * len(dead))})"
    by_status = "generations w INDEXED BY generations_by_status"
    by_owner = "generations w INDEXED BY generations_by_owner"
    if status in _OPEN:
        alive = f"w.generation = r.generation AND NOT {is_dead.format('w')}"
        return _Filter(
            _current(f"g.status = ? AND NOT {is_dead.format('g')}"),
            (status, *dead),
            (_Way(by_status, "w.status = ?", (status,), alive, dead),),
        )
    current = "w.generation = r.generation"
    ways = [_Way(by_status, "w.status = ?", (status,), current)]
    if status != Status.INTERRUPTED.value or not dead:
        return _Filter(_current("g.status = ?"), (status,), tuple(ways))
    ways += [
        _Way(by_owner, "w.owner = ? AND w.status = ?", (owner, unsettled), current)
        for owner in dead
        for unsettled in _OPEN
    ]
    check = f"(g.status = ? OR g.status IN (?, ?) AND {is_dead.format('g')})"
    return _Filter(_current(check), (status, *_OPEN, *dead), tuple(ways))


def _late_checks(selection: Selection) -> Iterator[_Filter]:
    if selection.created_before is not None:
        yield _Filter("r.created_at < ?", (selection.created_before,))
    if selection.finished_since is not None:
        yield _Filter(_current("g.finished_at >= ?"), (selection.finished_since,))


def _current(condition: str) -> str:
    return (
        "EXISTS (SELECT 1 FROM generations g WHERE g.run = r.run"  # noqa: S608 - a constant
        f" AND g.generation = r.generation AND {condition})"
    )
