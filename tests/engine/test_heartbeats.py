# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Signs of life: an attempt without one is cut, one that only takes long is left alone."""

from contextlib import suppress

import pytest
import trio

import stagerun
from stagerun import Pipeline, Retry, batch, stage
from tests.conftest import Bench, listed


async def beating(number, ctx):
    for _ in range(10):
        await trio.sleep(4)
        ctx.heartbeat()
    return number


async def beating_without_ctx(number):
    for _ in range(10):
        await trio.sleep(4)
        stagerun.heartbeat()
    return number


async def reporting(number, ctx):
    for step in range(10):
        await trio.sleep(4)
        ctx.report("step", done=step)
    return number


async def beating_in_a_child_task(number):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beating_without_ctx, number)
    return number


@pytest.mark.parametrize(
    "function", [beating, beating_without_ctx, reporting, beating_in_a_child_task]
)
async def test_a_slow_attempt_that_shows_life_is_left_alone(bench: Bench, function) -> None:
    slow = stage(heartbeat_timeout=5)(function)
    result = await bench.finish(Pipeline("slow", [slow]), [1, 2])
    assert await listed(result.results()) == [1, 2]


async def test_an_attempt_without_a_sign_of_life_is_cut_as_stalled(bench: Bench) -> None:
    cut_at = []

    @stage(workers=3, heartbeat_timeout=5, deadline=100)
    async def work(number, ctx):
        await trio.sleep(number)
        ctx.heartbeat()
        try:
            await trio.sleep_forever()
        finally:
            cut_at.append((number, trio.current_time()))

    began = trio.current_time()
    result = await bench.finish(Pipeline("work", [work]), [1, 2, 4])
    assert [(number, round(at - began, 3)) for number, at in cut_at] == [(1, 6), (2, 7), (4, 9)]
    assert set(bench.outcomes(result).values()) == {"timed_out"}
    assert set(bench.causes(result).values()) == {"stalled"}
    message = bench.failures(result)[0][2]
    assert message == "no sign of life for 5 s (heartbeat_timeout) in attempt 1"


async def test_a_stalled_attempt_is_tried_again_like_one_that_timed_out(bench: Bench) -> None:
    @stage(heartbeat_timeout=5, retry=Retry(attempts=2, base=0))
    async def once(number, ctx):
        if ctx.attempt == 1:
            await trio.sleep_forever()
        return number

    result = await bench.finish(Pipeline("once", [once]), [1])
    assert await listed(result.results()) == [1]


async def test_a_stalled_attempt_is_not_tried_again_when_timeouts_are_not(bench: Bench) -> None:
    @stage(heartbeat_timeout=5, retry=Retry(attempts=2, base=0, timeouts=False))
    async def never(_number):
        await trio.sleep_forever()

    result = await bench.finish(Pipeline("never", [never]), [1])
    assert bench.causes(result) == {1: "stalled"}


async def test_the_deadline_goes_before_the_sign_of_life(bench: Bench) -> None:
    @stage(heartbeat_timeout=5, deadline=5)
    async def never(_number):
        await trio.sleep_forever()

    result = await bench.finish(Pipeline("never", [never]), [1])
    assert bench.causes(result) == {1: "deadline"}


async def test_a_given_child_is_a_sign_of_life(bench: Bench) -> None:
    @stage(heartbeat_timeout=5)
    async def unfold(number):
        for child in range(5):
            await trio.sleep(4)
            yield [number, child]
        if number == 2:
            await trio.sleep_forever()

    result = await bench.finish(Pipeline("unfold", [unfold]), [1, 2])
    assert bench.outcomes(result) == {1: "ok", 2: "timed_out"}
    assert bench.causes(result) == {2: "stalled"}


async def test_a_stage_that_waits_for_room_behind_it_has_not_stalled(bench: Bench) -> None:
    @stage(heartbeat_timeout=5)
    async def unfold(_number):
        for child in range(3):
            yield child

    @stage(buffer=1)
    async def slow(number):
        await trio.sleep(50)
        return number

    result = await bench.finish(Pipeline("full", [unfold, slow]), [1])
    assert bench.outcomes(result) == {1: "ok"}
    assert await listed(result.results()) == [0, 1, 2]


async def test_a_batch_stalls_as_a_whole(bench: Bench) -> None:
    @batch(size=3, heartbeat_timeout=5, retry=Retry(attempts=2, base=0))
    async def work(numbers):
        await trio.sleep_forever()

    result = await bench.finish(Pipeline("work", [work]), [1, 2, 3])
    assert bench.causes(result) == dict.fromkeys([1, 2, 3], "stalled")


async def test_a_stalled_attempt_that_refuses_to_stop_is_left_behind(bench: Bench) -> None:
    @stage(heartbeat_timeout=5)
    async def greedy(number):
        if number == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(20)
        return number

    began = trio.current_time()
    result = await bench.finish(Pipeline("greedy", [greedy], grace=1), [1, 2])
    assert bench.outcomes(result) == {1: "timed_out", 2: "ok"}
    assert bench.causes(result) == {1: "stalled"}
    assert trio.current_time() - began < 8


async def test_a_result_before_the_deadline_counts_though_the_attempt_had_stalled(
    bench: Bench,
) -> None:
    @stage(heartbeat_timeout=5, deadline=20)
    async def swallow(number):
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
        return number

    result = await bench.finish(Pipeline("swallow", [swallow]), [1])
    assert await listed(result.results()) == [1]


# -- other modes in virtual time ----------------------------------------------------------------


@stage(mode="process")
def square(number):
    return number * number


@stage(mode="asyncio")
async def nap(number):
    import asyncio

    await asyncio.sleep(0)
    stagerun.report("napping")
    return number


@stage(mode="thread")
def double(number, ctx):
    return [number, ctx.item]


async def test_every_mode_is_called_in_place_in_virtual_time(bench: Bench) -> None:
    result = await bench.finish(Pipeline("modes", [square, nap, double]), [1, 2])
    assert await listed(result.results()) == [[1, 1], [4, 2]]


async def test_asyncio_under_trio_is_told_its_remedy(bench: Bench) -> None:
    import asyncio

    @stage
    async def foreign(kind):
        if kind == "sleep":
            await asyncio.sleep(1)
        if kind == "zero":
            await asyncio.sleep(0)
        if kind == "loop":
            asyncio.get_running_loop()
        if kind == "future":
            loop = asyncio.new_event_loop()
            try:
                await asyncio.Future(loop=loop)
            finally:
                loop.close()
        raise TypeError("of its own")

    kinds = ["sleep", "zero", "loop", "future", "own"]
    result = await bench.finish(Pipeline("foreign", [foreign]), kinds)
    messages = [message for _, _, message, _ in bench.failures(result)]
    assert all('mode="asyncio"' in message for message in messages[:4]), messages
    assert messages[4] == "of its own"


async def test_asyncio_in_a_generator_is_told_its_remedy_too(bench: Bench) -> None:
    import asyncio

    @stage
    async def foreign(number):
        yield number
        await asyncio.sleep(1)

    result = await bench.finish(Pipeline("foreign", [foreign]), [1])
    assert 'mode="asyncio"' in bench.failures(result)[0][2]
