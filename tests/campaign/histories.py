"""What was told and what was executed, held against the file that a killed process has left."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from tests.campaign.images import look
from tests.campaign.told import Told
from tests.campaign.works import Call, SideFile
from tests.conftest import sums_hold

__all__ = ["History", "examine"]

_OK: Final = 0
_SKIPPED: Final = 4
_CANCELLED: Final = 3


@define(eq=False)
class History:
    """All that the lives of one trial were told; a wait that was cut told nothing."""

    told: Told = field(factory=Told)
    keys: dict[str, str] = field(factory=dict)
    """The run that the start with a key has given."""
    results: dict[tuple[str, int], tuple[str, list[list[int]]]] = field(factory=dict)
    """Cause, and accepted and outcomes by stage, as a wait returned them."""
    fired: set[str] = field(factory=set)
    """Runs that a slot has become."""
    pruned: set[str] = field(factory=set)
    """Runs that may be gone."""
    leaving: bool = False
    wrong: list[str] = field(factory=list)
    """What the lives themselves found to be wrong."""
    figures: list[tuple[str, float]] = field(factory=list)

    def hear(self, words: list[Any]) -> None:
        """Take one acknowledgement, or one of a life's own words about itself."""
        kind, *rest = words
        if rest and isinstance(rest[0], str) and rest[0] in self.pruned:
            return  # seen before it went, and said after
        match kind:
            case "wrong":
                self.wrong.append(rest[0])
            case "figure":
                name, value = rest
                self.figures.append((name, value))
            case "leaving":
                self.leaving = True
            case "pruning":
                self._prune(set(rest[0]))
            case _:
                self._acknowledged(kind, rest)

    def _acknowledged(self, kind: str, rest: list[Any]) -> None:
        match kind:
            case "key":
                key, run = rest
                before = self.keys.setdefault(key, run)
                if before != run:
                    self.wrong.append(f"key {key} was run {before[:8]}, and is {run[:8]}")
            case "result":
                run, generation, cause, sums = rest
                told = self.results.setdefault((run, generation), (cause, sums))
                if told != (cause, sums):
                    self.wrong.append(f"a wait for {run[:8]} gave {told}, and then {cause} {sums}")
            case "resumed":
                run, generation = rest
                self._seen(run, generation, "queued", 0)
            case "seen":
                run, generation, status, percent, stages = rest
                self._seen(run, generation, status, percent or 0)
                for stage, sums in enumerate(stages):
                    self.told.hear(["stage", run, generation, stage, *sums])
            case "fired":
                self.fired.add(rest[0])
            case _:
                self.told.hear([kind, *rest])

    def _seen(self, run: str, generation: int, status: str, percent: float) -> None:
        events = self.told.events.get(run, 0)  # a handle does not tell them
        self.told.hear(["generation", run, generation, status, percent, events])

    def _prune(self, runs: set[str]) -> None:
        """Hear that runs may disappear: nothing that was told of them must be there any more."""
        self.pruned |= runs
        told = self.told
        told.started -= runs
        self.keys = {key: run for key, run in self.keys.items() if run not in runs}
        self.results = {place: r for place, r in self.results.items() if place[0] not in runs}
        told.runs = {run: items for run, items in told.runs.items() if run not in runs}
        told.cancels = {place for place in told.cancels if place[0] not in runs}
        told.statuses = {p: status for p, status in told.statuses.items() if p[0] not in runs}
        told.percents = {p: percent for p, percent in told.percents.items() if p[0] not in runs}
        told.events = {run: count for run, count in told.events.items() if run not in runs}
        told.sums = {p: sums for p, sums in told.sums.items() if p[0] not in runs}


def examine(path: Path, side: Path, history: History, *, over: bool = False) -> list[str]:
    """Return what is wrong with the file as it stands now. *over*: nothing may be open any more.

    A copy is looked at: the next process shall find the log just as the killed one has left it.
    """
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
        if Path(f"{path}{suffix}").exists():
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    if not copy.exists():
        return ["the database is gone"] if history.told.opened else []
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            wrong = [*look(connection, history.told, whole=True)]
            if connection.execute("PRAGMA user_version").fetchone() != (0,):
                wrong += _wrong(connection, SideFile.read(side), history)
                if over and (left := connection.execute(_OPEN).fetchall()):
                    wrong.append(f"not ended: {left}")
    except sqlite3.Error as error:
        return [f"{type(error).__name__}: {error}"]
    return wrong


def _wrong(connection: sqlite3.Connection, calls: list[Call], history: History) -> Iterator[str]:
    try:
        sums_hold(connection)
    except AssertionError as error:
        yield f"sums: {error}"
    yield from _answers_missing(connection, history)
    yield from _slots_doubled(connection)
    yield from _executed_again(connection, calls)
    yield from _never_executed(connection, calls)


