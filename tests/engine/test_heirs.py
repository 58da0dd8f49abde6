"""Runs that say ``on_interrupt="resume"`` go on in the next program that knows their pipeline."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, stage
from stagerun.store.inline import InlineStore
from tests.conftest import Bench, sums_hold

NewBench = Callable[..., AbstractAsyncContextManager[Bench]]
healed: set[str] = set()


@pytest.fixture(autouse=True)
def broken_world() -> None:
    healed.clear()


@stage(deadline=None)
async def work(n: int) -> int:
    if n == 2 and not healed:
        await trio.sleep_forever()
    return n


pipeline = Pipeline("p", [work], on_interrupt="resume", resumes=1)
HISTORY = "SELECT generation, opened_by, status, cause FROM generations ORDER BY generation"


async def interrupted(database: str, new_bench: NewBench, **options: Any) -> None:
    async with new_bench(store=InlineStore(database)) as bench:
        await bench.runtime.start(pipeline, [1, 2, 3], **options)
        await trio.sleep(1)


async def until(bench: Bench, sql: str) -> None:
    with trio.fail_after(100):
        while not bench.sql(sql):  # noqa: ASYNC110 - the database tells nobody; time is virtual
            await trio.sleep(1)


async def test_it_is_resumed_by_a_program_that_knows_the_pipeline(
    tmp_path: Path, new_bench: NewBench
) -> None:
    database = str(tmp_path / "runs.db")
    await interrupted(database, new_bench)
    healed.add("yes")
    async with new_bench(store=InlineStore(database), pipelines=[pipeline]) as bench:
        await until(bench, "SELECT 1 FROM generations WHERE status = 'succeeded'")
        sums_hold(bench.store._connection)
        assert bench.sql(HISTORY) == [
            (1, "start", "interrupted", "shutdown"),
            (2, "recovery", "succeeded", "completed"),
        ]
        assert bench.sql("SELECT resumes FROM runs") == [(1,)], "a shutdown is not counted"


async def test_nobody_else_resumes_it(tmp_path: Path, new_bench: NewBench) -> None:
    database = str(tmp_path / "runs.db")
    await interrupted(database, new_bench)
    other = Pipeline("other", [work])
    async with new_bench(store=InlineStore(database), pipelines=[other]) as bench:
        await trio.sleep(60)
        assert len(bench.sql(HISTORY)) == 1


async def test_a_run_that_cannot_go_on_is_told_of_once_and_left(
    tmp_path: Path, new_bench: NewBench
) -> None:
    database = str(tmp_path / "runs.db")
    await interrupted(database, new_bench)
    changed = Pipeline("p", [work.with_options(version=2)], on_interrupt="resume")
    async with new_bench(store=InlineStore(database), pipelines=[changed]) as bench:
        await trio.sleep(60)
        assert len(bench.sql(HISTORY)) == 1


async def test_starting_it_again_with_its_key_resumes_it(
    tmp_path: Path, new_bench: NewBench
) -> None:
    database = str(tmp_path / "runs.db")
    await interrupted(database, new_bench, key="once")
    healed.add("yes")
    async with new_bench(store=InlineStore(database)) as bench:
        run = await bench.runtime.start(pipeline, [7, 8], key="once")
        result = await run.wait()
        assert (result.status, result.generation) == ("succeeded", 2)
        assert [value async for value in result.results()] == [1, 2, 3]
