"""The sums of one generation of a run, as its next commit leaves them on disk.

The engine posts what happened; the persistence actor takes it, keeps the sums, and writes both in
one transaction. So the sums on disk hold at every commit, and nobody counts twice.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any

from attrs import define, evolve, field, frozen

from stagerun.engine.line import Line
from stagerun.model.outcome import Outcome
from stagerun.model.pipeline import Pipeline
from stagerun.model.stage import Kind
from stagerun.model.status import Cause, Counts, Ending, Status
from stagerun.rules.progress import percent
from stagerun.store import lateness, packing, writes
from stagerun.store.packing import KIND, VALUE, WIDTH
from stagerun.store.transaction import Rows, Statement, Unit

__all__ = ["Ledger", "Post", "Snapshot"]

_LABELS = [outcome.label for outcome in Outcome]
_LINES = 1_000
"""Log lines that may wait for a commit; older ones are dropped."""
_KEPT_LINES = 2_000
"""Log lines of a run that stay on disk at least; older ones are pruned now and then."""
_KEPT_PROGRESS = 1_000
"""The same of its progress events."""
_PATIENCE = 0.6
"""Seconds for which it must have been seen overdue before a run's will is carried out. A bit more
than the loop takes to end it by itself when stages do not stop."""
_PROGRESS_EVERY = 250_000
"""Microseconds between two progress events of a run."""


class Post(Enum):
    """What can be posted to a ledger. The first six are rows of the table of that name."""

    OUTCOMES = "items"
    RESULT = "results"
    FAILURE = "failures"
    EMISSION = "emissions"
    MEMBER = "members"
    KEY = "keys"
    ACCEPTED = "accepted"
    GROUPS = "groups"
    STAGE = "stage"
    STATEMENT = "statement"
    ENDING = "ending"
    NUDGE = "nudge"


@frozen
class Snapshot:
    """The committed state of a generation: what every reader sees."""

    counts: tuple[Counts, ...]
    percent: float | None = None
    source_length: int | None = None
    ending: Ending | None = None
    taken: int = 0
    """How many messages it holds, of those that were posted."""


@define(eq=False)
class Ledger:
    """Written by the persistence actor alone, except where a field says otherwise."""

    run: int
    generation: int
    pipeline: Pipeline
    in_flight: list[int]
    """Written by: the stage actors. Items under way, per stage."""
    deadline: float | None = None
    """Written by: the run's actor. The run's own, on ``Env.monotonic``; None before it begins."""
    deadline_kept: float | None = None
    """Written by: the persistence actor. As it is on disk, on the wall's clock; None: not told."""
    moved: bool = False
    """Written by: any thread. There was a report or a heartbeat."""
    moves: int = 0
    """Written by: the persistence actor. Grows whenever something has come of the work."""
    queued: bool = False
    """Written by: the run's actor. It waits for its turn: nothing may be committed for it yet."""
    source_length: int | None = None
    """Written by: the source, before it posts the acceptance."""
    report: tuple[str, str, float | None, float | None] | None = None
    """Written by: any thread. The last report: step, message, done, total."""
    lines: deque[Line] = field(factory=lambda: deque(maxlen=_LINES))
    """Written by: any thread. Log lines on their way to the disk."""

    published: Snapshot = field(init=False)
    """Written by: the recorder, in the engine's thread. What is committed; readers look here."""
    fenced: bool = False
    """Written by: as above. Somebody else has ended the generation: stop, nothing counts here."""
    willed: bool = False
    """Written by: the persistence actor. The loop did not end it in time, so its will did."""
    overdue_since: float = math.inf
    """Written by: as above. When it was first seen to be overdue, on ``Env.monotonic``."""
    broken: bool = False
    """Written by: as above. What it wrote broke a rule; it was ended, with little said."""
    listener: Callable[[], None] | None = None
    """Called in the engine's thread after each commit of this generation."""

    accepted: list[int] = field(init=False)
    settled: list[list[int]] = field(init=False)
    outcomes: list[Any] = field(init=False, factory=list)
    """Appended to by: the engine's thread. Rows that nobody has taken yet, flattened."""
    concluded: int = 0
    """Written by: the engine's thread. How many outcomes were posted."""
    posted: int = 0
    """Written by: the engine's thread. How many other messages were."""
    taken: int = 0
    """How many of both were taken."""
    taken_outcomes: int = 0
    nudged: bool = False
    """Set while a nudge waits for its commit, so that one is enough."""
    events: int = field(init=False, default=0)
    highest: float | None = None
    ending: Ending | None = None
    _rows: dict[Post, list[Any]] = field(init=False, factory=dict)
    """Rows for the next unit, flattened, of each table."""
    _others: list[Statement] = field(init=False, factory=list)
    """What must be done after them."""
    _fresh: list[tuple[Any, ...]] = field(init=False, factory=list)
    _dirty: set[int] = field(init=False, factory=set)
    _feeds: list[bool] = field(init=False)
    _takes_made: list[bool] = field(init=False)
    _in_flight: list[int] = field(init=False)
    """What the disk says is under way."""
    _last: tuple[Counts, ...] = field(init=False)
    """The sums of the last unit."""
    _ended_at: int | None = field(init=False, default=None)
    """When it ended, until that has become an event."""
    _progress_at: int = field(init=False, default=0)
    _owes_progress: bool = field(init=False, default=False)
    """Whether the sums have changed since the last progress event: the next beat tells it."""
    _lines_since_pruning: int = field(init=False, default=0)
    _progress_since_pruning: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        stages = self.pipeline.stages
        self.accepted = [0] * len(stages)
        self.settled = [[0] * len(Outcome) for _ in stages]
        # Whether an `ok` of a stage is at once an acceptance by the next one.
        self._feeds = [
            stage.kind is not Kind.MANY and follower.kind is not Kind.COLLECT
            for stage, follower in pairwise(stages)
        ] + [False]
        # Whether what is made for a stage is at once accepted by it: a collect stage accepts its
        # groups later, and behind the last stage there is nobody.
        self._takes_made = [stage.kind is not Kind.COLLECT for stage in stages] + [False]
        self._in_flight = [0] * len(stages)
        self._last = self.counts()
        self.published = self.snapshot()

    @property
    def waiting(self) -> int:
        """How much of what was posted is not durable yet. The engine's thread."""
        return self.posted + self.concluded - self.published.taken

    def accept_stored(self, count: int) -> None:
        """Begin with items that were stored before the run began."""
        self.accepted[0] = count
        self.highest = 0.0
        self._dirty.add(0)
        self._last = self.counts()
        self.published = self.snapshot()

    def carry_over(self, counts: Sequence[Counts], events: int, highest: float | None) -> None:
        """Begin where earlier generations have left off; that much is on disk already."""
        self.accepted = [sums.accepted for sums in counts]
        self.settled = [[getattr(sums, label) for label in _LABELS] for sums in counts]
        self.events, self.highest = events, highest
        self._last = self.counts()
        self.published = self.snapshot()

    def publish(self, snapshot: Snapshot | None) -> None:
        """Make *snapshot* what readers see; None: the fence refused the commit."""
        if snapshot is None:
            self.fenced = True
        else:
            self.published = snapshot
        if self.listener is not None:
            self.listener()

    def give_way(self, snapshot: Snapshot) -> None:
        """Hear that *snapshot* broke a rule of the database, and a minimal ending was written."""
        self.broken = self.fenced = True
        self.published = evolve(self.published, ending=_minimal(snapshot.ending))
        if self.listener is not None:
            self.listener()

    def take(self, post: Post, payload: Any) -> None:
        """Take one message, of no outcome, into the sums and towards the next commit."""
        self.taken += 1
        if post is Post.EMISSION:
            if self._takes_made[payload[1]]:
                self.accepted[payload[1]] += 1
                self._dirty.add(payload[1])
            self._add(post, payload)
        elif post.value in writes.WIDTH:
            self._add(post, payload)
        else:
            self._take_rare(post, payload)

    def take_outcomes(self, until: int) -> int:
        """Take outcomes until so many were taken in all; return how many were."""
        number = until - self.taken_outcomes
        if number <= 0:
            return 0
        rows = self.outcomes[: number * WIDTH]
        del self.outcomes[: number * WIDTH]
        self.taken_outcomes += number
        self.taken += number
        # Python's sqlite3 asks its adapters about each `bytes`, at length; about no `bytearray`.
        rows[VALUE::WIDTH] = [value and bytearray(value) for value in rows[VALUE::WIDTH]]
        self._add(Post.OUTCOMES, rows)
        for kind, count in Counter(rows[KIND::WIDTH]).items():
            stage, outcome = packing.stage_and_outcome(kind)
            self.settled[stage][outcome] += count
            self._dirty.add(stage)
            if outcome == Outcome.OK and self._feeds[stage]:
                self.accepted[stage + 1] += count
                self._dirty.add(stage + 1)
        return number

    def _add(self, post: Post, row: Any) -> None:
        if post not in self._rows:
            self._rows[post] = []
        self._rows[post] += row

    def _take_rare(self, post: Post, payload: Any) -> None:
        match post:
            case Post.ACCEPTED:
                self.accepted[0] += payload
                self._dirty.add(0)
            case Post.GROUPS:
                stage, count, statements = payload
                self.accepted[stage] += count
                self._dirty.add(stage)
                self._others += statements
            case Post.STATEMENT:
                self._others.append(payload)
            case Post.STAGE:
                at, name, status, statement = payload
                self._others.append(statement)
                self._event(at, "stage", status, stage=name)
            case Post.ENDING:
                self._ended_at, self.ending, statement = payload
                self._others.append(statement)
                self._dirty.update(range(len(self.accepted)))

    def _event(
        self,
        at: int,
        kind: str,
        body: str,
        *,
        level: str | None = None,
        stage: str | None = None,
        item: int | None = None,
    ) -> None:
        self.events += 1
        self._fresh.append(
            (self.run, self.events, self.generation, at, kind, level, stage, item, body)
        )

    def unit(self, now: int) -> Unit:
        """Return everything taken since the last one, as statements under the run's fence."""
        self.nudged = False
        self._take_lines()
        counts = self._last = self.counts()
        self._dirty.update(
            stage for stage, sums in enumerate(counts) if sums.in_flight != self._in_flight[stage]
        )
        self._in_flight = [sums.in_flight for sums in counts]
        self._take_progress(now, counts)
        if self._ended_at is not None and self.ending is not None:  # a run's last event
            self._event(self._ended_at, "run", self.ending.status.value)
            self._ended_at = None
        body: list[Statement | Rows] = [self._insert(*entry) for entry in self._rows.items()]
        if self._fresh:
            flat = [value for event in self._fresh for value in event]
            body.append(Rows(writes.INSERT["events"], writes.WIDTH["events"], flat))
            body.append(writes.last_event(self.run, self.events, self.source_length))
        body += [
            writes.stage_counts(self.run, self.generation, stage, counts[stage])
            for stage in sorted(self._dirty)
        ]
        moved_at = now if self._rows or self.moved else None
        self.moves += moved_at is not None
        self.moved = False
        guard = writes.touch(
            self.run, self.generation, now, self.highest, self.report, moved_at=moved_at
        )
        body += self._others
        self._rows, self._others, self._fresh = {}, [], []
        self._dirty = set()
        rescue = writes.end_minimally(self.run, self.generation, _minimal(self.ending), now)
        return Unit(guard, body, rescue)

    def _insert(self, post: Post, rows: list[Any]) -> Rows:
        insert, width = writes.INSERT[post.value], writes.WIDTH[post.value]
        if post is Post.OUTCOMES:
            return Rows(insert, width, rows, (self.run, self.generation), packing.END)
        return Rows(insert, width, rows)

    def _take_lines(self) -> None:
        while self.lines:
            line = self.lines.popleft()
            self._lines_since_pruning += 1
            self._event(
                line.at, line.kind, line.text, level=line.level, stage=line.stage, item=line.item
            )

        if self._lines_since_pruning >= _KEPT_LINES:
            self._lines_since_pruning = 0
            self._others += writes.prune_events(self.run, "log", _KEPT_LINES)

    def _take_progress(self, now: int, counts: tuple[Counts, ...]) -> None:
        weights = [stage.weight for stage in self.pipeline.stages]
        estimate = percent(weights, counts, self.source_length)
        if estimate is not None:
            self.highest = max(estimate, self.highest or 0.0)
        self._owes_progress = self._owes_progress or bool(self._dirty)
        if self._owes_progress and not 0 <= now - self._progress_at < _PROGRESS_EVERY:
            self._progress_at, self._owes_progress = now, False
            sums = {c.name: [c.accepted, *(getattr(c, label) for label in _LABELS)] for c in counts}
            body = json.dumps({"percent": self.highest, "stages": sums})
            self._event(now, "progress", body)
            self._progress_since_pruning += 1
        if self._progress_since_pruning >= _KEPT_PROGRESS:
            self._progress_since_pruning = 0
            self._others += writes.prune_events(self.run, "progress", _KEPT_PROGRESS)

    def overdue(self, now: float) -> bool:
        """Whether the loop has had its time to end this by itself. *now*: ``Env.monotonic``.

        Asked with each look of the watch. It must have been overdue for a while in which the
        process was awake: one that was stopped gets its chance first.
        """
        if self.deadline is None or self.ending is not None or self.fenced:
            return False
        if now < self.deadline + self.pipeline.grace:
            return False
        self.overdue_since = min(self.overdue_since, now)
        return now - self.overdue_since >= _PATIENCE

    def carry_out_will(self, now: int, why: str | None) -> None:
        """End what the loop does not end. *why*: what keeps it from that, if it is known."""
        blocked = "" if why is None else f": {why}"
        limit = self.pipeline.deadline or 0.0
        message = f"the run's deadline of {limit:g} s passed and the loop did not end it{blocked}"
        ending = Ending(Status.TIMED_OUT, Cause.RUN_DEADLINE, message)
        self.willed = True
        self._others.append(lateness.end_stages(self.run, self.generation, "timed_out", now))
        place = (self.run, self.generation, ending)
        end = writes.end(*place, now=now, stopped_at=None, survivors=[])
        self._take_rare(Post.ENDING, (now, ending, end))

    def counts(self) -> tuple[Counts, ...]:
        """Return the sums per stage. What is under way can never exceed what is unsettled."""
        return tuple(
            Counts(
                name=stage.name,
                accepted=accepted,
                in_flight=0 if self.ending else min(under_way, accepted - sum(outcomes)),
                **dict(zip(_LABELS, outcomes, strict=True)),
            )
            for stage, accepted, outcomes, under_way in zip(
                self.pipeline.stages, self.accepted, self.settled, self.in_flight, strict=True
            )
        )

    @property
    def stale(self) -> bool:
        """Whether the disk does not know what is under way, or readers of events what is done."""
        return self.ending is None and (self._owes_progress or self._in_flight != self.in_flight)

    def snapshot(self) -> Snapshot:
        """Return what the unit just built leaves on disk."""
        return Snapshot(self._last, self.highest, self.source_length, self.ending, self.taken)


_NOT_KEPT = "what was to be stored of it broke a rule of the database and is not kept: see the log"


def _minimal(ending: Ending | None) -> Ending:
    """Return the ending for a generation whose records cannot be stored; never a success."""
    if ending is None or ending.status is Status.SUCCEEDED:
        return Ending(Status.FAILED, Cause.INTERNAL, _NOT_KEPT)
    return Ending(ending.status, ending.cause, _NOT_KEPT)
