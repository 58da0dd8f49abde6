"""How late a runtime's loop and its commits are, as they tell themselves."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage

pytestmark = pytest.mark.real


async def test_a_block_is_told_while_it_lasts_and_for_a_while_after(tmp_path: Path) -> None:
    seen: list[float] = []

    async with open_runtime(tmp_path / "runs.db") as runtime:

        @stage
        async def block(seconds: float) -> None:
            await trio.to_thread.run_sync(lambda: None)  # the loop has ticked
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                seen.append(runtime.statistics().loop_lag)

        run = await runtime.start(Pipeline("blocks", [block]), [0.6])
        await run.wait()
        assert seen[-1] > 0.2  # its next tick was due 0.25 s after the last one at most
        assert seen[0] < seen[-1]
        await trio.sleep(0.3)  # another tick
        assert runtime.statistics().loop_lag >= seen[-1] - 0.01


async def test_a_commit_that_waits_for_a_lock_tells_for_how_long(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with trio.fail_after(10):
                while runtime.health().commit_lag < 0.3:  # noqa: ASYNC110 - each second there is one
                    await trio.sleep(0.01)
            other.execute("COMMIT")
        with trio.fail_after(10):
            while runtime.health().commit_lag:  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.01)
