"""A stage that computes in small steps keeps nothing from the disk."""

import time
from pathlib import Path

import trio

from stagerun import Pipeline, open_runtime, stage


async def test_a_stage_that_computes_and_lets_others_run_does_not_starve_the_store(
    tmp_path: Path,
) -> None:
    over, begun = False, trio.Event()

    @stage(deadline=None)
    async def compute(_: int) -> None:
        begun.set()
        while not over:
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    @stage
    async def double(n: int) -> int:
        return 2 * n

    async with open_runtime(tmp_path / "runs.db") as runtime:
        busy = await runtime.start(Pipeline("busy", [compute], deadline=None), [1])
        with trio.fail_after(30):
            await begun.wait()
            for _ in range(3):  # each start and each ending is a commit that somebody waits for
                run = await runtime.start(Pipeline("beside", [double]), range(100))
                assert (await run.wait()).status == "succeeded"
        over = True
        assert (await busy.wait()).status == "succeeded"
