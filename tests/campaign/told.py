"""What was acknowledged: said by a program as it hears it, and looked for in the file afterwards.

What counts as told is what ``start()``, ``cancel()`` and ``wait()`` returned, and every status,
percent, count and event that a reader of the database saw.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from stagerun.store.opening import read_only

__all__ = ["Say", "Told", "reading", "spoken"]

Say = Callable[[list[Any]], None]
"""Takes one acknowledgement, as a list that begins with its kind."""

_TERMINAL = ("succeeded", "failed", "cancelled", "timed_out", "interrupted")

_GENERATIONS = """
    SELECT r.id, g.generation, g.status, coalesce(g.percent, 0), r.events
    FROM runs r JOIN generations g USING (run)
"""
_STAGES = """
    SELECT r.id, s.generation, s.stage, s.ok, s.failed, s.timed_out, s.cancelled, s.skipped,
           s.crashed
    FROM stages s JOIN runs r USING (run)
"""


@define(eq=False)
class Told:
    """All that was told up to a moment."""

    opened: bool = False
    """Whether a runtime was: then there is a schema."""
    runs: dict[str, int] = field(factory=dict)
    """How many items a started run had given as a list."""
    started: set[str] = field(factory=set)
    """Of the runs: those whose start was acknowledged. Others were only seen."""
    cancels: set[tuple[str, int]] = field(factory=set)
    statuses: dict[tuple[str, int], str] = field(factory=dict)
    percents: dict[tuple[str, int], float] = field(factory=dict)
    events: dict[str, int] = field(factory=dict)
    sums: dict[tuple[str, int, int], tuple[int, ...]] = field(factory=dict)
    contradictions: list[str] = field(factory=list)
    """What was told after something else that it cannot follow upon."""
    _last: dict[tuple[str, str, int], str] = field(factory=dict)

    def hear(self, words: list[Any]) -> None:
        """Take one acknowledgement."""
        kind, *rest = words
        match kind:
            case "opened":
                self.opened = True
            case "started":
                run, items = rest
                self.runs[run] = items
                self.started.add(run)
            case "cancel":
                run, generation = rest
                self.cancels.add((run, generation))
            case "ended":
                run, generation, status = rest
                self._status(run, generation, status, kind)
            case "generation":
                run, generation, status, percent, events = rest
                self._status(run, generation, status, kind)
                place = (run, generation)
                self._grows(self.percents, place, percent, "percent")
                self._grows(self.events, run, events, "events")
            case "stage":
                run, generation, stage, *sums = rest
                key = (run, generation, stage)
                before = self.sums.get(key, (0,) * 6)
                if any(now < then for now, then in zip(sums, before, strict=True)):
                    self.contradictions.append(f"counts of {key} went from {before} to {sums}")
                self.sums[key] = tuple(map(max, sums, before))
            case _:
                raise ValueError(f"no kind of acknowledgement: {words}")

    def _status(self, run: str, generation: int, status: str, kind: str) -> None:
        self.runs.setdefault(run, 0)
        # A reader may say what it saw a moment after somebody else has heard of the end.
        own = self._last.get((kind, run, generation), status)
        known = self.statuses.get((run, generation), status)
        self._last[kind, run, generation] = status
        for before in (own, known if status in _TERMINAL else status):
            if before in _TERMINAL and before != status:
                words = f"run {run[:8]}, generation {generation} was {before}, and then {status}"
                self.contradictions.append(words)
        if known not in _TERMINAL:
            self.statuses[run, generation] = status

    def _grows(self, known: dict[Any, Any], key: Any, value: float, what: str) -> None:
        if value < known.get(key, 0):
            self.contradictions.append(f"{what} of {key} went from {known[key]} to {value}")
        else:
            known[key] = value

    def missing(self, connection: sqlite3.Connection) -> list[str]:
        """Return what was told and is not in the file, a sentence each."""
        if not self.opened and not self.runs:
            return []
        generations = {
            (run, generation): (status, percent, events)
            for run, generation, status, percent, events in connection.execute(_GENERATIONS)
        }
        there = {run for run, _ in generations}
        found = [f"run {run[:8]} is not there" for run in self.runs if run not in there]
        for (run, generation), status in self.statuses.items():
            now = generations.get((run, generation), ("not there", 0, 0))[0]
            fits = now == status if status in _TERMINAL else now != "not there"
            if not fits or (status == "running" and now == "queued"):
                found.append(f"run {run[:8]}, generation {generation} was {status} and is {now}")
        for place, percent in self.percents.items():
            if place in generations and generations[place][1] < percent:
                found.append(f"percent of {place} was {percent}, is {generations[place][1]}")
        events = {run: count for (run, _), (_, _, count) in generations.items()}
        for run, count in self.events.items():
            if events.get(run, count) < count:
                found.append(f"run {run[:8]} had {count} events, has {events[run]}")
        sums = {tuple(row[:3]): row[3:] for row in connection.execute(_STAGES)}
        for key, told in self.sums.items():
            now_ = sums.get(key, (0,) * 6)
            if any(there < then for there, then in zip(now_, told, strict=True)):
                found.append(f"counts of {key} were {told} and are {now_}")
        return found + self._requests_missing(connection) + self._items_missing(connection)

    def _requests_missing(self, connection: sqlite3.Connection) -> list[str]:
        if not self.cancels:
            return []
        asked = set(
            connection.execute(
                "SELECT r.id, g.generation FROM runs r JOIN generations g USING (run)"
                " WHERE g.requested_at IS NOT NULL OR g.finished_at IS NOT NULL"
            )
        )
        return [f"the cancellation of {each} is not there" for each in self.cancels - asked]

    def _items_missing(self, connection: sqlite3.Connection) -> list[str]:
        there = dict(
            connection.execute(
                "SELECT r.id, count(e.item) FROM runs r LEFT JOIN emissions e"
                " ON e.run = r.run AND e.stage = 0 GROUP BY r.run"
            )
        )
        return [
            f"run {run[:8]} was started with {items} items, and has {there[run]}"
            for run, items in self.runs.items()
            if there.get(run, items) < items
        ]


@contextmanager
def reading(path: Path, say: Say, every: float = 0.004) -> Iterator[None]:
    """Read the database meanwhile, as a dashboard does, and say whatever is new there."""
    leave = threading.Event()

    def read() -> None:
        last: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        with closing(read_only(path)) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            while not leave.wait(every):
                try:
                    seen = _seen(connection)
                except sqlite3.Error:
                    continue  # nothing was told
                for key, row in seen.items():
                    if last.get(key) != row:
                        say([key[0], *row])
                last = seen

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join(10)


def _seen(connection: sqlite3.Connection) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    connection.execute("BEGIN")
    try:
        return {
            ("generation", *row[:2]): row for row in connection.execute(_GENERATIONS)
        } | {("stage", *row[:3]): row for row in connection.execute(_STAGES)}  # fmt: skip
    finally:
        connection.execute("COMMIT")


def spoken(words: list[Any]) -> bytes:
    """Return an acknowledgement as bytes, for a record."""
    return json.dumps(words).encode()
