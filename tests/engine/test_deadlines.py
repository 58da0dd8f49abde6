# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Deadlines of items, attempts and runs: the clock tells the outcome, whatever the code does."""

from contextlib import suppress

import pytest
import trio

from stagerun import Pipeline, Retry, stage
from tests.conftest import Bench, listed


async def hang(_number):
    await trio.sleep_forever()


async def swallow_once(_number):
    with suppress(trio.Cancelled):
        await trio.sleep_forever()
    await trio.sleep(1)
    return "too late"


async def swallow_and_return(_number):
    try:
        await trio.sleep_forever()
    except BaseException:  # noqa: BLE001 - the fault that is played here
        return "too late"


async def turn_into_value_error(_number):
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise ValueError("turned") from None


async def slow_finally(_number):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)


async def shield_a_little(_number):
    with trio.CancelScope(shield=True):
        await trio.sleep(12)
    return "too late"


async def children_of_its_own(_number):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(slow_finally, 0)


_LATE = [
    hang,
    swallow_once,
    swallow_and_return,
    turn_into_value_error,
    slow_finally,
    shield_a_little,
    children_of_its_own,
]


@pytest.mark.parametrize("late", _LATE, ids=lambda f: f.__name__)
async def test_whatever_overruns_its_budget_has_timed_out(bench: Bench, late) -> None:
    @stage(deadline=10)
    async def pick(number):
        return await late(number) if number == 2 else number

    result = await bench.finish(Pipeline("pick", [pick]), [1, 2, 3])
    assert result.status == "succeeded"
    assert bench.outcomes(result) == {1: "ok", 2: "timed_out", 3: "ok"}
    ((_, cause, message, _),) = bench.failures(result)
    assert cause == "deadline"
    assert "10 s" in message
    assert await listed(result.results()) == [1, 3]


async def test_a_cut_attempt_never_ends_with_the_result_of_the_item_before(bench: Bench) -> None:
    @stage
    async def pick(number):
        if number == 2:
            await trio.sleep_forever()
        return f"result of {number}"

    run = await bench.runtime.start(Pipeline("pick", [pick]), [1, 2])
    await trio.sleep(10)
    await run.cancel()
    result = await run.wait()
    assert await listed(result.results()) == ["result of 1"]
    assert bench.outcomes(result) == {1: "ok", 2: "cancelled"}


@pytest.mark.parametrize("late", _LATE, ids=lambda f: f.__name__)
async def test_an_attempt_that_overruns_is_repeated_within_the_budget(bench: Bench, late) -> None:
    calls = []

    @stage(deadline=60, retry=Retry(attempts=2, attempt_deadline=10, base=0))
    async def pick(number):
        calls.append(number)
        return await late(number) if len(calls) == 1 else number

    result = await bench.finish(Pipeline("pick", [pick]), [1])
    assert bench.outcomes(result) == {1: "ok"}
    assert calls == [1, 1]


