"""Retention: ended runs go by number and age, whole and a few rows at a time; others never."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from stagerun import Pipeline, SettingError, open_runtime, stage
from stagerun.engine import ledger as ledgers
from stagerun.rules.retention import Keep, keep_of
from stagerun.store.inline import InlineStore
from tests.conftest import Bench, virtual_env

NewBench = Callable[..., AbstractAsyncContextManager[Bench]]


@stage(workers=2)
async def work(number: Any) -> str:
    if number == 3:
        raise ValueError("three")
    return "x" * 600


PIPELINE = Pipeline("work", [work, work.with_options(name="again")])
TABLES = ("items", "results", "failures", "emissions", "events", "labels", "stages", "generations")


def left(bench: Bench) -> set[int]:
    """Numbers of runs of which any row is left."""
    tables = " UNION ".join(f"SELECT run FROM {table}" for table in (*TABLES, "runs", "pruned"))
    return {run for (run,) in bench.sql(tables)}


async def test_runs_beyond_a_number_go_with_all_their_rows(bench: Bench) -> None:
    for _ in range(5):
        await bench.finish(PIPELINE, range(1, 6), labels={"a": "b"})
    gone = await bench.runtime.prune(runs=2)
    assert [run.run for run in gone] == [1, 2, 3]
    assert left(bench) == {4, 5}
    assert await bench.runtime.prune(runs=2) == []


async def test_old_runs_go_by_themselves_and_what_has_not_ended_stays(new_bench: NewBench) -> None:
    async with new_bench(environ={"STAGERUN_KEEP_DAYS": "0.002"}) as bench:
        hang = Pipeline("hang", [stage(deadline=None, name="hang")(_forever)], deadline=None)
        running = await bench.runtime.start(hang, [1])
        await bench.finish(PIPELINE, range(5))
        await trio.sleep(150)
        await bench.finish(PIPELINE, range(5))
        await trio.sleep(100)
        assert left(bench) == {1, 3}
        assert running.status == "running"
        await running.cancel()
        await running.wait()


async def _forever(_item: Any) -> None:
    await trio.sleep_forever()


async def test_many_rows_go_in_many_small_transactions(bench: Bench) -> None:
    await bench.finish(PIPELINE, range(1, 3_000))
    await bench.finish(PIPELINE, [1])
    changes: list[int] = []
    connection = bench.store._connection
    assert connection is not None
    before = connection.total_changes

    def count(statement: str) -> None:
        nonlocal before
        if statement == "COMMIT":
            changes.append(connection.total_changes - before)
            before = connection.total_changes

    connection.set_trace_callback(count)
    await bench.runtime.prune(runs=1)
    connection.set_trace_callback(None)
    assert left(bench) == {2}
    assert max(changes) <= 1_010
    assert sum(changes) > 9_000


async def test_what_a_crash_left_half_pruned_is_swept_by_the_next_one(bench: Bench) -> None:
    for _ in range(2):
        await bench.finish(PIPELINE, range(5))
    connection = bench.store._connection
    assert connection is not None
    connection.execute("DELETE FROM runs WHERE run = 1")
    for table in ("labels", "stages", "generations"):
        connection.execute(f"DELETE FROM {table} WHERE run = 1")
    connection.execute("INSERT INTO pruned VALUES (1)")
    assert left(bench) == {1, 2}
    await bench.runtime.prune()
    assert left(bench) == {2}


async def test_a_pruned_run_frees_its_key_and_its_number_is_not_given_again(bench: Bench) -> None:
    first = await bench.finish(PIPELINE, [1], key="once")
    last = await bench.finish(PIPELINE, [1])
    await trio.sleep(1)
    await bench.runtime.prune(days=1e-9)
    again = await bench.finish(PIPELINE, [1], key="once")
    assert again.id not in {first.id, last.id}
    assert left(bench) == {2, 3}, "the newest run is kept until there is a newer one"


async def test_old_owners_without_runs_go(new_bench: NewBench) -> None:
    async with new_bench() as bench:
        connection = bench.store._connection
        assert connection is not None
        for owner in range(10, 20):
            connection.execute(
                "INSERT INTO owners (owner, id, pid, host, started_at, alive_at, tick_at, ended_at,"
                " ended_by, ended_cause) VALUES (?, ?, 1, 'h', 1, 1, 1, 2, ?, 'closed')",
                (owner, str(owner), owner),
            )
        await bench.runtime.prune(days=1)
        assert bench.sql("SELECT count(*) FROM owners WHERE ended_cause = 'closed'") == [(1,)]


async def test_events_of_a_run_have_caps_and_every_number_is_accounted_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_KEPT_LINES", 20)
    monkeypatch.setattr(ledgers, "_KEPT_PROGRESS", 10)

    @stage
    async def talk(number: int, ctx: Any) -> None:
        await trio.sleep(0.3)
        ctx.log.info("item %d", number)

    await bench.finish(Pipeline("talk", [talk]), range(100))
    kinds = dict(bench.sql("SELECT kind, count(*) FROM events GROUP BY kind"))
    assert kinds["log"] <= 41
    assert kinds["progress"] <= 21
    ((kept, last, given, pruned),) = bench.sql(
        "SELECT count(*), max(seq), events, events_pruned FROM events JOIN runs USING (run)"
    )
    assert kept + pruned == last == given


def test_what_is_kept_is_said_by_settings() -> None:
    assert keep_of({}) == Keep(10_000, 30.0)
    assert keep_of({"STAGERUN_KEEP_RUNS": "5", "STAGERUN_KEEP_DAYS": "0.5"}) == Keep(5, 0.5)
    assert keep_of({"STAGERUN_KEEP_RUNS": "off", "STAGERUN_KEEP_DAYS": "off"}) == Keep(None, None)


@pytest.mark.parametrize("text", ["", "0", "-1", "1e3", "five", "nan", "inf", "٣", "1_0", " 1"])
def test_a_bad_limit_is_refused_and_named(text: str) -> None:
    for variable in ("STAGERUN_KEEP_RUNS", "STAGERUN_KEEP_DAYS"):
        with pytest.raises(SettingError, match=variable):
            keep_of({variable: text})


async def test_a_runtime_with_a_bad_limit_does_not_open() -> None:
    env = virtual_env(environ={"STAGERUN_KEEP_RUNS": "many"})
    with pytest.raises(SettingError, match="STAGERUN_KEEP_RUNS must be a whole number"):
        async with open_runtime(store=InlineStore(), env=env):
            pass
