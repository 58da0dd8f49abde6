# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Retries: attempts, pauses, Retry-After and the budget that none of them exceeds."""

from itertools import pairwise

import pytest
import trio

from stagerun import Pipeline, Retry, RetryLater, stage
from tests.conftest import Bench, listed, same_repr


def failing(times, error=None):
    """A stage function that fails so many times, then returns when each attempt began."""
    starts = []

    async def attempt(_number):
        starts.append(trio.current_time())
        if len(starts) <= times:
            raise error or ValueError("not yet")
        return [t - starts[0] for t in starts]

    return attempt


async def test_an_error_is_not_retried_by_default(bench: Bench) -> None:
    result = await bench.finish(Pipeline("once", [stage(name="s")(failing(1))]), [1])
    assert bench.outcomes(result) == {1: "failed"}


async def test_pauses_grow_up_to_the_cap(bench: Bench) -> None:
    retry = Retry(attempts=6, base=2, factor=2, cap=8)
    pipeline = Pipeline("pauses", [stage(name="s", retry=retry)(failing(5))])
    result = await bench.finish(pipeline, [1])
    (starts,) = await listed(result.results())
    pauses = [b - a for a, b in pairwise(starts)]
    assert pauses == pytest.approx([1, 2, 4, 4, 4])  # half of each, by the bench's fixed draw


async def test_attempts_are_counted_on_disk(bench: Bench) -> None:
    retry = Retry(attempts=3, base=0)
    pipeline = Pipeline("count", [stage(name="s", retry=retry)(failing(9))])
    await bench.finish(pipeline, [1])
    assert bench.sql("SELECT outcome, attempts FROM items") == [(1, 3)]


async def test_retry_later_sets_the_least_pause_beyond_the_cap(bench: Bench) -> None:
    retry = Retry(attempts=2, base=1, cap=1)
    pipeline = Pipeline("later", [stage(name="s", retry=retry)(failing(1, RetryLater(60)))])
    result = await bench.finish(pipeline, [1])
    ((_, second),) = await listed(result.results())
    assert second == pytest.approx(60)


@pytest.mark.parametrize("after", [31, 1e9, float("inf"), 10**400], ids=str)
async def test_retry_later_beyond_the_budget_fails_the_item_at_once(bench: Bench, after) -> None:
    @stage(deadline=30, retry=Retry(attempts=5))
    async def busy(_number):
        await trio.sleep(1)
        raise RetryLater(after, "the server is busy")

    result = await bench.finish(Pipeline("later", [busy]), [1])
    assert result.seconds == pytest.approx(1)
    assert bench.failures(result) == [
        (1, "error", "the server is busy", "stagerun.errors.RetryLater")
    ]


@pytest.mark.parametrize("after", [float("nan"), -5, None, "soon", True, object()], ids=same_repr)
async def test_an_odd_retry_after_counts_as_none(bench: Bench, after) -> None:
    retry = Retry(attempts=2, base=2)
    pipeline = Pipeline("odd", [stage(name="s", retry=retry)(failing(1, RetryLater(after)))])
    result = await bench.finish(pipeline, [1])
    assert await listed(result.results()) == [pytest.approx([0, 1])]


async def test_retry_later_is_repeated_whatever_other_errors_are(bench: Bench) -> None:
    retry = Retry(attempts=2, base=0, on=OSError)
    pipeline = Pipeline("later", [stage(name="s", retry=retry)(failing(1, RetryLater(5)))])
    result = await bench.finish(pipeline, [1])
    assert bench.outcomes(result) == {1: "ok"}


async def test_pauses_never_exceed_the_budget(bench: Bench) -> None:
    @stage(deadline=20, retry=Retry(attempts=1000, base=6, factor=1))
    async def broken(_number):
        await trio.sleep(1)
        raise ValueError("always")

    result = await bench.finish(Pipeline("budget", [broken]), [1])
    assert result.seconds <= 20
    assert bench.outcomes(result) == {1: "failed"}


