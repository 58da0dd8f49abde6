"""What an item costs, in counts that no busy machine changes: a bound that is passed is a decision.

Each figure is the difference between runs of 3,000 and of 1,000 items, so that what a run costs by
itself falls out. The bound of calls is a tenth above what was counted.
"""

import gc
import re
import sys
from collections import Counter
from types import FrameType
from typing import Any

import trio
from attrs import define, field

from stagerun import Pipeline, stage
from stagerun.engine.inbox import Inbox
from stagerun.engine.ledger import Ledger
from stagerun.store.inline import InlineStore
from tests.conftest import Bench

FEW, MANY = 1_000, 3_000
_SIZE = ("page_count", "page_size")


@stage(workers=4, deadline=30)
async def one(n: int) -> int:
    return n


@stage(workers=4, deadline=30)
async def two(n: int) -> int:
    return n


@stage(workers=4, deadline=30)
async def three(n: int) -> int:
    return n


PLAIN = Pipeline("plain", [one, two, three])
FIRST = Pipeline("first", [each.with_options(commit_first=True) for each in PLAIN.stages])


@define(eq=False)
class Steps(trio.abc.Instrument):
    """Counts how often a task of trio's is stepped."""

    count: int = field(default=0)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def counted(bench: Bench, pipeline: Pipeline, items: int) -> Counter[str]:
    """Run it and count the steps of tasks, the calls of Python functions, and the statements."""
    counts, steps, connection = Counter[str](), Steps(), bench.store._connection
    assert connection is not None

    def called(_frame: FrameType, event: str, _argument: Any) -> None:
        counts["calls"] += event == "call"

    def executed(sql: str) -> None:
        counts["commits"] += sql == "COMMIT"
        counts["inserts" if re.match("INSERT INTO items", sql) else "other statements"] += 1

    trio.lowlevel.add_instrument(steps)
    connection.set_trace_callback(executed)
    sys.setprofile(called)
    try:
        result = await bench.finish(pipeline, lambda: range(items))
    finally:
        sys.setprofile(None)
        connection.set_trace_callback(None)
        trio.lowlevel.remove_instrument(steps)
    assert result.status == "succeeded"
    counts["steps"] = steps.count
    (pages,), (size,) = (connection.execute(f"PRAGMA {each}").fetchone() for each in _SIZE)
    counts["bytes"] = pages * size
    return counts


async def cost(bench: Bench, pipeline: Pipeline) -> dict[str, float]:
    """Return the counts of one item more."""
    few = await counted(bench, pipeline, FEW)
    many = await counted(bench, pipeline, MANY)
    item = {what: (many[what] - few[what]) / (MANY - FEW) for what in many}
    item["bytes"] = (many["bytes"] - few["bytes"]) / MANY  # the file has the first run's, too
    return item


async def test_what_an_item_of_three_stages_costs(bench: Bench) -> None:
    item = await cost(bench, PLAIN)
    assert item["calls"] < 56
    assert item["steps"] < 0.2
    assert item["commits"] < 0.03
    assert item["other statements"] < 0.15
    assert item["bytes"] < 110, "three rows with results of a few bytes"


async def test_what_it_costs_to_commit_first(bench: Bench) -> None:
    item = await cost(bench, FIRST)
    assert item["calls"] < 60
    assert item["steps"] < 0.25
    assert item["commits"] < 0.03
    assert item["other statements"] < 0.16


def test_an_outcome_on_its_way_to_the_store_is_nothing_that_the_collector_must_look_at() -> None:
    inbox, ledger = Inbox(InlineStore()), Ledger(1, 1, PLAIN, [0, 0, 0])
    inbox.outcome(ledger, (0, 1, 0, 1, 0, 0, b""))
    gc.collect()
    before = len(gc.get_objects())
    for number in range(2, 1_002):
        inbox.outcome(ledger, (0, number, 0, 1, number, number, b"result"))
    assert len(gc.get_objects()) - before < 10