async def test_what_refuses_to_stop_is_abandoned_and_its_slot_replaced(bench: Bench) -> None:
    release = trio.Event()

    @stage(deadline=10)
    async def pick(number):
        if number == 2:
            with trio.CancelScope(shield=True):
                await release.wait()
        await trio.sleep(1)
        return number

    pipeline = Pipeline("stubborn", [pick], grace=5)
    result = await bench.finish(pipeline, [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "timed_out", 3: "ok"}
    assert result.seconds == pytest.approx(1 + 10 + 5 + 1, abs=0.6)
    (survivors,) = bench.sql("SELECT survivors, stopped_at FROM generations")
    assert survivors[0] is not None
    assert survivors[1] is None
    release.set()


async def test_a_survivor_s_late_end_is_recorded_and_its_result_is_void(bench: Bench) -> None:
    @stage(deadline=60)
    async def after(number):
        await trio.sleep(30)
        return number

    @stage(deadline=10)
    async def first(number):
        if number == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
            return "void"
        return number

    result = await bench.finish(Pipeline("late", [first, after]), [1, 2])
    assert await listed(result.results()) == [2]
    ((late,),) = bench.sql("SELECT late FROM failures")
    assert late == pytest.approx(20e6, rel=0.01)
    ((survivors, stopped_at),) = bench.sql("SELECT survivors, stopped_at FROM generations")
    assert survivors is None
    assert stopped_at is not None


async def test_a_survivor_that_ends_in_the_tick_it_is_given_up_keeps_its_late_end(
    bench: Bench,
) -> None:
    """Its item's row and the note on it may go into the same transaction."""

    @stage(deadline=10)
    async def first(_number):
        with trio.CancelScope(shield=True):
            await trio.sleep(15.0)

    result = await bench.finish(Pipeline("late", [first], grace=4.9999999), [1])
    assert bench.outcomes(result) == {1: "timed_out"}
    await trio.sleep(1)
    ((late,),) = bench.sql("SELECT late FROM failures")
    assert late == pytest.approx(5e6, rel=0.01)


async def test_a_survivor_that_ends_while_the_runtime_is_left_keeps_its_late_end(
    new_bench, tmp_path
) -> None:
    from stagerun.store.inline import InlineStore
    from stagerun.store.opening import read_only

    path = str(tmp_path / "runs.db")

    @stage(deadline=10)
    async def first(_number):
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    async with new_bench(store=InlineStore(path)) as bench:
        await bench.finish(Pipeline("late", [first]), [1])
    connection = read_only(path)
    ((late,),) = connection.execute("SELECT late FROM failures").fetchall()
    connection.close()
    assert late == pytest.approx(20e6, rel=0.01)


async def test_waiting_for_a_worker_takes_nothing_from_the_budget(bench: Bench) -> None:
    @stage(deadline=10)
    async def nap(number):
        await trio.sleep(9)
        return number

    result = await bench.finish(Pipeline("queue", [nap]), list(range(20)))
    assert result.stages[0].ok == 20


async def test_waiting_for_a_worker_between_two_attempts_takes_nothing_from_the_budget(
    bench: Bench,
) -> None:
    attempts = []

    @stage(deadline=10, retry=Retry(attempts=2, base=0))
    async def nap(number):
        if number == 1:
            attempts.append(trio.current_time())
            if len(attempts) == 1:
                raise ValueError("at once")
            return number
        await trio.sleep(9)
        return number

    result = await bench.finish(Pipeline("queue", [nap]), list(range(1, 6)))
    assert len(attempts) == 2
    assert bench.outcomes(result)[1] == "ok"


async def test_a_result_at_the_very_deadline_comes_too_late(bench: Bench) -> None:
    @stage(deadline=10)
    async def exact(number):
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return number

    result = await bench.finish(Pipeline("exact", [exact]), [1])
    assert bench.outcomes(result) == {1: "timed_out"}


async def test_an_error_before_the_deadline_is_a_failure_not_a_timeout(bench: Bench) -> None:
    @stage(deadline=10)
    async def pick(_number):
        await trio.sleep(9.99)
        raise trio.TooSlowError

    result = await bench.finish(Pipeline("early", [pick]), [1])
    assert bench.outcomes(result) == {1: "failed"}


async def test_the_deadline_can_be_read_from_the_context_and_from_trio(bench: Bench) -> None:
    seen = []

    @stage(deadline=10, retry=Retry(attempts=2, attempt_deadline=4, base=0))
    async def look(number, ctx):
        now = trio.current_time()
        seen.append((ctx.deadline - now, trio.current_effective_deadline() - now))
        if ctx.attempt == 1:
            await trio.sleep_forever()
        return number

    await bench.finish(Pipeline("look", [look]), [1])
    for own, effective in seen:
        assert own == pytest.approx(4)
        assert 4 - 1e-9 <= effective <= 4 * 1.01 + 1e-9


async def test_a_deadline_can_be_switched_off(bench: Bench) -> None:
    @stage(deadline=None)
    async def patient(number, ctx):
        await trio.sleep(10_000)
        return ctx.deadline

    result = await bench.finish(Pipeline("patient", [patient], deadline=None), [1], within=20_000)
    assert await listed(result.results()) == [float("inf")]


async def test_the_run_s_deadline_ends_what_is_under_way_and_begins_no_more(bench: Bench) -> None:
    begun = []

    @stage(workers=2, deadline=None)
    async def nap(number):
        begun.append(number)
        await trio.sleep(40)
        return number

    result = await bench.finish(Pipeline("long", [nap], deadline=100), list(range(1, 11)))
    assert (result.status, result.cause) == ("timed_out", "run_deadline")
    assert result.seconds == pytest.approx(100)
    (counts,) = result.stages
    assert (counts.ok, counts.timed_out, counts.waiting) == (4, 2, 4)
    assert bench.causes(result) == {5: "run_deadline", 6: "run_deadline"}
    assert begun == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("wants_ctx", [True, False])
async def test_the_run_s_deadline_bounds_stages_that_refuse(bench: Bench, wants_ctx: bool) -> None:
    release = trio.Event()

    async def refuse(_number, **_context):
        with trio.CancelScope(shield=True):
            await release.wait()

    async def with_ctx(number, ctx):
        await refuse(number)

    refusing = stage(name="refuse", deadline=None)(with_ctx if wants_ctx else refuse)
    pipeline = Pipeline("stubborn", [refusing], deadline=100, grace=5)
    result = await bench.finish(pipeline, [1, 2])
    assert result.status == "timed_out"
    assert result.seconds <= 100 + 5 + 0.5 + 1e-6
    assert bench.causes(result) == {1: "run_deadline"}
    release.set()


async def test_a_run_is_given_up_when_too_much_refuses_to_stop(bench: Bench) -> None:
    release = trio.Event()

    @stage(workers=10, deadline=1)
    async def refuse(_number):
        with trio.CancelScope(shield=True):
            await release.wait()

    result = await bench.finish(Pipeline("stubborn", [refuse], grace=1), list(range(200)))
    assert (result.status, result.cause) == ("failed", "survivors")
    assert "refuse" in result.message
    release.set()


async def test_precedence_a_result_in_time_beats_the_run_s_deadline(bench: Bench) -> None:
    @stage(deadline=None)
    async def exact(number):
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        return number

    result = await bench.finish(Pipeline("tie", [exact], deadline=100), [1, 2])
    assert bench.outcomes(result)[1] == "ok"
    assert result.status == "timed_out"


async def test_precedence_the_item_s_budget_beats_the_run_s_deadline(bench: Bench) -> None:
    @stage(deadline=100, retry=Retry(attempts=3, attempt_deadline=100))
    async def hang_(_number):
        await trio.sleep_forever()

    result = await bench.finish(Pipeline("tie", [hang_], deadline=100), [1, 2])
    assert bench.causes(result) == {1: "deadline"}


async def test_precedence_the_run_s_deadline_beats_a_cancellation_of_the_same_tick(
    bench: Bench,
) -> None:
    @stage(deadline=None)
    async def hang_(_number):
        await trio.sleep_forever()

    run = await bench.runtime.start(Pipeline("tie", [hang_], deadline=100), [1])
    began = trio.current_time()
    await trio.sleep_until(began + 100)
    await run.cancel()
    result = await run.wait()
    assert result.status in ("timed_out", "cancelled")  # one of them, once
    expected = {"timed_out": "timed_out", "cancelled": "cancelled"}[result.status]
    assert bench.outcomes(result) == {1: expected}


async def test_an_innocent_item_of_a_batch_does_not_inherit_a_budget_that_is_nearly_spent(
    bench: Bench,
) -> None:
    from stagerun import batch

    calls = []

    @batch(size=2, wait=1, deadline=10, retry=Retry(attempts=2, base=0))
    async def work(numbers):
        calls.append(list(numbers))
        if len(calls) == 1:
            await trio.sleep(9.9)
            raise ValueError("late in the budget")
        await trio.sleep(1)
        return numbers

    async def source():
        yield 1
        await trio.sleep(10.2)
        yield 2
        yield 3

    result = await bench.finish(Pipeline("mates", [work]), source())
    outcomes = bench.outcomes(result)
    assert outcomes[2] == outcomes[3] == "ok"


async def test_elapsed_is_counted_from_the_first_start_in_this_stage(bench: Bench) -> None:
    await trio.sleep(5)

    @stage
    async def slow(number):
        await trio.sleep(10)
        return number

    @stage(key=lambda _number: "same")
    async def after(number):
        await trio.sleep(3)
        return number

    result = await bench.finish(Pipeline("elapsed", [slow, after]), [1, 2])
    rows = bench.sql("SELECT item, elapsed FROM items WHERE stage = 1 ORDER BY item")
    assert bench.outcomes(result, 1) == {1: "ok", 2: "skipped"}
    assert rows == [(1, pytest.approx(3e6, abs=1e5)), (2, pytest.approx(0, abs=1e5))]
