"""The figures of a whole database, for whoever watches it by numbers.

What has ended hardly ever changes. So its sums are made for blocks of runs and kept, and a block is
summed up again only when its marks tell that a run of it has ended, was resumed or was deleted.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field, frozen

from stagerun.store.driver import Question

__all__ = ["EDGES", "Figures", "Gauges"]

EDGES: Final = (1, 5, 15, 60, 300, 900, 1_800, 3_600, 14_400, 86_400)
"""Seconds: the upper bounds of the buckets in which runs are counted by their duration."""

_BITS: Final = 12
"""A block has 4,096 numbers of runs: it is summed up in some 30 ms."""
_BLOCKS: Final = 3
"""Blocks that one question sums up at most."""
_OUTCOMES: Final = ("ok", "failed", "timed_out", "cancelled", "skipped", "crashed")


@define
class Figures:
    """Sums over the runs that are kept, by their current generation."""

    complete: bool = True
    """Whether all are in: else ask again, a part of the work has been done."""
    runs: Counter[tuple[str, str]] = field(factory=Counter)
    """By pipeline and status as it stands in the row."""
    durations: Counter[tuple[str, int]] = field(factory=Counter)
    """Ended runs that had begun, by pipeline and the number of their bucket in ``EDGES``."""
    seconds: Counter[str] = field(factory=Counter)
    """The sum of those durations, by pipeline."""
    items: Counter[tuple[str, str, str]] = field(factory=Counter)
    """Outcomes by pipeline, stage and outcome."""
    waiting: Counter[str] = field(factory=Counter)
    """Items that wait at a stage of a run under way, by pipeline."""
    in_flight: Counter[str] = field(factory=Counter)
    """Items that a stage works on, by pipeline."""

    def add(self, other: "Figures") -> None:
        """Add what another part has."""
        for name in ("runs", "durations", "seconds", "items", "waiting", "in_flight"):
            getattr(self, name).update(getattr(other, name))


@frozen
class _Block:
    """A part of the runs as it was last summed up."""

    marks: tuple[int, ...]
    """They differ when anything in it has ended, has begun, or is gone: of what compensates one
    change in one of them, another one tells."""
    ended: Figures


@define
class Gauges:
    """Asks for the figures; one at a time."""

    _blocks: dict[int, _Block] = field(init=False, factory=dict)

    def figures(self) -> Question[Figures]:
        """Ask for the figures, all of one committed state."""

        def ask(connection: sqlite3.Connection) -> Figures:
            marks = _marks(connection)
            self._blocks = {place: self._blocks[place] for place in marks if place in self._blocks}
            stale = [
                place
                for place, found in marks.items()
                if place not in self._blocks or self._blocks[place].marks != found
            ]
            for place in stale[:_BLOCKS]:
                ended = _summed(connection, _ENDED, (place << _BITS, place + 1 << _BITS))
                self._blocks[place] = _Block(marks[place], ended)
            whole = Figures(complete=len(stale) <= _BLOCKS)
            if whole.complete:
                whole.add(_summed(connection, _OPEN, ()))
                for block in self._blocks.values():
                    whole.add(block.ended)
            return whole

        return ask


def _marks(connection: sqlite3.Connection) -> Mapping[int, tuple[int, ...]]:
    """Return the marks of each block in which there are runs."""
    first, last = connection.execute(
        "SELECT (SELECT min(run) FROM runs), (SELECT max(run) FROM runs)"
    ).fetchone()
    if last is None:
        return {}
    there = {
        place: connection.execute(
            "SELECT count(*), max(run) FROM runs WHERE run >= ? AND run < ?",
            (place << _BITS, place + 1 << _BITS),
        ).fetchone()
        for place in range(first >> _BITS, (last >> _BITS) + 1)
    }
    again = Counter(_blocks_of(connection, "generations WHERE generation > 1"))
    under_way = Counter(_blocks_of(connection, "generations WHERE status = 'queued'"))
    under_way.update(_blocks_of(connection, "generations WHERE status = 'running'"))
    return {
        place: (count, newest, again[place], under_way[place])
        for place, (count, newest) in there.items()
        if count
    }


def _blocks_of(connection: sqlite3.Connection, rows: str) -> Iterable[int]:
    for (run,) in connection.execute(f"SELECT run FROM {rows}").fetchall():  # noqa: S608 - a constant
        yield run >> _BITS


_ENDED = (
    "FROM runs r NOT INDEXED"
    " CROSS JOIN generations g ON g.run = r.run AND g.generation = r.generation {}"
    " WHERE r.run >= ? AND r.run < ? AND g.finished_at IS NOT NULL"
)
_OPEN = (
    "FROM generations g CROSS JOIN runs r ON r.run = g.run AND r.generation = g.generation {}"
    " WHERE g.status IN ('queued', 'running')"
)
_STAGES = "CROSS JOIN stages s ON s.run = g.run AND s.generation = g.generation"
_DURATION = "g.finished_at - g.started_at"
_BUCKETS = ", ".join(f"sum({_DURATION} <= {edge * 1_000_000})" for edge in EDGES)
_SUMS = ", ".join(f"sum(s.{outcome})" for outcome in _OUTCOMES)
_LEFT = "s.accepted - s.in_flight - (" + " + ".join(f"s.{name}" for name in _OUTCOMES) + ")"


def _summed(connection: sqlite3.Connection, which: str, parameters: tuple[int, ...]) -> Figures:
    """Sum up some runs. CROSS JOIN and NOT INDEXED: in the order in which it is written here."""
    figures = Figures()
    rows = connection.execute(
        f"SELECT r.pipeline, g.status, count(*), count({_DURATION}), sum({_DURATION}), {_BUCKETS}"
        f" {which.format('')} GROUP BY 1, 2",
        parameters,
    )
    for pipeline, status, count, begun, microseconds, *below in rows.fetchall():
        figures.runs[pipeline, status] += count
        if begun:
            figures.seconds[pipeline] += microseconds / 1e6
            for bucket, (some, more) in enumerate(zip([0, *below], [*below, begun], strict=True)):
                figures.durations[pipeline, bucket] += more - some
    rows = connection.execute(
        f"SELECT r.pipeline, s.name, sum(s.in_flight), sum({_LEFT}), {_SUMS}"
        f" {which.format(_STAGES)} GROUP BY 1, 2",
        parameters,
    )
    for pipeline, stage, in_flight, waiting, *outcomes in rows.fetchall():
        if which is _OPEN:
            figures.in_flight[pipeline] += in_flight
            figures.waiting[pipeline] += waiting
        for outcome, count in zip(_OUTCOMES, outcomes, strict=True):
            figures.items[pipeline, stage, outcome] += count
    return figures
