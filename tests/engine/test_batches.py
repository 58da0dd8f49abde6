# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Batches: as many results as items, each a value, DROP or an exception."""

import pytest
import trio

from stagerun import DROP, Pipeline, PolicyError, Retry, batch, stage
from tests.conftest import Bench, listed, same_repr


def recording(sizes, **options):
    @batch(name="work", **options)
    async def work(numbers):
        sizes.append(len(numbers))
        return [-n for n in numbers]

    return work


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [1]), (10, [4, 4, 2]), (12, [4] * 3)])
async def test_batches_are_full_but_for_the_last(bench: Bench, count: int, expected) -> None:
    sizes: list[int] = []
    pipeline = Pipeline("batches", [recording(sizes, size=4, wait=100)])
    result = await bench.finish(pipeline, list(range(count)))
    assert result.status == "succeeded"
    assert sizes == expected
    assert await listed(result.results()) == [-n for n in range(count)]
    assert result.seconds < 1


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_thousand_items_in_batches(bench: Bench, workers: int) -> None:
    sizes: list[int] = []
    work = recording(sizes, size=16, workers=workers, buffer=3)

    @stage(workers=4)
    async def before(number):
        return number

    result = await bench.finish(Pipeline("batches", [before, work]), list(range(1000)))
    assert await listed(result.results()) == [-n for n in range(1000)]
    assert sum(sizes) == 1000
    assert max(sizes) == 16


async def test_an_incomplete_batch_is_taken_when_its_window_closes(bench: Bench) -> None:
    times = []

    @batch(size=10, wait=2)
    async def work(numbers):
        times.append((trio.current_time() - began, list(numbers)))
        return numbers

    async def source():
        for number in range(4):
            yield number
            await trio.sleep(1.5)
        await trio.sleep(10)

    began = trio.current_time()
    await bench.finish(Pipeline("window", [work]), source())
    assert [numbers for _, numbers in times] == [[0, 1], [2, 3]]
    assert [t for t, _ in times] == pytest.approx([2, 5])


async def test_each_result_is_a_value_a_drop_or_an_exception(bench: Bench) -> None:
    @batch(size=4)
    async def work(numbers):
        return [1, DROP, ValueError("mine alone"), float("nan")][: len(numbers)]

    @stage
    async def after(value):
        return str(value)

    result = await bench.finish(Pipeline("mixed", [work, after]), list(range(4)))
    assert bench.outcomes(result) == {1: "ok", 2: "skipped", 3: "failed", 4: "ok"}
    assert await listed(result.results()) == ["1", "nan"]


async def test_only_the_items_that_failed_are_tried_again(bench: Bench) -> None:
    calls = []

    @batch(size=4, wait=0.1, retry=Retry(attempts=2, base=0))
    async def work(numbers):
        calls.append(list(numbers))
        if len(calls) == 1:
            return [n if n % 2 else ValueError(n) for n in numbers]
        return numbers

    result = await bench.finish(Pipeline("again", [work]), [1, 2, 3, 4])
    assert calls == [[1, 2, 3, 4], [2, 4]]
    assert await listed(result.results()) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrong",
    [[], [1], [1, 2, 3, 4, 5], None, 7, "abcd", {1: 2}, (n for n in range(4))],
    ids=same_repr,
)
async def test_a_wrong_number_of_results_fails_the_batch_and_says_so(bench: Bench, wrong) -> None:
    @batch(size=4)
    async def work(numbers):
        return wrong if 1 in numbers else numbers

    result = await bench.finish(Pipeline("wrong", [work]), list(range(1, 9)))
    assert bench.outcomes(result) == {n: "failed" if n < 5 else "ok" for n in range(1, 9)}
    assert "4 items" in bench.failures(result)[0][2]


async def test_one_result_that_cannot_be_stored_fails_its_item_alone(bench: Bench) -> None:
    @batch(size=4)
    async def work(numbers):
        return [object() if n == 2 else n for n in numbers]

    result = await bench.finish(Pipeline("odd", [work]), [1, 2, 3, 4])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok", 4: "ok"}
    assert bench.causes(result) == {2: "result"}


async def test_a_batch_that_hangs_times_out_whole_and_the_next_goes_on(bench: Bench) -> None:
    @batch(size=2, wait=1, deadline=10)
    async def work(numbers):
        if 3 in numbers:
            await trio.sleep_forever()
        return numbers

    result = await bench.finish(Pipeline("hang", [work]), [1, 2, 3, 4, 5])
    assert bench.outcomes(result) == {1: "ok", 2: "ok", 3: "timed_out", 4: "timed_out", 5: "ok"}


async def test_a_cancelled_run_cancels_batches_and_leaves_the_rest_waiting(bench: Bench) -> None:
    @batch(size=2, wait=1)
    async def work(numbers):
        if 3 in numbers:
            await trio.sleep_forever()
        return numbers

    run = await bench.runtime.start(Pipeline("hang", [work]), [1, 2, 3, 4, 5])
    await trio.sleep(10)
    await run.cancel()
    result = await run.wait()
    assert bench.outcomes(result) == {1: "ok", 2: "ok", 3: "cancelled", 4: "cancelled"}
    assert result.stages[0].waiting == 1


def test_a_batch_stage_takes_no_key() -> None:
    with pytest.raises(PolicyError, match="one item at a time"):

        @batch(size=10, key=lambda n: n % 2)
        async def work(numbers):
            return numbers


async def test_typed_items_of_a_batch_are_decoded(bench: Bench) -> None:
    from attrs import frozen

    @frozen
    class Page:
        number: int

    @stage
    async def make(number):
        return Page(number)

    async def work(pages):
        return [page.number for page in pages]

    work.__annotations__["pages"] = list[Page]
    result = await bench.finish(Pipeline("typed", [make, batch(size=2)(work)]), [1, 2, 3])
    assert await listed(result.results()) == [1, 2, 3]
