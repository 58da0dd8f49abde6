"""What a runtime does when another process has ended its owner, or one of its runs."""

from typing import Any

import trio

from stagerun import Pipeline, stage
from tests.conftest import Bench


async def test_a_start_under_an_ended_owner_waits_until_it_is_registered_anew(
    bench: Bench,
) -> None:
    @stage
    async def work(n: int) -> int:
        return n

    assert bench.store._connection is not None
    bench.store._connection.execute(
        "UPDATE owners SET ended_at = 1, ended_by = owner, ended_cause = 'lease'"
    )
    with trio.fail_after(30):
        result = await (await bench.runtime.start(Pipeline("p", [work]), [1])).wait()
    assert result.status == "succeeded"
    assert bench.sql("SELECT owner FROM generations") == [(2,)]
    assert bench.sql("SELECT count(*) FROM owners") == [(2,)], "however many beats were refused"


async def test_a_resume_waits_until_the_generation_that_others_ended_has_stopped(
    bench: Bench,
) -> None:
    under_way: list[int] = []
    most = 0

    @stage(deadline=None)
    async def stubborn(n: int, ctx: Any) -> int:
        nonlocal most
        under_way.append(n)
        most = max(most, len(under_way))
        with trio.CancelScope(shield=True):
            await trio.sleep(6)
        under_way.remove(n)
        return n

    pipeline = Pipeline("p", [stubborn], grace=10)
    run = await bench.runtime.start(pipeline, [1])
    await trio.sleep(1)
    assert bench.store._connection is not None
    bench.store._connection.execute(
        "UPDATE generations SET status = 'interrupted', cause = 'owner_died', message = 'died',"
        " finished_at = 1"
    )
    bench.store._connection.execute("UPDATE stages SET in_flight = 0")
    with trio.fail_after(60):
        again = await bench.runtime.resume(run.id, pipeline)
        assert bench.runtime.statistics().runs == 1
        assert (await run.wait()).status == "interrupted"
        assert (await again.wait()).status == "succeeded"
    assert most == 1, "both generations ran the item at once"
