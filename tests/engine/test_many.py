# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""One to many: children are given as they come, and a repeated parent gives none twice."""

import pytest
import trio

from stagerun import DROP, Pipeline, Retry, collect, stage
from tests.conftest import Bench, listed


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_a_parent_may_have_any_number_of_children(bench: Bench, count: int) -> None:
    @stage
    async def unfold(number):
        for child in range(number):
            yield child

    @stage(workers=3)
    async def double(number):
        return 2 * number

    result = await bench.finish(Pipeline("unfold", [unfold, double]), [count, 0, 2])
    assert result.status == "succeeded"
    assert result.stages[0].ok == 3
    assert result.stages[1].accepted == count + 2
    assert await listed(result.results()) == [2 * n for n in range(count)] + [0, 2]


async def test_the_last_stage_may_give_many(bench: Bench) -> None:
    @stage
    async def unfold(number):
        for child in range(number):
            yield [number, child] if child else DROP

    result = await bench.finish(Pipeline("unfold", [unfold]), [1, 3, 2])
    assert await listed(result.results()) == [[3, 1], [3, 2], [2, 1]]


async def test_two_unfoldings_in_a_row(bench: Bench) -> None:
    @stage(workers=2)
    async def one(number):
        for child in range(number):
            yield child

    @stage(workers=2)
    async def two(number):
        for child in range(number):
            yield child

    result = await bench.finish(Pipeline("twice", [one, two]), [10, 20])
    assert result.stages[1].accepted == 30
    assert len(await listed(result.results())) == 45 + 190


async def test_children_go_on_while_their_parent_is_under_way(bench: Bench) -> None:
    times = {}

    @stage
    async def unfold(number):
        for child in range(number):
            await trio.sleep(1)
            yield child

    @stage
    async def note(number):
        times[number] = trio.current_time()

    began = trio.current_time()
    await bench.finish(Pipeline("stream", [unfold, note]), [3])
    assert {n: t - began for n, t in times.items()} == pytest.approx({0: 1, 1: 2, 2: 3}, abs=1e-6)


async def test_the_parent_s_clock_stands_still_while_there_is_no_room_behind(bench: Bench) -> None:
    @stage(deadline=10)
    async def unfold(number):
        for child in range(number):
            await trio.sleep(0.05)
            yield child

    @stage(buffer=5)
    async def slow(number):
        await trio.sleep(1)
        return number

    result = await bench.finish(Pipeline("slow", [unfold, slow]), [100])
    assert bench.outcomes(result) == {1: "ok"}
    assert result.stages[1].ok == 100


async def test_the_parent_s_own_time_is_bounded_all_the_same(bench: Bench) -> None:
    @stage(deadline=10)
    async def unfold(_number):
        child = 0
        while True:
            await trio.sleep(1)
            yield (child := child + 1)

    @stage(buffer=2)
    async def slow(number):
        await trio.sleep(3)
        return number

    result = await bench.finish(Pipeline("endless", [unfold, slow]), [1])
    assert bench.outcomes(result) == {1: "timed_out"}
    assert result.stages[1].ok == pytest.approx(9, abs=1)


async def test_an_endless_generator_ends_with_its_run(bench: Bench) -> None:
    @stage
    async def unfold(_number):
        child = 0
        while True:
            yield (child := child + 1)

    @stage(buffer=10)
    async def slow(number):
        await trio.sleep(1)

    run = await bench.runtime.start(Pipeline("endless", [unfold, slow]), [1])
    await trio.sleep(10.5)
    await run.cancel()
    result = await run.wait()
    assert bench.outcomes(result) == {1: "cancelled"}
    assert result.stages[1].accepted < 100


async def test_an_endless_generator_that_takes_ctx_does_not_fill_the_memory_in_its_grace(
    bench: Bench,
) -> None:
    @stage
    async def unfold(_number, ctx):
        child = 0
        while not ctx.token.cancelled or child < 50_000:
            yield (child := child + 1)

    @stage(buffer=10)
    async def slow(number):
        await trio.sleep(1)

    run = await bench.runtime.start(Pipeline("endless", [unfold, slow]), [1])
    await trio.sleep(10.5)
    await run.cancel()
    result = await run.wait()
    assert result.stages[1].accepted < 1000


async def test_generators_are_closed_when_their_attempt_is_cut(bench: Bench) -> None:
    closed = []

    @stage(deadline=10)
    async def unfold(number):
        try:
            yield number
            await trio.sleep_forever()
        finally:
            closed.append(number)

    result = await bench.finish(Pipeline("cut", [unfold]), [1, 2])
    assert bench.outcomes(result) == {1: "timed_out", 2: "timed_out"}
    assert closed == [1, 2]


