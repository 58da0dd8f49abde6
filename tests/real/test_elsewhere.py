"""Handles of runs that another owner conducts: two runtimes on one file, as two processes are."""

from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, RuntimeClosedError, UsageError, open_runtime, stage
from tests.conftest import listed

pytestmark = pytest.mark.real


@stage(workers=2)
async def work(n: int) -> int:
    if n == 0:
        await trio.sleep_forever()
    return n * 10


pipeline = Pipeline("elsewhere", [work], grace=0.5)


async def test_a_repeated_start_gives_the_run_of_the_other_process(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with trio.fail_after(30):
        async with open_runtime(path) as one, open_runtime(path) as two:
            first = await one.start(pipeline, [1, 2, 0], key="k")
            again = await two.start(pipeline, [7, 8, 9], key="k")
            assert (again.id, again.status, again.generation) == (first.id, "running", 1)
            await again.cancel("from the other side")
            theirs, ours = await again.wait(), await first.wait()
            assert theirs.status == ours.status == "cancelled"
            assert theirs.message == ours.message
            assert ours.message.startswith("from the other side (asked by pid ")
            assert theirs.stages == ours.stages
            assert await listed(theirs.results()) == [10, 20]
            assert (await again.why())["status"] == "cancelled"


async def test_any_run_is_found_by_its_identifier(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with trio.fail_after(30):
        async with open_runtime(path) as one, open_runtime(path, pipelines=[pipeline]) as two:
            run = await one.start(pipeline, [1, 2])
            await run.wait()
            found = await two.find(run.id[:12])
            assert (found.status, found.percent) == ("succeeded", 100.0)
            assert (await found.wait()).raise_for_status().generation == 1
            assert (await one.find(run.id)).id == run.id
            with pytest.raises(UsageError, match="there is no run"):
                await two.find("nothing")
            with pytest.raises(UsageError, match="nothing to resume"):
                await found.resume()


async def test_leaving_lets_go_of_a_run_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with trio.fail_after(30):
        async with open_runtime(path) as one:
            run = await one.start(pipeline, [1, 0])
            async with open_runtime(path) as two:
                found = await two.find(run.id)
                assert found.status == "running"
            with pytest.raises(RuntimeClosedError, match="was left before"):
                await found.wait()
            assert run.status == "running"
