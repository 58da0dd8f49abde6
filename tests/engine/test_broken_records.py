"""What a run writes breaks a rule of the database: a minimal ending lands, and others go on."""

import logging
from typing import Any

import pytest
import trio

from stagerun import Pipeline, stage
from stagerun.engine.health import Condition
from stagerun.engine.ledger import Post
from stagerun.engine.run import RunActor
from stagerun.store import writes
from stagerun.store.transaction import Statement
from tests.conftest import Bench, sums_hold


@stage
async def work(number: int) -> int:
    await trio.sleep(1)
    return number


PIPELINE = Pipeline("work", [work])
POISON = [1 << 70, object(), "\ud800"]


@pytest.mark.parametrize("poison", POISON, ids=["too large", "no type", "no text"])
async def test_an_ending_that_cannot_be_written_gives_way_to_a_minimal_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, poison: Any
) -> None:
    def broken(run: int, generation: int, *args: Any, **options: Any) -> Statement:
        statement = end(run, generation, *args, **options)
        if run != 1:
            return statement
        status, cause, _, *others = statement.parameters
        return Statement(statement.sql, (status, cause, poison, *others), expected=1)

    end = writes.end
    monkeypatch.setattr(writes, "end", broken)
    other = await bench.runtime.start(Pipeline("other", [work]), range(1))  # takes the first number
    run = await bench.runtime.start(PIPELINE, range(3))
    with trio.fail_after(60):
        first, second = await other.wait(), await run.wait()
    assert (first.status, first.cause) == ("failed", "internal")
    assert "broke a rule" in first.message
    assert second.status == "succeeded"
    assert bench.sql("SELECT status, finished_at > 0 FROM generations ORDER BY run") == [
        ("failed", 1),
        ("succeeded", 1),
    ]
    sums_hold(bench.store._connection)


async def test_a_run_whose_outcomes_break_a_rule_ends_and_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    run = await bench.runtime.start(PIPELINE, range(100))
    await trio.sleep(5.5)
    assert isinstance(run._actor, RunActor)
    hub = run._actor.hub
    hub.post(Post.FAILURE, (1, 0, 1, 1, None, None, None, None, None))  # NULLs where none may be
    with trio.fail_after(60):
        result = await run.wait()
    assert (result.status, result.cause) == ("failed", "internal")
    assert result.stages[0].ok >= 4
    ((ok,),) = bench.sql("SELECT count(*) FROM items")
    assert ok == result.stages[0].ok
    assert bench.sql("SELECT in_flight FROM stages") == [(0,)]
    assert bench.sql("SELECT count(*), max(seq) FROM events") == bench.sql(
        "SELECT events, events FROM runs"
    )
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert any("broke a rule of the database" in r.getMessage() for r in errors)


def test_health_tells_what_holds_and_since_when() -> None:
    condition = Condition()
    assert condition.health(3, 10, 0).status == "ok"
    condition.note(1_000_000, trouble="locked")
    condition.note(2_000_000, trouble="locked, for 5 s now")
    health = condition.health(7, 3_000_000, 2_900_000)
    assert (health.status, health.waiting) == ("degraded", 7)
    assert health.since is not None
    assert health.since.timestamp() == 1.0
    condition.note(4_000_000)
    assert condition.health(0, 4_000_000, 3_900_000).status == "ok"
    stuck = condition.health(5, 10_000_000, 4_000_000)
    assert (stuck.status, stuck.why) == (
        "degraded",
        "a commit has been under way for 6 s (a slow disk?)",
    )
    condition.note(5_000_000, notice="a long log")
    assert condition.health(0, 5_000_000, 5_000_000).why == "a long log"
    condition.note(6_000_000, failure="gone")
    condition.note(7_000_000)
    assert condition.health(0, 7_000_000, 7_000_000).status == "failed"
