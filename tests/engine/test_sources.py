# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Sources without threads: lists, functions and async iterators. Others are in tests/real."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from stagerun import Context, Pipeline, UsageError, stage
from tests.conftest import Bench, listed, same_repr


@stage
async def same(value):
    return value


def pipeline(**options):
    return Pipeline("sources", [same], **options)


async def three():
    for number in (1, 2, 3):
        yield number


async def with_params(params):
    for number in range(params["count"]):
        yield number


async def a_list():
    return [1, 2, 3]


@pytest.mark.parametrize(
    ("source", "params", "expected"),
    [
        ([1, 2, 3], None, [1, 2, 3]),
        ((1, 2, 3), None, [1, 2, 3]),
        (range(3), None, [0, 1, 2]),
        (three, None, [1, 2, 3]),
        (three(), None, [1, 2, 3]),
        (with_params, {"count": 2}, [0, 1]),
        (a_list, None, [1, 2, 3]),
        (list, None, []),
        (lambda params: params, [7, 8], [7, 8]),
    ],
    ids=["list", "tuple", "range", "function", "iterator", "params", "coroutine", "none", "lambda"],
)
async def test_items_come_from_many_kinds_of_source(bench: Bench, source, params, expected) -> None:
    result = await bench.finish(pipeline(), source, params=params)
    assert await listed(result.results()) == expected
    result = await bench.finish(pipeline(), [1])
    assert result.status == "succeeded"


async def test_a_pipeline_s_own_source_can_be_used_again(bench: Bench) -> None:
    for _ in range(2):
        result = await bench.finish(pipeline(source=three))
        assert await listed(result.results()) == [1, 2, 3]


@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}, 5, object()], ids=same_repr)
async def test_what_is_no_source_is_refused(bench: Bench, items) -> None:
    with pytest.raises(UsageError):
        await bench.runtime.start(pipeline(), items)
    assert bench.sql("SELECT count(*) FROM runs") == [(0,)]


async def test_a_pipeline_without_a_source_needs_items(bench: Bench) -> None:
    with pytest.raises(UsageError, match="give items"):
        await bench.runtime.start(pipeline())


async def test_an_item_of_a_list_that_cannot_be_stored_is_named(bench: Bench) -> None:
    with pytest.raises(UsageError, match="item 2"):
        await bench.runtime.start(pipeline(), [1, object(), 3])
    assert bench.sql("SELECT status, cause FROM generations") == [("failed", "source_error")]


@pytest.mark.parametrize("kind", ["function", "iterator"])
@pytest.mark.parametrize("given", [0, 2, 100])
async def test_a_source_that_raises_fails_the_run_after_what_it_gave_is_done(
    bench: Bench, kind: str, given: int
) -> None:
    async def broken():
        for number in range(given):
            yield number
        raise OSError("the catalogue is gone")

    result = await bench.finish(pipeline(), broken if kind == "function" else broken())
    assert (result.status, result.cause) == ("failed", "source_error")
    assert "the catalogue is gone" in result.message
    assert (result.stages[0].ok, result.stages[0].waiting) == (given, 0)


def _exits():
    raise SystemExit(1)


def _raises():
    raise ValueError("at once")


@pytest.mark.parametrize("source", [_exits, _raises, lambda: 5, lambda: None])
async def test_a_source_function_that_fails_at_once_fails_the_run_alone(
    bench: Bench, source
) -> None:
    other = await bench.runtime.start(pipeline(), three)
    result = await bench.finish(pipeline(), source)
    assert (result.status, result.cause) == ("failed", "source_error")
    assert (await other.wait()).status == "succeeded"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, ExceptionGroup])
async def test_whatever_a_source_raises_fails_its_run_alone(bench: Bench, error) -> None:
    async def broken():
        yield 1
        raise error("x", [ValueError()]) if error is ExceptionGroup else error

    other = await bench.runtime.start(pipeline(), three)
    result = await bench.finish(pipeline(), broken)
    assert (result.status, result.cause) == ("failed", "source_error")
    assert (await other.wait()).status == "succeeded"


async def test_a_source_that_hangs_midway_fails_the_run_at_its_deadline(bench: Bench) -> None:
    async def hanging():
        yield 1
        await trio.sleep_forever()

    result = await bench.finish(pipeline(source_deadline=10), hanging)
    assert (result.status, result.cause) == ("failed", "source_timeout")
    assert result.seconds == pytest.approx(10)
    assert result.stages[0].ok == 1


async def test_a_source_function_that_hangs_before_its_first_item_is_bounded_too(
    bench: Bench,
) -> None:
    async def hanging():
        await trio.sleep_forever()

    result = await bench.finish(pipeline(source_deadline=10), hanging)
    assert (result.status, result.cause) == ("failed", "source_timeout")
    assert result.seconds == pytest.approx(10)