def _answers_missing(connection: sqlite3.Connection, history: History) -> Iterator[str]:
    keys = dict(
        connection.execute("SELECT request_key, id FROM runs WHERE request_key IS NOT NULL")
    )
    for key, run in history.keys.items():
        if keys.get(key) != run:
            yield f"a start with key {key} gave run {run[:8]}, in the file it is {keys.get(key)}"
    for (run, generation), (cause, sums) in history.results.items():
        found = connection.execute(
            "SELECT g.cause FROM runs r JOIN generations g USING (run)"
            " WHERE r.id = ? AND g.generation = ?",
            (run, generation),
        ).fetchone()
        stages = connection.execute(
            "SELECT accepted, ok, failed, s.timed_out, cancelled, skipped, crashed FROM stages s"
            " JOIN runs r USING (run) WHERE r.id = ? AND s.generation = ? ORDER BY stage",
            (run, generation),
        ).fetchall()
        if found != (cause,) or [list(row) for row in stages] != sums:
            yield f"a wait for {run[:8]} gave {cause} {sums}; in the file it is {found} {stages}"
    slots = {run for (run,) in connection.execute("SELECT run FROM slots")}
    for run in history.fired - slots:
        yield f"a slot was told to be run {run[:8]}, and none is"


def _slots_doubled(connection: sqlite3.Connection) -> Iterator[str]:
    for at, count in connection.execute(
        "SELECT at, count(*) FROM slots WHERE asked_by IS NULL GROUP BY schedule, at"
        " HAVING count(*) > 1"
    ):
        yield f"the slot of {at} was decided {count} times"
    (fired,) = connection.execute("SELECT count(*) FROM slots WHERE run IS NOT NULL").fetchone()
    (runs,) = connection.execute("SELECT count(*) FROM labels WHERE name = 'schedule'").fetchone()
    if fired != runs:
        yield f"{fired} slots have fired, and there are {runs} runs of schedules"


def _executed_again(connection: sqlite3.Connection, calls: list[Call]) -> Iterator[str]:
    """A generation begins after all that the ones before it wrote: what was final is not called."""
    finals = dict[tuple[str, int, int], list[tuple[int, int]]]()
    for run, stage, item, generation, outcome in connection.execute(
        "SELECT r.id, i.stage, i.item, i.generation, i.outcome FROM items i JOIN runs r USING (run)"
    ):
        finals.setdefault((run, stage, item), []).append((generation, outcome))
    forgiving = {*connection.execute(_FORGIVING)}
    floors = {(*place,): since for *place, since in connection.execute(_FLOORS)}
    for call in calls:
        for generation, outcome in finals.get((call.run, call.stage, call.item), ()):
            if generation >= call.generation or outcome == _CANCELLED:
                continue
            forgiven = outcome not in (_OK, _SKIPPED) and any(
                (call.run, later) in forgiving
                for later in range(generation + 1, call.generation + 1)
            )
            # A group is formed anew when what failed of its members was forgiven.
            floor = floors.get((call.run, call.generation, call.stage), 0)
            if not forgiven and generation >= floor:
                yield f"executed again: {call} had outcome {outcome} in generation {generation}"
    for call, count in Counter(calls).items():
        if count > 1:
            yield f"executed {count} times as one attempt: {call}"


_FORGIVING: Final = (
    "SELECT r.id, g.generation FROM generations g JOIN runs r USING (run)"
    " WHERE g.opened_by = 'resume_failed'"
)
_FLOORS: Final = (
    "SELECT r.id, s.generation, s.stage, s.since FROM stages s JOIN runs r USING (run)"
    " WHERE s.kind = 'collect'"
)


def _never_executed(connection: sqlite3.Connection, calls: list[Call]) -> Iterator[str]:
    attempts = dict[tuple[str, int, int, int], int]()
    for call in calls:
        place = (call.run, call.generation, call.stage, call.item)
        attempts[place] = max(attempts.get(place, 0), call.attempt)
    for *place, made in connection.execute(
        "SELECT r.id, i.generation, i.stage, i.item, i.attempts FROM items i JOIN runs r USING"
        " (run) WHERE i.outcome = 0"
    ):
        if attempts.get((*place,), 0) != made:
            yield f"{place} is ok after {made} attempts, {attempts.get((*place,))} were made"
    (never,) = connection.execute(_UNASKED).fetchone()
    if never:
        yield f"{never} runs are there that nobody has asked for, or that were begun twice"


_OPEN: Final = (
    "SELECT 'run', run, generation FROM generations WHERE finished_at IS NULL"
    " UNION ALL SELECT 'owner', owner, pid FROM owners WHERE ended_at IS NULL"
)
_UNASKED: Final = (
    "SELECT count(*) FROM runs r WHERE request_key IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.run = r.run AND l.name = 'schedule')"
    " AND NOT EXISTS (SELECT 1 FROM stages s WHERE s.run = r.run AND s.generation = 1"
    " AND s.stage = 0 AND s.accepted <> r.source_length)"
)
"""One without a key was given up before its list was stored whole; nobody was told of it."""
