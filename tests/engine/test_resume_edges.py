"""Resume where it is easily wrong: what no key names, what could not be stored, who cancelled."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, stage
from stagerun.store.inline import InlineStore
from tests.conftest import Bench, sums_hold

NewBench = Callable[..., AbstractAsyncContextManager[Bench]]
broken: set[int] = set()
calls: Counter[int] = Counter()


@pytest.fixture(autouse=True)
def world() -> None:
    broken.clear()
    calls.clear()


@stage(deadline=None, key=lambda n: 1 // (n - 100) and n % 10)
async def keyed(n: int) -> int:
    calls[n] += 1
    if n in broken:
        await trio.sleep_forever()
    return n


async def test_duplicates_and_items_without_a_key_are_not_counted_again(bench: Bench) -> None:
    broken.add(1)
    pipeline = Pipeline("p", [keyed], source=lambda: [1, 11, 100, 2, 21])
    run = await bench.runtime.start(pipeline)
    for _ in range(3):
        await trio.sleep(1)
        await run.cancel()
        result = await run.wait()
        sums_hold(bench.store._connection)
        assert result.stages[0].accepted <= 5
        run = await run.resume()
    broken.clear()
    result = await run.wait()
    assert result.status == "succeeded"
    (counts,) = result.stages
    assert (counts.accepted, counts.ok, counts.skipped, counts.failed) == (5, 2, 2, 1)


async def test_an_iterator_s_item_that_could_not_be_stored_fails_again(bench: Bench) -> None:
    @stage
    async def take(value: Any) -> int:
        return 1

    async def odd() -> AsyncIterator[Any]:
        yield 1
        yield object()
        yield 3

    pipeline = Pipeline("p", [take])
    first = await bench.finish(pipeline, odd())
    again = await bench.runtime.resume(first.id, pipeline, failed=True)
    result = await again.wait()
    sums_hold(bench.store._connection)
    (counts,) = result.stages
    assert (counts.accepted, counts.ok, counts.failed, counts.waiting) == (3, 2, 1, 0)


async def test_a_run_that_somebody_cancelled_is_not_resumed_by_itself(
    tmp_path: Path, new_bench: NewBench
) -> None:
    @stage(deadline=None)
    async def stubborn(n: int, ctx: Any) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        return n

    pipeline = Pipeline("p", [stubborn], on_interrupt="resume", grace=20)
    database = str(tmp_path / "runs.db")
    async with new_bench(store=InlineStore(database)) as bench:
        run = await bench.runtime.start(pipeline, [1], key="k")
        await trio.sleep(1)
        await run.cancel("enough")
        # As a kill within the grace leaves it, once somebody has settled the dead process's runs.
        connection = bench.store._connection
        assert connection is not None
        connection.execute(
            "UPDATE generations SET status = 'interrupted', cause = 'owner_died', message = 'died',"
            " finished_at = 1"
        )
        assert (await run.wait()).status == "interrupted"
    async with new_bench(store=InlineStore(database), pipelines=[pipeline]) as bench:
        await trio.sleep(30)
        assert bench.sql("SELECT generation FROM runs") == [(1,)]
        told = await bench.runtime.start(pipeline, [1], key="k")
        assert (await told.wait()).status == "interrupted"


async def test_cancelling_a_queued_run_is_on_disk_when_it_returns(bench: Bench) -> None:
    @stage(deadline=None)
    async def nap(n: int) -> int:
        await trio.sleep(5)
        return n

    pipeline = Pipeline("p", [nap])
    await bench.runtime.start(pipeline, [1], concurrency_key="a")
    second = await bench.runtime.start(pipeline, [1], concurrency_key="a")
    await trio.sleep(0.1)
    await second.cancel("not now")
    assert bench.sql("SELECT status FROM generations WHERE run = 2") == [("cancelled",)]
    assert bench.sql("SELECT status FROM stages WHERE run = 2") == [("skipped",)]


async def test_an_item_that_two_stages_had_in_hand_at_a_death_runs_once_in_each(
    bench: Bench,
) -> None:
    held, ran = trio.Event(), list[tuple[str, int]]()

    @stage(workers=3)
    async def first(number: int) -> int:
        if not held.is_set():
            await trio.sleep_forever()
        ran.append(("first", number))
        return number

    @stage(workers=3)
    async def second(number: int) -> int:
        ran.append(("second", number))
        return number

    pipeline = Pipeline("twice", [first, second], grace=1)
    run = await bench.runtime.start(pipeline, [1, 2, 3])
    await trio.sleep(1)
    await run.cancel()
    await run.wait()
    # A process that died just after an item had gone from one stage to the next, and before that
    # was on the disk, had it in hand in both.
    (number,) = bench.sql("SELECT run FROM runs")[0]
    bench.sql("DELETE FROM items WHERE run = ?", number)
    bench.sql("DELETE FROM failures WHERE run = ?", number)
    bench.sql("UPDATE stages SET cancelled = 0 WHERE run = ?", number)
    for index in (0, 1):
        bench.sql("INSERT INTO deaths VALUES (?, ?, 2, 1, 2, 1)", number, index)
    held.set()
    again = await run.resume()
    result = await again.wait()
    assert (result.status, result.message) == ("succeeded", "all work is done")
    assert sorted(ran) == sorted((name, n) for name in ("first", "second") for n in (1, 2, 3))


async def test_a_run_that_has_succeeded_and_goes_on_is_not_at_100_percent(bench: Bench) -> None:
    @stage
    async def picky(n: int) -> int:
        if n in broken:
            broken.discard(n)
            raise ValueError(n)
        await trio.sleep(5)
        return n

    broken.add(2)
    run = await bench.runtime.start(Pipeline("p", [picky]), [1, 2])
    assert (await run.wait()).status == "succeeded"
    assert run.percent == 100
    run = await run.resume(failed=True)
    await trio.sleep(1)
    document = await run.document()
    assert (run.percent, document["percent"], document["status"]) == (99.9, 99.9, "running")
    assert (await run.wait()).status == "succeeded"
    assert run.percent == 100