async def test_a_child_that_cannot_be_stored_fails_its_parent(bench: Bench) -> None:
    @stage
    async def unfold(number):
        yield number
        yield object() if number == 2 else 0

    result = await bench.finish(Pipeline("odd", [unfold]), [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}


async def test_a_parent_that_fails_for_good_keeps_the_children_it_gave(bench: Bench) -> None:
    @stage
    async def unfold(number):
        yield number
        raise ValueError("midway")

    @stage
    async def after(number):
        return number

    result = await bench.finish(Pipeline("midway", [unfold, after]), [5])
    assert bench.outcomes(result) == {1: "failed"}
    assert await listed(result.results()) == [5]


# -- a parent that fails midway and is tried again ------------------------------------------------

_SECOND = {
    "the same": ["a", "b", "c"],
    "others": ["x", "y", "c"],
    "fewer": ["a"],
    "none": [],
    "reordered": ["b", "a", "c"],
    "more": ["a", "b", "c", "d", "e"],
}


def repeating(second, pause):
    attempts = []

    @stage(retry=Retry(attempts=3, base=2 * pause, cap=1000))
    async def unfold(_number):
        attempts.append(1)
        for child in ["a", "b", "c"] if len(attempts) == 1 else second:
            yield child
        if len(attempts) == 1:
            raise ValueError("midway")

    return unfold


@pytest.mark.parametrize("pause", [0, 100], ids=["at once", "when all children are through"])
@pytest.mark.parametrize("second", _SECOND.values(), ids=_SECOND)
async def test_results_are_those_of_the_last_attempt(bench: Bench, second, pause: float) -> None:
    @stage
    async def shout(text):
        await trio.sleep(1)
        return text.upper()

    pipeline = Pipeline("again", [repeating(second, pause), shout])
    result = await bench.finish(pipeline, [1])
    assert result.status == "succeeded"
    assert sorted(await listed(result.results())) == sorted(t.upper() for t in second)


@pytest.mark.parametrize("pause", [0, 100], ids=["at once", "when all children are through"])
@pytest.mark.parametrize("second", _SECOND.values(), ids=_SECOND)
async def test_results_two_stages_on_are_those_of_the_last_attempt(
    bench: Bench, second, pause: float
) -> None:
    @stage
    async def shout(text):
        return text.upper()

    @stage
    async def twice(text):
        await trio.sleep(1)
        return text * 2

    pipeline = Pipeline("again", [repeating(second, pause), shout, twice])
    result = await bench.finish(pipeline, [1])
    assert sorted(await listed(result.results())) == sorted(t.upper() * 2 for t in second)


@pytest.mark.parametrize("pause", [0, 100], ids=["at once", "when all children are through"])
@pytest.mark.parametrize("second", _SECOND.values(), ids=_SECOND)
async def test_a_collector_sees_the_children_of_the_last_attempt_alone(
    bench: Bench, second, pause: float
) -> None:
    @stage
    async def shout(text):
        return text.upper()

    @collect()
    async def gather(outcomes):
        return [o.value async for o in outcomes if o.ok]

    pipeline = Pipeline("again", [repeating(second, pause), shout, gather])
    result = await bench.finish(pipeline, [1])
    found = await listed(result.results())
    assert sorted(found[0] if found else []) == sorted(t.upper() for t in second)


async def test_the_same_children_are_not_worked_on_twice(bench: Bench) -> None:
    seen = []

    @stage
    async def note(text):
        seen.append(text)

    pipeline = Pipeline("again", [repeating(["a", "b", "c"], 10), note])
    await bench.finish(pipeline, [1])
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize("pause", [0, 100], ids=["at once", "when all children are through"])
async def test_with_keys_a_changed_child_replaces_the_one_with_its_key(
    bench: Bench, pause: float
) -> None:
    attempts = []

    @stage(retry=Retry(attempts=2, base=2 * pause, cap=1000))
    async def unfold(_number):
        attempts.append(1)
        yield {"id": 1, "version": 1}
        yield {"id": 2, "version": len(attempts)}
        if len(attempts) == 1:
            raise ValueError("midway")

    @stage(key=lambda record: record["id"])
    async def note(record):
        await trio.sleep(1)
        return [record["id"], record["version"]]

    result = await bench.finish(Pipeline("keys", [unfold, note]), [1])
    assert sorted(await listed(result.results())) == [[1, 1], [2, 2]]


async def test_duplicates_by_key_are_skipped(bench: Bench) -> None:
    @stage
    async def unfold(number):
        for child in (1, 2, 1, number):
            yield child

    @stage(key=lambda n: n, workers=2)
    async def note(number):
        return number

    result = await bench.finish(Pipeline("twins", [unfold, note]), [2, 3])
    assert sorted(await listed(result.results())) == [1, 2, 3]
    assert result.stages[1].skipped == 5
    assert set(bench.causes(result, 1).values()) == {"duplicate"}


async def test_who_waits_for_room_goes_on_when_superseded_children_have_made_it(
    bench: Bench,
) -> None:
    tries = 0

    @stage(workers=2, retry=Retry(attempts=2, base=0.0))
    async def unfold(parent):
        nonlocal tries
        if parent == 0:
            yield 0
            return
        tries += 1
        await trio.sleep(1)
        if tries == 1:
            for child in range(1, 5):
                yield child
            await trio.sleep(2)
            raise OSError("the listing has changed meanwhile")
        # the second time there is nothing

    @stage(workers=8)
    async def fetch(number):
        return number

    @stage(buffer=4)
    async def write(number):
        await trio.sleep(10)
        return number

    pipeline = Pipeline("listing", [unfold, fetch, write], deadline=100)
    assert (await bench.finish(pipeline, [0, 1])).status == "succeeded"
