# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Stages in asyncio-only code: on a loop of their own, cut and counted like all others."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest
import trio

import stagerun
from stagerun import Pipeline, Retry, batch, open_runtime, stage
from stagerun.store.opening import read_only
from tests.conftest import listed, sums_hold

pytestmark = pytest.mark.real


@asynccontextmanager
async def opened(path):
    with trio.fail_after(30):
        async with open_runtime(path) as runtime:
            yield runtime
    connection = read_only(path)
    try:
        sums_hold(connection)
    finally:
        connection.close()


def causes(path):
    connection = read_only(path)
    try:
        return [row[0] for row in connection.execute("SELECT cause FROM failures ORDER BY item")]
    finally:
        connection.close()


async def test_all_calls_of_a_runtime_share_one_loop_that_is_not_the_store_s(tmp_path) -> None:
    loops = []

    @stage(mode="asyncio", workers=4)
    async def nap(number):
        loops.append((id(asyncio.get_running_loop()), threading.current_thread().name))
        await asyncio.sleep(0.001)
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        for _ in range(2):
            run = await runtime.start(Pipeline("nap", [nap]), list(range(20)))
            await run.wait()
            assert await listed(run.results()) == list(range(20))
    assert len(set(loops)) == 1
    assert loops[0][1] == "stagerun asyncio stages"


async def test_a_deadline_reaches_the_task_itself(tmp_path) -> None:
    told = []

    @stage(mode="asyncio", deadline=0.2)
    async def hang(number):
        if number == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append("cancelled")
                raise
        return number

    path = tmp_path / "runs.db"
    async with opened(path) as runtime:
        run = await runtime.start(Pipeline("hang", [hang]), [1, 2])
        result = await run.wait()
        assert (result.stages[0].timed_out, result.stages[0].ok) == (1, 1)
        assert (await run.document())["survivors"] == []
    assert told == ["cancelled"]
    assert causes(path) == ["deadline"]


async def test_a_cancellation_of_the_run_reaches_the_task(tmp_path) -> None:
    begun = threading.Event()

    @stage(mode="asyncio")
    async def hang(_number):
        begun.set()
        await asyncio.Event().wait()

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("hang", [hang]), [1])
        await trio.to_thread.run_sync(begun.wait, 10)
        await run.cancel()
        result = await run.wait()
        assert (result.status, result.stages[0].cancelled) == ("cancelled", 1)
        assert result.seconds < 4


async def test_ctx_works_under_asyncio(tmp_path) -> None:
    @stage(mode="asyncio")
    async def tell(number, ctx):
        await asyncio.sleep(0)
        stagerun.report("step", f"item {ctx.item}", number, 3)
        stagerun.heartbeat()
        ctx.log.info("hello from %s", number)
        return [ctx.item, ctx.attempt, ctx.params]

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("tell", [tell]), [1, 2, 3], params="p")
        await run.wait()
        assert await listed(run.results()) == [[1, 1, "p"], [2, 1, "p"], [3, 1, "p"]]
        document = await run.document()
    assert (document["step"], document["done"]) == ("step", 3)
    assert any("hello from 3" in line["message"] for line in document["recent_logs"])


async def test_a_polite_task_sees_its_token(tmp_path) -> None:
    begun = threading.Event()

    @stage(mode="asyncio")
    async def polite(_number, ctx):
        begun.set()
        while not ctx.token.cancelled:  # noqa: ASYNC110 - a token is looked at
            await asyncio.sleep(0.01)
        ctx.token.raise_if_cancelled()

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("polite", [polite]), [1])
        await trio.to_thread.run_sync(begun.wait, 10)
        await run.cancel()
        result = await run.wait()
        assert (result.status, result.stages[0].cancelled) == ("cancelled", 1)
        assert result.seconds < 4


