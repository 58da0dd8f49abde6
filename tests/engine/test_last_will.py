"""Runs that their loop does not end, and clocks that jump: told by monotonic time alone."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from stagerun import Pipeline, stage
from tests.conftest import EPOCH, Bench

NewBench = Callable[..., AbstractAsyncContextManager[Bench]]
HOURS = 3600.0


@stage(deadline=None)
async def work(item: int) -> int:
    await trio.sleep(item)
    return item


async def test_a_run_far_past_its_deadline_is_ended_by_the_stores_side(new_bench: NewBench) -> None:
    ahead = 0.0
    async with new_bench(monotonic=lambda: trio.current_time() + ahead) as bench:
        pipeline = Pipeline("late", [work], deadline=100, grace=2)
        run = await bench.runtime.start(pipeline, [1, 50])
        await trio.sleep(5)
        ahead = 200.0  # as if the loop had not noticed for so long
        result = await run.wait()
        assert (result.status, result.cause) == ("timed_out", "run_deadline")
        assert "the loop did not end it" in result.message
        assert trio.current_time() < 50, "its work was stopped"
        document = await run.document()
        assert (document["status"], document["message"]) == ("timed_out", result.message)
        assert document["stages"][0]["status"] == "timed_out"
        assert (document["stages"][0]["ok"], document["stages"][0]["in_flight"]) == (1, 0)
        assert bench.sql("SELECT count(*) FROM events WHERE kind = 'run'") == [(1,)]


async def test_a_run_that_ends_in_its_grace_ends_by_itself(new_bench: NewBench) -> None:
    async with new_bench() as bench:
        run = await bench.runtime.start(Pipeline("late", [work], deadline=10, grace=2), [50])
        result = await run.wait()
        assert (result.status, result.message) == ("timed_out", "the run's deadline of 10 s passed")


async def test_a_wall_clock_that_jumps_ends_no_run_and_the_stored_deadline_follows(
    new_bench: NewBench,
) -> None:
    jump = 0.0
    async with new_bench(wall=lambda: EPOCH + trio.current_time() + jump) as bench:
        run = await bench.runtime.start(Pipeline("steady", [work], deadline=100), [60])

        def stored() -> Any:
            ((at,),) = bench.sql("SELECT deadline_at FROM generations")
            return at / 1e6 - EPOCH

        began = trio.current_time()
        for jump in (0.0, 10 * HOURS, -10 * HOURS, 0.0):
            await trio.sleep(5)
            assert abs(stored() - (began + 100 + jump)) < 1
        assert (await run.wait()).status == "succeeded"


async def test_a_run_that_somebody_else_has_ended_is_noticed_though_it_writes_nothing(
    new_bench: NewBench,
) -> None:
    async with new_bench() as bench:
        run = await bench.runtime.start(Pipeline("idle", [work], deadline=None), [1000])
        await trio.sleep(5)
        bench.sql(
            "UPDATE generations SET status = 'timed_out', cause = 'run_deadline', message = 'x',"
            " finished_at = 1"
        )
        with trio.fail_after(2):
            await run._actor.done.wait()
