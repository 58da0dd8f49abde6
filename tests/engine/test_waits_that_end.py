"""Waits that must end, and work that must not go on: found once, kept for ever."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, Restart, Retry, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.store.inline import InlineStore
from tests.conftest import Bench, listed, virtual_env


@stage
async def same(item: object) -> object:
    return item


async def test_stages_may_need_longer_than_the_source_s_deadline(bench: Bench) -> None:
    @stage
    async def slow(item: int) -> int:
        await trio.sleep(100)
        return item

    async def source() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    pipeline = Pipeline("slow", [slow], source_deadline=1)
    for items in (source, lambda: range(3), iter(range(3)), source()):
        assert (await bench.finish(pipeline, items)).stages[0].ok == 3


@pytest.mark.parametrize("after", [0.0, 0.0005])
async def test_opening_can_be_cancelled(after: float) -> None:
    with trio.move_on_after(after):
        async with open_runtime(store=InlineStore(), env=Env(environ={})):
            await trio.sleep_forever()


async def test_two_starts_with_one_key_at_once_are_one_run(bench: Bench) -> None:
    ids = []

    async def start() -> None:
        run = await bench.runtime.start(Pipeline("same", [same]), [1], key="once")
        ids.append(run.id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        nursery.start_soon(start)
    assert len(set(ids)) == 1


async def test_the_disk_knows_what_is_under_way(bench: Bench) -> None:
    @stage(workers=4)
    async def hang(_item: int) -> None:
        await trio.sleep_forever()

    run = await bench.runtime.start(Pipeline("hang", [hang]), list(range(6)))
    await trio.sleep(3)
    ((under_way,),) = bench.sql("SELECT in_flight FROM stages")
    assert (under_way, run.counts[0].in_flight, run.counts[0].waiting) == (4, 4, 2)
    await run.cancel()


async def test_a_generator_that_swallows_its_cut_gives_no_child_beside_its_retry(
    bench: Bench,
) -> None:
    attempts = 0

    @stage(deadline=60, retry=Retry(attempts=2, attempt_deadline=10, base=0))
    async def unfold(item: int) -> AsyncIterator[tuple[int, int]]:
        nonlocal attempts
        attempts += 1
        first = attempts == 1
        for number in range(4):
            yield (item, number)
            if first and number == 1:
                with trio.CancelScope(shield=True):
                    await trio.sleep(17)

    result = await bench.finish(Pipeline("twins", [unfold, same], grace=1), [1])
    await trio.sleep(60)
    assert await listed(result.results()) == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert result.stages[1].accepted == 4


async def test_a_source_that_was_left_behind_feeds_nothing_more(bench: Bench) -> None:
    seen = []

    @stage
    async def see(item: int) -> None:
        seen.append(item)

    async def source() -> AsyncIterator[int]:
        yield 1
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        yield 2

    result = await bench.finish(Pipeline("late", [see], source_deadline=10, grace=1), source)
    await trio.sleep(100)
    assert (result.cause, seen) == ("source_timeout", [1])


async def test_a_resource_that_does_not_close_is_left_behind_and_named(bench: Bench) -> None:
    @asynccontextmanager
    async def stubborn() -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

    work = same.with_options(resource=stubborn, restart=Restart(deadline=10))
    run = await bench.runtime.start(Pipeline("stubborn", [work], grace=5, deadline=None), [1])
    with trio.fail_after(30):
        result = await run.wait()
    assert result.status == "succeeded"
    assert (await run.document())["survivors"] == ["task of stage same"]


async def test_a_stage_that_computes_lets_the_others_run(bench: Bench) -> None:
    clock = [0.0]

    @stage
    async def compute(item: int) -> int:
        clock[0] += 1
        return item

    beats: list[float] = []

    async def beat() -> None:
        while len(beats) < 50:
            beats.append(clock[0])
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        await bench.finish(Pipeline("compute", [compute]), lambda: range(2000))
    longest = max(b - a for a, b in pairwise(beats))
    assert longest <= 3 * 64


async def test_a_worker_that_rests_is_not_cancelled_with_the_program(
    tmp_path: Path,
) -> None:
    """It is the runtime that ends it; else its run would fail for a defect."""
    path = tmp_path / "runs.db"

    async def one_and_no_more() -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()

    with trio.CancelScope() as program:
        async with open_runtime(store=InlineStore(str(path)), env=virtual_env()) as runtime:
            run = await runtime.start(Pipeline("waits", [same], source=one_and_no_more))
            while not run.counts[0].ok:  # noqa: ASYNC110 - in virtual time
                await trio.sleep(0.01)
            program.cancel()
            await trio.lowlevel.checkpoint()
    with closing(sqlite3.connect(path)) as connection:
        (status,) = connection.execute("SELECT status FROM generations").fetchone()
    assert status == "interrupted"
