"""When items waited, were worked on and ended: some of them, where there are many."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from heapq import nlargest
from typing import Any, Final

import msgspec

from stagerun.model.outcome import Outcome
from stagerun.store.documents import iso
from stagerun.store.measures import Measures, StageMeasures
from stagerun.store.subject import Subject, SubjectStage

__all__ = ["timeline"]

_BARS: Final = 600
_IN_FLIGHT: Final = 100
"""Of them, items in flight; the oldest ones."""

_UPSTREAM: Final = {
    "results": """(SELECT max(u.started_at + u.elapsed) FROM items u WHERE u.run = i.run
        AND u.stage = i.stage - 1 AND u.item = i.item AND u.outcome = 0)""",
    "children": """(SELECT max(u.started_at + u.elapsed) FROM emissions e CROSS JOIN items u
        ON u.run = e.run AND u.stage = e.stage - 1 AND u.item = e.parent AND u.outcome = 0
        WHERE e.run = i.run AND e.stage = i.stage AND e.item = i.item)""",
}
"""When an item came to its stage, if that is told: when the stage before was done with it."""


def timeline(connection: sqlite3.Connection, read: Measures) -> dict[str, Any]:
    """Return the items of this generation as bars, offsets in seconds from its begin.

    Where there are too many, each stage gives some that are spread evenly over its items, and its
    slowest ones. ``ended`` is None for items in flight.
    """
    run, sampled = read.run, read.sampled
    flying = [*_in_flight(connection, run)]
    bars: list[dict[str, Any]] = []
    filled = [(each, ours) for each in read.stages if (ours := each.ours)]
    for each, ours in filled:
        most = (_BARS - len(flying)) // len(filled)
        sampled = sampled or len(ours) > most
        bars += _bars(connection, run, each.stage, _pick(each, ours, most))
    return {
        "start": iso(run.begun),
        "end": iso(run.ended),
        "sampled": sampled,
        "items": [*bars, *flying],
    }


def _pick(stage: StageMeasures, ours: Sequence[int], most: int) -> list[int]:
    """Return the items of a stage that are drawn."""
    picked = {*ours}
    if len(ours) > most:
        slowest = nlargest(most // 4, ours, key=stage.elapsed.__getitem__)
        evenly = most - len(slowest)
        picked = {*slowest, *(ours[len(ours) * place // evenly] for place in range(evenly))}
    return sorted(stage.items[place] for place in picked)


def _bars(
    connection: sqlite3.Connection, run: Subject, stage: SubjectStage, items: Sequence[int]
) -> Iterator[dict[str, Any]]:
    came = _UPSTREAM.get(stage.place.feed, "NULL")
    (rows,) = connection.execute(
        "SELECT json_group_array(json_array(i.item, i.outcome, i.attempts, i.started_at,"  # noqa: S608 - constants
        f" i.elapsed, {came})) FROM json_each(:items) p CROSS JOIN items i ON i.run = :run"
        " AND i.stage = :stage AND i.item = p.value AND i.generation = :generation",
        stage.place.names(items=str([*items])),
    ).fetchone()
    for item, outcome, attempts, started, elapsed, queued in msgspec.json.decode(rows):
        # A parent may go on after its child has begun, and have ended before this generation did.
        waited = queued is not None and queued <= started
        yield {
            "stage": stage.name,
            "item": item,
            "outcome": Outcome(outcome).label,
            "attempts": attempts,
            "queued_at": max(0, queued - run.begun) / 1e6 if waited else None,
            "began": max(0, started - run.begun) / 1e6,
            "ended": max(0, started + elapsed - run.begun) / 1e6,
        }


def _in_flight(connection: sqlite3.Connection, run: Subject) -> Iterator[dict[str, Any]]:
    """Return what the live page tells, without what was settled a moment ago."""
    held = sorted(run.in_hand, key=lambda each: each.started)[:_IN_FLIGHT]
    places = str([[each.stage, each.item] for each in held])
    (settled,) = connection.execute(
        "SELECT json_group_array(json_array(i.stage, i.item)) FROM json_each(?) p"
        " CROSS JOIN items i ON i.run = ? AND i.stage = p.value ->> 0 AND i.item = p.value ->> 1"
        " AND i.generation = ?",
        (places, run.run, run.generation),
    ).fetchone()
    over = {(stage, item) for stage, item in msgspec.json.decode(settled)}
    monotonic = time.monotonic()
    for each in held:
        if (each.stage, each.item) not in over and each.stage < len(run.stages):
            began = run.now - (monotonic - each.started) * 1e6 - run.begun
            yield {
                "stage": run.stages[each.stage].name,
                "item": each.item,
                "outcome": None,
                "attempts": None,
                "queued_at": None,
                "began": max(0.0, began / 1e6),
                "ended": None,
            }
