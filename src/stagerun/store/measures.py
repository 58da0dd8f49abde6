"""What the outcomes of a run say of its stages: how long items took, and when they ended.

A stage with many outcomes is not read whole: blocks of items, spread evenly over their numbers,
stand for all of them. Each stage is one row of one statement, and what is counted is counted by
SQLite or in C: between two rows another thread may take the interpreter for a while.
"""

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Any, Final

import msgspec
from attrs import frozen

from stagerun.store.documents import iso, nearest_rank
from stagerun.store.pace import Point, points
from stagerun.store.subject import Subject, SubjectStage

__all__ = ["EXACT", "Measures", "StageMeasures", "durations_of", "measure", "throughput_of"]

EXACT: Final = 100_000
"""Outcomes of a run up to which all of them are read."""
_SAMPLE: Final = 30_000
"""Outcomes that are read of a run that has more, over all its stages."""
_BLOCK: Final = 50
"""Items next to each other that are read together."""
_BUCKETS: Final = 120
_BARS: Final = 24

# Where the end of row i falls: the number of the bucket, doubled, and 1 more if it was a bad one.
# Below 0: in an earlier generation, or where progress events tell it better.
_BUCKET: Final = """CASE WHEN i.generation < s.generation THEN -2
    WHEN i.started_at + i.elapsed >= :known THEN -1
    ELSE min(max((i.started_at + i.elapsed - :begun) / :step, 0), :number - 1) * 2
         + (i.outcome NOT IN (0, 4)) END"""
# What of its deadline the work has used, or -1: an outcome may be cut by something else, or need no
# attempt at all. A wait for a worker between two attempts is elapsed, but no deadline counts it: so
# no item can have used more than that.
_ELAPSED: Final = """CASE WHEN i.attempts > 0 AND i.outcome IN (0, 1, 2, 4)
    THEN min(i.elapsed, coalesce(s.deadline, i.elapsed)) ELSE -1 END"""


