# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Collect: groups of stored outcomes, in item order, with the least share of ok among them."""

import pytest
import trio

from stagerun import DROP, Pipeline, Retry, collect, stage
from tests.conftest import Bench, listed


@stage
async def check(number):
    if number % 10 == 7:
        raise ValueError("seven")
    if number % 10 == 8:
        return DROP
    return number


def summary(**options):
    @collect(name="summary", **options)
    async def gather(outcomes, ctx):
        found = [(o.item, o.outcome.label, o.value) async for o in outcomes]
        return [ctx.key, found]

    return gather


@pytest.mark.parametrize("count", [1, 5, 1001])
async def test_one_group_of_everything(bench: Bench, count: int) -> None:
    result = await bench.finish(Pipeline("all", [check, summary()]), list(range(count)))
    ((key, found),) = await listed(result.results())
    assert key is None
    assert [item for item, _, _ in found] == list(range(1, count + 1))
    assert [v for _, label, v in found if label == "ok"] == [
        n for n in range(count) if n % 10 not in (7, 8)
    ]


async def test_nothing_to_collect_is_no_group(bench: Bench) -> None:
    result = await bench.finish(Pipeline("none", [check, summary()]), [])
    assert result.status == "succeeded"
    assert result.stages[1].accepted == 0


async def test_groups_by_key_hold_failed_and_dropped_items_too(bench: Bench) -> None:
    pipeline = Pipeline("parity", [check, summary(by=lambda n: n % 2)])
    result = await bench.finish(pipeline, [1, 2, 7, 8])
    assert await listed(result.results()) == [
        [1, [[1, "ok", 1], [3, "failed", None]]],
        [0, [[2, "ok", 2], [4, "skipped", None]]],
    ]


async def test_a_failure_tells_its_cause_to_the_collector(bench: Bench) -> None:
    @collect()
    async def causes(outcomes):
        return [o.failure.cause.value async for o in outcomes if not o.ok]

    @stage(deadline=10)
    async def troubled(number):
        if number == 2:
            await trio.sleep_forever()
        if number == 3:
            raise ValueError
        return number

    result = await bench.finish(Pipeline("causes", [troubled, causes]), [1, 2, 3])
    assert await listed(result.results()) == [["deadline", "error"]]


async def test_a_group_with_too_few_successes_fails_alone(bench: Bench) -> None:
    calls = []

    @collect(by=lambda n: n // 10, least_ok=0.5, retry=Retry(attempts=3, base=1))
    async def half(outcomes, ctx):
        calls.append(ctx.key)
        return ctx.key

    result = await bench.finish(Pipeline("half", [check, half]), [7, 7, 1, 18, 11, 17])
    assert result.status == "succeeded"
    assert bench.causes(result, 1) == {1: "least_ok"}
    assert await listed(result.results()) == [1]
    assert calls == [1]
    assert bench.sql("SELECT attempts FROM items WHERE stage = 1 AND outcome = 1") == [(1,)]


async def test_a_group_of_skipped_items_alone_is_not_short_of_successes(bench: Bench) -> None:
    pipeline = Pipeline("skipped", [check, summary(least_ok=1.0)])
    result = await bench.finish(pipeline, [8, 18])
    assert result.status == "succeeded"
    assert result.stages[1].ok == 1


async def test_a_collector_need_not_read_to_the_end(bench: Bench) -> None:
    @collect()
    async def first(outcomes):
        return (await anext(outcomes)).value

    result = await bench.finish(Pipeline("first", [check, first]), list(range(2000)))
    assert await listed(result.results()) == [0]


async def test_a_group_function_that_raises_fails_the_item_and_nothing_else(bench: Bench) -> None:
    def by(number):
        if number == 2:
            raise KeyError(number)
        return 0

    result = await bench.finish(Pipeline("by", [check, summary(by=by)]), [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}
    assert result.stages[1].ok == 1


@pytest.mark.parametrize("number", [2, 7], ids=["of a result", "of a failed item"])
async def test_a_group_function_that_exits_fails_the_item_and_nothing_else(
    bench: Bench, number: int
) -> None:
    def by(value):
        if value == number:
            raise SystemExit
        return 0

    result = await bench.finish(Pipeline("by", [check, summary(by=by)]), [1, number, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}


async def test_many_groups(bench: Bench) -> None:
    pipeline = Pipeline("many", [check, summary(by=lambda n: n, workers=4)])
    result = await bench.finish(pipeline, [n * 10 for n in range(1200)])
    assert result.stages[1].ok == 1200
    assert len(await listed(result.results())) == 1200


async def test_a_collect_stage_after_a_one_to_many_stage_gets_the_children(bench: Bench) -> None:
    @stage
    async def unfold(number):
        for child in range(number):
            yield number * 10 + child

    pipeline = Pipeline("children", [unfold, summary(by=lambda n: n // 10)])
    result = await bench.finish(pipeline, [2, 3])
    assert result.status == "succeeded"
    groups = {key: [v for _, _, v in found] for key, found in await listed(result.results())}
    assert groups == {2: [20, 21], 3: [30, 31, 32]}
    assert (result.stages[1].accepted, result.stages[1].waiting) == (2, 0)


async def test_stages_behind_a_collect_stage_get_its_results(bench: Bench) -> None:
    @collect(by=lambda n: n % 3)
    async def total(outcomes):
        return sum([o.value async for o in outcomes if o.ok])

    @stage
    async def double(number):
        return 2 * number

    @collect()
    async def everything(outcomes):
        return [o.value async for o in outcomes]

    pipeline = Pipeline("tail", [check, total, double, everything])
    result = await bench.finish(pipeline, [1, 2, 3, 4, 5, 6])
    ((values),) = await listed(result.results())
    assert sorted(values) == [10, 14, 18]


async def test_a_collector_is_bound_by_its_deadline(bench: Bench) -> None:
    @collect(deadline=10)
    async def slow(outcomes):
        async for _ in outcomes:
            await trio.sleep(6)

    result = await bench.finish(Pipeline("slow", [check, slow]), [1, 2, 3])
    assert bench.outcomes(result, 1) == {1: "timed_out"}
    assert result.status == "failed"


async def test_a_collector_gets_outcomes_of_a_stage_that_failed_wholly(bench: Bench) -> None:
    pipeline = Pipeline("dark", [check, summary()])
    result = await bench.finish(pipeline, [7, 17])
    assert result.status == "failed"
    assert await listed(result.results()) == [[None, [[1, "failed", None], [2, "failed", None]]]]


async def test_large_values_come_back_whole(bench: Bench) -> None:
    @stage
    async def large(number):
        return "x" * number

    @collect()
    async def sizes(outcomes):
        return [len(o.value) async for o in outcomes]

    counts = [0, 511, 512, 513, 100_000]
    result = await bench.finish(Pipeline("large", [large, sizes]), counts)
    assert await listed(result.results()) == [counts]
