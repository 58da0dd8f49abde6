"""A stage that computes in small steps keeps nothing from the disk."""

import math
import time
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.engine.giving_way import SHORT_TURN, TURN, GivingWay


async def test_a_stage_that_computes_and_lets_others_run_does_not_starve_the_store(
    tmp_path: Path,
) -> None:
    over, begun, all_begun = False, list[int](), trio.Event()

    @stage(deadline=None, workers=4)
    async def compute(number: int) -> None:
        begun.append(number)
        if len(begun) == 4:
            all_begun.set()
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
            await all_begun.wait()
            for _ in range(20):  # each start and each ending is a commit that somebody waits for
                run = await runtime.start(Pipeline("beside", [double]), range(100))
                assert (await run.wait()).status == "succeeded"
        over = True
        assert (await busy.wait()).status == "succeeded"


@pytest.mark.parametrize(("turn", "pauses"), [(math.inf, 0), (TURN, 19), (SHORT_TURN, 99)])
def test_a_busy_program_pauses_as_often_as_the_store_wants_it(
    monkeypatch: pytest.MonkeyPatch, turn: float, pauses: int
) -> None:
    now, slept = [0.0], list[float]()
    monkeypatch.setattr(time, "sleep", slept.append)
    gives_way = GivingWay(Env(monotonic=lambda: now[0]), lambda: turn)
    for _ in range(100):
        gives_way.before_io_wait(0)
        gives_way.after_io_wait(0)
        now[0] += 0.00101
    assert len(slept) == pauses