async def test_whatever_a_task_raises_is_its_item_s_failure(tmp_path) -> None:
    kinds = [ValueError("v"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]

    @stage(mode="asyncio")
    async def pick(number):
        if number < len(kinds):
            raise kinds[number]
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("pick", [pick]), list(range(5)))
        result = await run.wait()
        assert (result.stages[0].ok, result.stages[0].failed) == (1, 4)


async def test_an_error_under_asyncio_can_be_tried_again(tmp_path) -> None:
    @stage(mode="asyncio", retry=Retry(attempts=2, base=0, on=OSError))
    async def once(number, ctx):
        if ctx.attempt == 1:
            raise ConnectionError("gone")
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("once", [once]), [1])
        assert (await run.wait()).stages[0].ok == 1


async def test_batches_work_under_asyncio(tmp_path) -> None:
    @batch(mode="asyncio", size=3, wait=0.01)
    async def halve(numbers):
        await asyncio.sleep(0)
        return [n // 2 if n % 2 == 0 else ValueError("odd") for n in numbers]

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("halve", [halve]), [1, 2, 3, 4])
        result = await run.wait()
        assert (result.stages[0].ok, result.stages[0].failed) == (2, 2)


async def test_a_task_that_swallows_its_cancellation_is_left_behind(tmp_path) -> None:
    enough = threading.Event()

    @stage(mode="asyncio", deadline=0.2)
    async def greedy(number):
        while number == 2 and not enough.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("greedy", [greedy], grace=0.3), [1, 2, 3])
        result = await run.wait()
        assert (result.stages[0].timed_out, result.stages[0].ok) == (1, 2)
        assert (await run.document())["survivors"] == ["asyncio task of stage greedy, item 2"]
        assert runtime.statistics().survivor_names == ("asyncio task of stage greedy, item 2",)
        enough.set()
        while runtime.statistics().survivors:  # noqa: ASYNC110 - it ends on another loop
            await trio.sleep(0.01)


async def test_a_task_that_turns_its_cancellation_into_an_error_has_timed_out(tmp_path) -> None:
    @stage(mode="asyncio", deadline=0.1)
    async def turn(_number):
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            raise ValueError("turned") from None

    path = tmp_path / "runs.db"
    async with opened(path) as runtime:
        run = await runtime.start(Pipeline("turn", [turn]), [1])
        assert (await run.wait()).stages[0].timed_out == 1
    assert causes(path) == ["deadline"]


async def test_a_blocked_loop_is_given_up_and_the_others_get_a_new_one(tmp_path) -> None:
    release = threading.Event()

    @stage(mode="asyncio", deadline=0.2)
    async def block(number):
        if number == 1:
            release.wait(20)
        await asyncio.sleep(0)
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("block", [block], grace=0.2), [1, 2, 3])
        result = await run.wait()
        assert (result.stages[0].timed_out, result.stages[0].ok) == (1, 2)
        release.set()


async def test_a_blocked_loop_does_not_hold_the_leaving(tmp_path) -> None:
    release, begun = threading.Event(), threading.Event()

    @stage(mode="asyncio")
    async def block(_number):
        begun.set()
        release.wait(20)

    began = time.monotonic()
    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("block", [block], grace=0.2), [1])
        await trio.to_thread.run_sync(begun.wait, 10)
    assert time.monotonic() - began < 8
    assert run.status == "interrupted"
    release.set()


async def test_a_task_without_a_sign_of_life_is_cut_and_one_that_beats_is_not(tmp_path) -> None:
    @stage(mode="asyncio", heartbeat_timeout=0.3)
    async def work(number, ctx):
        for _ in range(10):
            await asyncio.sleep(0.05)
            if number == 1:
                ctx.heartbeat()
        if number == 2:
            await asyncio.Event().wait()
        return number

    path = tmp_path / "runs.db"
    async with opened(path) as runtime:
        run = await runtime.start(Pipeline("work", [work]), [1, 2])
        await run.wait()
        assert await listed(run.results()) == [1]
    assert causes(path) == ["stalled"]
