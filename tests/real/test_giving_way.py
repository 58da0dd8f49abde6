"""A stage that computes in small steps keeps nothing from the disk."""

import time
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.engine.giving_way import GivingWay


async def test_a_stage_that_computes_and_lets_others_run_does_not_starve_the_store(
    tmp_path: Path,
) -> None:
    over, begun = False, list[int]()

    @stage(deadline=None, workers=4)
    async def compute(number: int) -> None:
        begun.append(number)
        while not over:
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    @stage
    async def double(n: int) -> int:
        return 2 * n

    async with open_runtime(tmp_path / "runs.db") as runtime:
        busy = await runtime.start(Pipeline("busy", [compute], deadline=None), range(4))
        with trio.fail_after(60):
            while len(begun) < 4:
                await trio.sleep(0.01)
            for _ in range(20):  # each start and each ending is a commit that somebody waits for
                run = await runtime.start(Pipeline("beside", [double]), range(100))
                assert (await run.wait()).status == "succeeded"
        over = True
        assert (await busy.wait()).status == "succeeded"


@pytest.mark.parametrize(("idle", "pauses"), [(True, 0), (False, 19)])
def test_a_busy_program_loses_nothing_to_an_idle_runtime(
    monkeypatch: pytest.MonkeyPatch, idle: bool, pauses: int
) -> None:
    now, slept = [0.0], list[float]()
    monkeypatch.setattr(time, "sleep", slept.append)
    gives_way = GivingWay(Env(monotonic=lambda: now[0]), lambda: idle)
    for _ in range(100):
        gives_way.before_io_wait(0)
        gives_way.after_io_wait(0)
        now[0] += 0.00101
    assert len(slept) == pauses
