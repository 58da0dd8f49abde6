"""Runs that share places by a concurrency key: the others wait in line, and never for ever."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, UsageError, stage
from stagerun.store.inline import InlineStore
from tests.conftest import Bench

_SUCCEEDED = "SELECT 1 FROM generations WHERE status = 'succeeded'"
NewBench = Callable[..., AbstractAsyncContextManager[Bench]]


@stage(deadline=None)
async def sleep(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


pipeline = Pipeline("nap", [sleep], deadline=100)


async def test_at_most_so_many_runs_of_a_key_are_under_way(bench: Bench) -> None:
    runs = [
        await bench.runtime.start(pipeline, [10], concurrency_key="a", concurrency=2)
        for _ in range(5)
    ]
    other = await bench.runtime.start(pipeline, [10], concurrency_key="b")
    await trio.sleep(1)
    assert [run.status for run in runs] == ["running"] * 2 + ["queued"] * 3
    assert other.status == "running"
    ended = []
    for run in runs:
        assert (await run.wait()).status == "succeeded"
        ended.append(int(trio.current_time()) // 10)
    assert ended == [1, 1, 2, 2, 3]


async def test_a_queued_run_is_cancelled_before_it_starts(bench: Bench) -> None:
    first = await bench.runtime.start(pipeline, [10], concurrency_key="a")
    second = await bench.runtime.start(pipeline, [10], concurrency_key="a")
    await trio.sleep(1)
    await second.cancel("not needed")
    result = await second.wait()
    assert (result.status, result.cause, result.message) == ("cancelled", "requested", "not needed")
    assert trio.current_time() < 2
    assert (await first.wait()).status == "succeeded"
    document = await second.document()
    assert (document["status"], document["started_at"]) == ("cancelled", None)


async def test_a_queued_run_waits_no_longer_than_its_deadline(bench: Bench) -> None:
    patient = pipeline.with_options(deadline=1000)
    first = await bench.runtime.start(patient, [500], concurrency_key="a")
    second = await bench.runtime.start(pipeline, [10], concurrency_key="a")
    result = await second.wait()
    assert (result.status, result.cause) == ("timed_out", "run_deadline")
    assert "waited 100 s for its turn (key a)" in result.message
    assert 100 <= trio.current_time() < 101
    await first.cancel()


async def test_waiting_is_not_counted_against_the_deadline_of_the_work(bench: Bench) -> None:
    first = await bench.runtime.start(pipeline, [80], concurrency_key="a")
    second = await bench.runtime.start(pipeline, [80], concurrency_key="a")
    assert (await first.wait()).status == "succeeded"
    assert (await second.wait()).status == "succeeded"


async def test_a_queued_run_of_a_program_that_stopped_is_inherited(
    tmp_path: Path, new_bench: NewBench
) -> None:
    database = str(tmp_path / "runs.db")
    async with new_bench(store=InlineStore(database)) as bench:
        first = await bench.runtime.start(pipeline, [10], concurrency_key="a")
        second = await bench.runtime.start(pipeline, [10, 11], concurrency_key="a")
        await trio.sleep(1)
    assert first.status == second.status == "interrupted"
    async with new_bench(store=InlineStore(database), pipelines=[pipeline]) as bench:
        with trio.fail_after(60):
            while not bench.sql(_SUCCEEDED):  # noqa: ASYNC110 - the database tells nobody
                await trio.sleep(1)
        rows = bench.sql(
            "SELECT r.id, g.generation, g.status FROM runs r JOIN generations g USING (run)"
            " ORDER BY r.run, g.generation"
        )
    assert rows == [
        (first.id, 1, "interrupted"),  # it had begun, and its pipeline does not say "resume"
        (second.id, 1, "interrupted"),
        (second.id, 2, "succeeded"),
    ]


async def test_the_places_are_checked(bench: Bench) -> None:
    for bad in (0, -1, True, "2"):
        with pytest.raises(UsageError, match="concurrency must be a whole number"):
            await bench.runtime.start(pipeline, [1], concurrency_key="a", concurrency=bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="concurrency_key must be text"):
        await bench.runtime.start(pipeline, [1], concurrency_key=7)  # type: ignore[arg-type]