async def test_the_last_attempt_is_cut_by_the_budget_not_by_its_own_deadline(bench: Bench) -> None:
    @stage(deadline=25, retry=Retry(attempts=9, attempt_deadline=10, base=0))
    async def hang(_number):
        await trio.sleep_forever()

    result = await bench.finish(Pipeline("budget", [hang]), [1])
    assert result.seconds == pytest.approx(25)
    ((_, cause, message, _),) = bench.failures(result)
    assert cause == "deadline"
    assert "3 attempts" in message


async def test_timed_out_attempts_are_final_when_timeouts_are_not_retried(bench: Bench) -> None:
    @stage(retry=Retry(attempts=5, attempt_deadline=10, timeouts=False))
    async def hang(_number):
        await trio.sleep_forever()

    result = await bench.finish(Pipeline("final", [hang]), [1])
    assert bench.causes(result) == {1: "attempt_deadline"}
    assert result.seconds == pytest.approx(10)


async def test_only_the_errors_that_were_named_are_retried(bench: Bench) -> None:
    tries = {1: 0, 2: 0}

    @stage(retry=Retry(attempts=3, base=0, on=(OSError, KeyError)))
    async def pick(number):
        tries[number] += 1
        raise {1: OSError, 2: ValueError}[number]

    await bench.finish(Pipeline("named", [pick]), [1, 2])
    assert tries == {1: 3, 2: 1}


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=same_repr
)
async def test_what_is_not_an_exception_is_never_retried(bench: Bench, error) -> None:
    pipeline = Pipeline(
        "exits", [stage(name="s", retry=Retry(attempts=3, base=0))(failing(2, error))]
    )
    result = await bench.finish(pipeline, [1])
    assert bench.sql("SELECT outcome, attempts FROM items") == [(1, 1)]
    assert result.stages[0].failed == 1


async def test_a_pause_holds_no_worker(bench: Bench) -> None:
    seen = set()

    @stage(retry=Retry(attempts=2, base=200, cap=200))
    async def pick(number):
        await trio.sleep(1)
        if number == 1 and number not in seen:
            seen.add(number)
            raise ValueError("once")
        return number

    result = await bench.finish(Pipeline("pause", [pick]), [1, 2, 3, 4])
    assert result.seconds == pytest.approx(1 + 100 + 1)
    assert result.stages[0].ok == 4


async def test_items_in_a_pause_count_as_waiting(bench: Bench) -> None:
    retry = Retry(attempts=2, base=200, cap=200)
    pipeline = Pipeline("pause", [stage(name="s", retry=retry)(failing(1))])
    run = await bench.runtime.start(pipeline, [1])
    await trio.sleep(50)
    (counts,) = run.counts
    assert (counts.accepted, counts.in_flight, counts.waiting) == (1, 0, 1)
    assert (await run.wait()).status == "succeeded"


async def test_a_cancelled_run_ends_items_in_their_pause_as_cancelled(bench: Bench) -> None:
    retry = Retry(attempts=2, base=200, cap=200)
    pipeline = Pipeline("pause", [stage(name="s", retry=retry)(failing(1))])
    run = await bench.runtime.start(pipeline, [1])
    await trio.sleep(50)
    await run.cancel()
    result = await run.wait()
    assert bench.outcomes(result) == {1: "cancelled"}
    assert result.seconds == pytest.approx(50)


@pytest.mark.parametrize("count", [100, 1000])
async def test_many_items_are_retried_beside_each_other(bench: Bench, count: int) -> None:
    seen = set()

    @stage(workers=8, buffer=10, retry=Retry(attempts=2, base=1))
    async def flaky(number):
        if number not in seen:
            seen.add(number)
            raise ValueError("once")
        return number

    result = await bench.finish(Pipeline("flaky", [flaky]), list(range(count)))
    assert result.stages[0].ok == count
    assert await listed(result.results()) == list(range(count))