@pytest.mark.parametrize("by", ["source deadline", "run deadline", "cancel"])
async def test_a_source_that_refuses_to_stop_does_not_hold_its_run(bench: Bench, by: str) -> None:
    release = trio.Event()

    async def stubborn():
        yield 1
        with trio.CancelScope(shield=True):
            await release.wait()

    options = {"source deadline": {"source_deadline": 10}, "run deadline": {"deadline": 10}}
    run = await bench.runtime.start(pipeline(**options.get(by, {})), stubborn)
    await trio.sleep(10)
    if by == "cancel":
        await run.cancel()
    with trio.move_on_after(60):
        await run.wait()
    status = run.status
    release.set()
    expected = {"source deadline": "failed", "run deadline": "timed_out", "cancel": "cancelled"}
    assert status == expected[by]


@pytest.mark.parametrize("by", ["its error", "cancel", "source deadline", "run deadline"])
async def test_a_source_s_generator_is_closed_when_its_run_ends(bench: Bench, by: str) -> None:
    closed = []

    async def source():
        try:
            yield 1
            yield object() if by == "its error" else 2
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            closed.append(True)

    options = {"source deadline": {"source_deadline": 10}, "run deadline": {"deadline": 10}}
    run = await bench.runtime.start(pipeline(**options.get(by, {})), source())
    await trio.sleep(5)
    if by == "cancel":
        await run.cancel()
    await run.wait()
    gc.collect()
    assert closed == [True]


async def test_an_iterator_s_item_that_cannot_be_stored_fails_alone(bench: Bench) -> None:
    async def odd():
        yield 1
        yield object()
        yield 3

    result = await bench.finish(pipeline(), odd())
    assert result.status == "succeeded"
    assert (result.stages[0].ok, result.stages[0].failed) == (2, 1)
    assert [cause for _, cause, _, _ in bench.failures(result)] == ["input"]


async def test_an_item_of_the_wrong_type_fails_alone_wherever_it_comes_from(bench: Bench) -> None:
    @stage
    async def half(number: int):
        return number // 2

    async def source():
        for value in (2, "text", 6):
            yield value

    for items in ([2, "text", 6], source(), source):
        result = await bench.finish(Pipeline("typed", [half]), items)
        assert (result.status, bench.outcomes(result)) == (
            "succeeded",
            {1: "ok", 2: "failed", 3: "ok"},
        )


async def test_a_slow_first_stage_holds_back_its_source(bench: Bench) -> None:
    given = []

    async def source():
        for number in range(100):
            given.append(number)
            yield number

    @stage(buffer=5)
    async def slow(number):
        await trio.sleep(1)
        if number == 10:
            assert len(given) <= 20
        return number

    result = await bench.finish(Pipeline("pressure", [slow]), source)
    assert result.stages[0].ok == 100


async def test_a_key_makes_repeated_starts_one(bench: Bench) -> None:
    first = await bench.runtime.start(pipeline(), [1, 2], key="once")
    again = await bench.runtime.start(pipeline(), [1, 2], key="once")
    assert first.id == again.id
    await first.wait()
    later = await bench.runtime.start(pipeline(), [1, 2], key="once")
    assert later.id == first.id
    assert (await later.wait()).status == "succeeded"


async def test_percent_never_goes_back_and_is_100_only_at_success(bench: Bench) -> None:
    @stage
    async def unfold(number):
        await trio.sleep(1)
        for child in range(number):
            yield child

    @stage
    async def nap(number):
        await trio.sleep(0.1)
        return number

    run = await bench.runtime.start(Pipeline("percent", [unfold, nap]), [1, 30, 2, 60, 1])
    seen: list[float] = []
    while run.status == "running":
        assert run.percent is not None
        seen.append(run.percent)
        await trio.sleep(0.25)
    assert seen == sorted(seen)
    assert max(seen) < 100
    assert run.percent == 100


async def test_what_a_source_has_opened_stays_open_until_the_stages_have_stopped(
    bench: Bench,
) -> None:
    said = []

    @asynccontextmanager
    async def source() -> AsyncIterator[list[int]]:
        async with trio.open_nursery():  # as a service of one's own has it
            yield [1, 2]
        said.append("source left")

    @stage(workers=2)
    async def polite(item: int, ctx: Context) -> None:
        await ctx.token.wait()
        await trio.sleep(item)
        said.append(f"item {item} stopped")

    run = await bench.runtime.start(Pipeline("p", [polite], source=source, grace=5))
    await trio.sleep(1)
    await run.cancel()
    result = await run.wait()
    assert result.status == "cancelled"
    assert said == ["item 1 stopped", "item 2 stopped", "source left"]


async def test_a_source_that_takes_its_time_to_close_is_cut_at_the_end_of_the_grace(
    bench: Bench,
) -> None:
    said = []

    @asynccontextmanager
    async def source() -> AsyncIterator[list[int]]:
        yield [1]
        try:
            await trio.sleep_forever()
        finally:
            said.append(trio.current_time())

    @stage
    async def waits(_item: int) -> None:
        await trio.sleep_forever()

    run = await bench.runtime.start(Pipeline("p", [waits], source=source, grace=5))
    await trio.sleep(1)
    asked = trio.current_time()
    await run.cancel()
    assert (await run.wait()).status == "cancelled"
    assert said == [pytest.approx(asked + 5)]
    assert trio.current_time() <= asked + 5.5