@frozen
class _Scale:
    """Buckets of *step* microseconds from *begun* on."""

    begun: int
    step: int
    number: int

    @classmethod
    def of(cls, run: Subject) -> "_Scale":
        span = run.ended - run.begun
        step = _step(span)
        return cls(run.begun, step, max(1, ceil(span / step)))

    def bucket(self, at: int) -> int:
        """Return where a moment belongs; what a clock has put outside belongs to the ends."""
        return min(max((at - self.begun) // self.step, 0), self.number - 1)


@frozen(kw_only=True)
class StageMeasures:
    """Outcomes of a stage that count, all or a sample; the sequences belong together."""

    stage: SubjectStage
    items: Sequence[int]
    elapsed: Sequence[int]
    """Microseconds of work; -1: it does not tell how long work takes."""
    buckets: Sequence[int]

    @property
    def ours(self) -> Sequence[int]:
        """The places of the outcomes of this generation."""
        if self.stage.place.generation == 1:
            return range(len(self.items))
        return [place for place, bucket in enumerate(self.buckets) if bucket > _EARLIER]


_EARLIER: Final = -2


@frozen(kw_only=True)
class Measures:
    """The outcomes of a run, stage by stage, and the progress that stands in for some of them."""

    run: Subject
    scale: _Scale
    told: Sequence[Point]
    """Of a run that was not read whole: where it stood, as far back as that is kept."""
    stages: Sequence[StageMeasures]

    @property
    def sampled(self) -> bool:
        """Whether not all outcomes were read."""
        return self.run.rows > EXACT


def measure(connection: sqlite3.Connection, run: Subject) -> Measures:
    """Read the outcomes of each stage."""
    filled = sum(stage.settled > 0 for stage in run.stages)
    told = points(connection, run) if run.rows > EXACT else []
    sample = max(_SAMPLE // filled, 10 * _BLOCK) if run.rows > EXACT else EXACT
    scale = _Scale.of(run)
    names = {
        "begun": scale.begun,
        "step": scale.step,
        "number": scale.number,
        "known": told[0].at if told else 2**62,
    }
    stages = [_read(connection, stage, sample, names) for stage in run.stages]
    return Measures(run=run, scale=scale, told=told, stages=stages)


def _read(
    connection: sqlite3.Connection, stage: SubjectStage, sample: int, names: dict[str, Any]
) -> StageMeasures:
    names = stage.place.names(**names)
    rows = "items i"
    if stage.settled > sample:
        rows = f"""json_each(:blocks) b CROSS JOIN items i
            ON i.item >= b.value AND i.item < b.value + {_BLOCK}"""
        names["blocks"] = _blocks(connection, stage, sample // _BLOCK)
    arrays = connection.execute(
        f"""SELECT json_group_array(i.item), json_group_array({_ELAPSED}),
                   json_group_array({_BUCKET}) FROM stages s CROSS JOIN {rows}
        WHERE s.run = :run AND s.generation = :generation AND s.stage = :stage
          AND i.run = s.run AND i.stage = s.stage AND {stage.counts}""",  # noqa: S608 - constants
        names,
    ).fetchone()
    items, elapsed, buckets = map(msgspec.json.decode, arrays)
    return StageMeasures(stage=stage, items=items, elapsed=elapsed, buckets=buckets)


def _blocks(connection: sqlite3.Connection, stage: SubjectStage, number: int) -> str:
    """Return the first items of the blocks that are read, as JSON."""
    where = "SELECT {}(item) FROM items WHERE run = ? AND stage = ?"
    this = (stage.place.run, stage.place.stage)
    (first,) = connection.execute(where.format("min"), this).fetchone()
    (last,) = connection.execute(where.format("max"), this).fetchone()
    step = max(_BLOCK, (last - first + 1) / number)
    return str([first + int(place * step) for place in range(number)])


def durations_of(read: StageMeasures) -> dict[str, Any]:
    """Return how long the items of a stage took, in seconds, against its deadline."""
    stage = read.stage
    taken = sorted(took for took in read.elapsed if took >= 0)
    deadline = None if stage.deadline is None else stage.deadline / 1e6
    p50, p90, p99 = (_seconds(nearest_rank(taken, share)) for share in (0.5, 0.9, 0.99))
    return {
        "name": stage.name,
        "kind": stage.kind.value,
        "deadline": deadline,
        "workers": stage.workers,
        "count": len(taken),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "longest": _seconds(taken[-1] if taken else None),
        "headroom": None if deadline is None or p99 is None else 1 - p99 / deadline,
        "timed_out": stage.sums["timed_out"],
        "histogram": _histogram(taken),
    }


def _seconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def _histogram(ordered: Sequence[int]) -> dict[str, Any]:
    """Count ordered values between edges whose ratio is the same; the last edge belongs to it."""
    if not ordered:
        return {"edges": [], "counts": []}
    low, high = max(ordered[0], 1), max(ordered[-1], 1)
    if low == high:
        return {"edges": [low / 1e6, high / 1e6], "counts": [len(ordered)]}
    ratio = (high / low) ** (1 / _BARS)
    edges = [low * ratio**place for place in range(_BARS)] + [high]
    ranks = [0, *(bisect_left(ordered, edge) for edge in edges[1:-1]), len(ordered)]
    return {
        "edges": [edge / 1e6 for edge in edges],
        "counts": [above - below for below, above in pairwise(ranks)],
    }


def throughput_of(read: Measures) -> dict[str, Any]:
    """Return how many items of each stage ended when, in this generation.

    Exact when all outcomes were read. Else by the progress events as far back as they are kept, and
    before that by the sample.
    """
    return {
        "start": iso(read.run.begun),
        "step": read.scale.step / 1e6,
        "stages": {each.stage.name: _throughput(each, read) for each in read.stages},
    }


def _throughput(stage: StageMeasures, read: Measures) -> dict[str, list[int]]:
    name, scale = stage.stage.name, read.scale
    counted = Counter(stage.buckets)
    weight = 1.0
    if read.sampled and stage.items:
        weight = stage.stage.settled / len(stage.items)
        seen = sum(count for bucket, count in counted.items() if bucket >= 0)
        if seen and read.run.generation == 1:  # else earlier generations have added to the sums
            weight = sum(read.told[0].settled.get(name, ())) / seen
    sums = [[weight * counted[2 * place + bad] for place in range(scale.number)] for bad in (0, 1)]
    for before, after in pairwise(read.told):
        for bad in (0, 1):
            count = after.settled[name][bad] - before.settled[name][bad]
            _spread(sums[bad], count, scale, before.at, after.at)
    good, bad_ones = ([round(count) for count in side] for side in sums)
    return {"ok": good, "bad": bad_ones}


def _spread(sums: list[float], count: int, scale: _Scale, begin: int, end: int) -> None:
    """Add what ended between two moments to the buckets between them, evenly."""
    last, span = scale.bucket(end), end - begin
    if count and span <= 0:
        sums[last] += count
    elif count:
        for place in range(scale.bucket(begin), last + 1):
            low = max(begin, scale.begun + place * scale.step)
            high = min(end, scale.begun + (place + 1) * scale.step)
            sums[place] += count * max(0, high - low) / span


def _step(span: int) -> int:
    """Return a round number of microseconds that cuts *span* into few enough pieces."""
    least = max(span / _BUCKETS, 1_000)
    steps = [digit * 10**decade for decade in range(3, 7) for digit in (1, 2, 5)]
    steps += [seconds * 10**6 for seconds in (10, 15, 30, 60, 120, 300, 600, 900, 1800)]
    hour = 3600 * 10**6
    return next((step for step in steps if step >= least), ceil(least / hour) * hour)
