# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Cancellation: by the token first, then by force, proven, and told apart from everything else."""

import gc
import threading

import pytest
import trio

from stagerun import CancellationToken, CancelRequested, Pipeline, RunCancelled, stage
from tests.conftest import Bench


async def test_in_flight_items_are_cancelled_and_never_begun_ones_go_on_waiting(
    bench: Bench,
) -> None:
    @stage(workers=2)
    async def nap(_number):
        await trio.sleep(100)

    run = await bench.runtime.start(Pipeline("nap", [nap]), list(range(10)))
    await trio.sleep(10)
    await run.cancel("enough")
    result = await run.wait()
    assert (result.status, result.cause, result.message) == ("cancelled", "requested", "enough")
    assert bench.outcomes(result) == {1: "cancelled", 2: "cancelled"}
    assert bench.causes(result) == {1: "requested", 2: "requested"}
    assert (result.stages[0].waiting, result.stages[0].in_flight) == (8, 0)
    assert result.seconds == pytest.approx(10)
    with pytest.raises(RunCancelled):
        result.raise_for_status()


async def test_nothing_is_begun_once_the_run_was_asked_to_stop(bench: Bench) -> None:
    begun, asked = [], trio.Event()

    @stage(workers=4)
    async def each(number):
        begun.append(number)
        if number < 4:
            await asked.wait()
        else:
            asked.set()
            await run.cancel()  # the others return before the run hears of it

    run = await bench.runtime.start(Pipeline("each", [each]), list(range(1, 11)))
    result = await run.wait()
    assert bench.outcomes(result) == {1: "ok", 2: "ok", 3: "ok", 4: "cancelled"}
    assert sorted(begun) == [1, 2, 3, 4]


async def test_a_stage_with_the_token_gets_its_grace(bench: Bench) -> None:
    @stage(workers=2)
    async def careful(number, ctx):
        await ctx.token.wait()
        await trio.sleep(3)
        if number == 2:
            ctx.token.raise_if_cancelled()
        return "rounded off"

    run = await bench.runtime.start(Pipeline("careful", [careful], grace=5), [1, 2, 3])
    await trio.sleep(10)
    await run.cancel()
    result = await run.wait()
    assert bench.outcomes(result) == {1: "ok", 2: "cancelled"}
    assert result.seconds == pytest.approx(13)
    ((requested, stopped, finished),) = bench.sql(
        "SELECT requested_at, stopped_at, finished_at FROM generations"
    )
    assert stopped - requested == pytest.approx(3e6, abs=1e5)
    assert finished == stopped


async def test_after_the_grace_the_scope_is_cancelled(bench: Bench) -> None:
    @stage
    async def deaf(_number, ctx):
        await trio.sleep_forever()

    run = await bench.runtime.start(Pipeline("deaf", [deaf], grace=5), [1])
    await trio.sleep(10)
    await run.cancel()
    result = await run.wait()
    assert bench.outcomes(result) == {1: "cancelled"}
    assert result.seconds == pytest.approx(15)


@pytest.mark.parametrize("grace", [0, 5])
async def test_what_refuses_to_stop_is_named_and_the_status_is_written_in_time(
    bench: Bench, grace: float
) -> None:
    release = trio.Event()

    @stage
    async def refuse(_number):
        with trio.CancelScope(shield=True):
            await release.wait()

    run = await bench.runtime.start(Pipeline("refuse", [refuse], grace=grace), [1, 2])
    await trio.sleep(10)
    await run.cancel()
    result = await run.wait()
    assert result.seconds <= 10 + grace + 0.5 + 1e-6
    assert bench.outcomes(result) == {1: "cancelled"}
    document = await run.document()
    assert document["stopped_at"] is None
    assert len(document["survivors"]) == 1
    assert "refuse" in document["survivors"][0]
    release.set()


@pytest.mark.parametrize("turn", [ValueError, SystemExit, CancelRequested])
async def test_an_error_out_of_a_cancellation_is_still_a_cancellation(bench: Bench, turn) -> None:
    @stage
    async def turning(_number):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise turn("turned") from None

    run = await bench.runtime.start(Pipeline("turning", [turning]), [1])
    await trio.sleep(1)
    await run.cancel()
    assert bench.outcomes(await run.wait()) == {1: "cancelled"}


async def test_a_result_after_the_cancellation_but_within_the_deadline_counts(bench: Bench) -> None:
    @stage
    async def saves(_number):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "saved"

    run = await bench.runtime.start(Pipeline("saves", [saves]), [1])
    await trio.sleep(1)
    await run.cancel()
    assert bench.outcomes(await run.wait()) == {1: "ok"}


async def test_cancelling_twice_or_after_the_end_changes_nothing(bench: Bench) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(10)

    run = await bench.runtime.start(Pipeline("nap", [nap]), [1])
    await run.cancel("first")
    await run.cancel("second")
    assert (await run.wait()).message == "first"
    done = await bench.runtime.start(Pipeline("nap", [nap]), [1])
    assert (await done.wait()).status == "succeeded"
    await done.cancel("too late")
    assert (await done.wait()).status == "succeeded"
    assert done.status == "succeeded"


async def test_cancelling_before_anything_began(bench: Bench) -> None:
    seen = []

    @stage
    async def note(number):
        seen.append(number)

    run = await bench.runtime.start(Pipeline("note", [note]), [1, 2])
    await run.cancel()
    result = await run.wait()
    assert result.status == "cancelled"
    assert result.stages[0].settled + result.stages[0].waiting == 2
    assert len(seen) == result.stages[0].settled


async def test_cancelling_a_wait_does_not_touch_the_run(bench: Bench) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(10)

    run = await bench.runtime.start(Pipeline("nap", [nap]), [1])
    with trio.move_on_after(1):
        await run.wait()
    assert (await run.wait()).status == "succeeded"


async def test_cancelling_start_leaves_no_run_without_an_owner(bench: Bench) -> None:
    """Whatever start() left on disk goes on, or ends: nothing may be `running` for ever."""

    @stage
    async def nap(_number):
        await trio.sleep(10)

    for source in ([1, 2], lambda: [1, 2]):
        with trio.CancelScope() as scope:
            scope.cancel()
            await bench.runtime.start(Pipeline("nap", [nap]), source)
    await trio.sleep(1000)
    rows = bench.sql("SELECT status FROM generations WHERE finished_at IS NULL")
    assert rows == []


async def test_cancelling_the_block_is_a_graceful_shutdown(new_bench, tmp_path) -> None:
    from stagerun.store.inline import InlineStore
    from stagerun.store.opening import read_only

    @stage(workers=2)
    async def nap(_number):
        await trio.sleep(100)

    with trio.move_on_after(10):
        async with new_bench(store=InlineStore(str(tmp_path / "runs.db"))) as bench:
            await bench.runtime.start(Pipeline("nap", [nap]), [1, 2, 3])
            await trio.sleep_forever()
    connection = read_only(tmp_path / "runs.db")
    assert connection.execute("SELECT status, cause FROM generations").fetchall() == [
        ("interrupted", "shutdown")
    ]
    assert connection.execute("SELECT item, outcome FROM items").fetchall() == [(1, 3), (2, 3)]
    connection.close()


async def test_leaving_the_block_with_a_keyed_stage_takes_no_longer(new_bench) -> None:
    @stage(key=lambda number: number)
    async def nap(_number):
        await trio.sleep(0.001)

    with trio.move_on_after(0.0105) as scope:
        async with new_bench() as bench:
            await bench.runtime.start(Pipeline("nap", [nap]), list(range(1000)))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() < 1


async def test_a_run_that_starts_while_the_block_is_left_is_refused_or_ends(new_bench) -> None:
    from stagerun import RuntimeClosedError

    @stage
    async def nap(_number):
        await trio.sleep(5)

    ends = []

    async def start(runtime):
        try:
            run = await runtime.start(Pipeline("nap", [nap]), [1])
            ends.append((await run.wait()).status)
        except RuntimeClosedError:
            ends.append("refused")

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery, new_bench() as bench:
            nursery.start_soon(start, bench.runtime)
            await trio.lowlevel.checkpoint()
    assert ends[0] in ("refused", "interrupted", "succeeded")


async def test_an_error_of_the_block_comes_out_as_it_was_raised(new_bench) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with new_bench():
            raise LookupError("mine")
    with pytest.raises(ExceptionGroup, match="also mine") as caught:
        async with new_bench():
            raise ExceptionGroup("also mine", [LookupError("inner")])
    assert type(caught.value.exceptions[0]) is LookupError


# -- the token ----------------------------------------------------------------------------------


async def test_the_host_s_own_token_cancels_the_run(bench: Bench) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(100)

    token = CancellationToken()
    run = await bench.runtime.start(Pipeline("nap", [nap]), [1], token=token)
    await trio.sleep(10)
    token.cancel("the host is tired")
    result = await run.wait()
    assert (result.status, result.cause) == ("cancelled", "token")
    assert "the host is tired" in result.message
    assert result.seconds == pytest.approx(10)


async def test_a_token_that_is_cancelled_already_cancels_the_run_at_once(bench: Bench) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(100)

    token = CancellationToken()
    token.cancel("before")
    run = await bench.runtime.start(Pipeline("nap", [nap]), [1], token=token)
    result = await run.wait()
    assert (result.status, result.cause) == ("cancelled", "token")
    assert result.seconds < 1


async def test_cancelling_a_run_does_not_cancel_the_host_s_token(bench: Bench) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(100)

    token = CancellationToken()
    one = await bench.runtime.start(Pipeline("nap", [nap]), [1], token=token)
    two = await bench.runtime.start(Pipeline("nap", [nap]), [1], token=token)
    await one.cancel()
    assert (await one.wait()).status == "cancelled"
    assert not token.cancelled
    assert (await two.wait()).status == "succeeded"


async def test_cancelling_the_token_of_an_attempt_touches_nobody_else(bench: Bench) -> None:
    @stage(workers=2)
    async def own(number, ctx):
        if number == 1:
            ctx.token.cancel("mine")
        await trio.sleep(5)
        return ctx.token.cancelled

    run = await bench.runtime.start(Pipeline("own", [own]), [1, 2])
    result = await run.wait()
    assert result.status == "succeeded"
    assert [value async for value in result.results()] == [True, False]


async def test_the_attempt_s_token_is_cancelled_at_its_deadline(bench: Bench) -> None:
    reasons = []

    @stage(deadline=10)
    async def listen(_number, ctx):
        ctx.token.add_callback(lambda: reasons.append(ctx.token.reason))
        await trio.sleep_forever()

    await bench.finish(Pipeline("listen", [listen]), [1])
    assert len(reasons) == 1
    assert "deadline" in reasons[0]


@pytest.mark.parametrize("when", ["cancel", "item deadline", "run deadline", "host token"])
@pytest.mark.parametrize("error", [ValueError, SystemExit], ids=lambda e: e.__name__)
async def test_a_callback_that_raises_harms_no_run(bench: Bench, when: str, error) -> None:
    def explode():
        raise error("callback")

    @stage(deadline=20 if when == "item deadline" else None)
    async def listen(_number, ctx):
        ctx.token.add_callback(explode)
        await trio.sleep_forever()

    @stage
    async def nap(_number):
        await trio.sleep(100)

    deadline = 20 if when == "run deadline" else 1000
    token = CancellationToken()
    other = await bench.runtime.start(Pipeline("nap", [nap]), [1])
    run = await bench.runtime.start(
        Pipeline("listen", [listen], deadline=deadline), [1], token=token
    )
    await trio.sleep(10)
    try:
        if when == "cancel":
            await run.cancel()
        elif when == "host token":
            token.cancel()
    except BaseExceptionGroup:
        pass  # whoever cancels may hear of it
    result = await run.wait()
    expected = {"item deadline": "failed", "run deadline": "timed_out"}.get(when, "cancelled")
    assert result.status == expected
    assert (await other.wait()).status == "succeeded"


def test_linked_tokens_follow_and_do_not_lead() -> None:
    one, two = CancellationToken(), CancellationToken()
    both = CancellationToken(one, two)
    below = CancellationToken(both)
    two.cancel("two")
    assert both.reason == below.reason == "two"
    assert not one.cancelled
    assert CancellationToken(two).reason == "two"


def test_linked_tokens_that_are_gone_leave_nothing_behind() -> None:
    parent = CancellationToken()
    for _ in range(1000):
        CancellationToken(parent)
    gc.collect()
    assert len(parent._callbacks) < 10


def test_callbacks_are_called_once_and_can_be_removed() -> None:
    token, calls = CancellationToken(), []
    token.add_callback(lambda: calls.append("kept"))
    remove = token.add_callback(lambda: calls.append("removed"))
    remove()
    remove()
    token.cancel()
    token.cancel()
    token.add_callback(lambda: calls.append("late"))
    assert calls == ["kept", "late"]


def test_the_same_callback_given_twice_is_removed_one_by_one() -> None:
    token, calls = CancellationToken(), []

    def call() -> None:
        calls.append(1)

    remove = token.add_callback(call)
    token.add_callback(call)
    remove()
    remove()
    token.cancel()
    assert calls == [1]


def test_a_callback_that_raises_keeps_none_from_being_called() -> None:
    token, calls = CancellationToken(), []

    def explode() -> None:
        raise ValueError("callback")

    token.add_callback(explode)
    token.add_callback(lambda: calls.append("called"))
    with pytest.raises(ExceptionGroup):
        token.cancel()
    assert calls == ["called"]


def test_a_token_dying_in_a_garbage_collection_does_not_block_its_parent() -> None:
    """The collector may run at any moment, also while the parent's lock is held."""
    parent = CancellationToken()
    done = threading.Event()

    def churn() -> None:
        old = gc.get_threshold()
        try:
            for threshold in range(1, 200):
                gc.set_threshold(threshold)
                for _ in range(20):
                    child = CancellationToken(parent)
                    child.itself = child  # type: ignore[attr-defined]  # a cycle, as tracebacks make
                    del child
        finally:
            gc.set_threshold(*old)
        done.set()

    threading.Thread(target=churn, daemon=True).start()
    assert done.wait(5), "deadlock: the finalizer asks for a lock that its own thread holds"


async def test_waiting_for_a_token_ends_with_its_reason(bench: Bench) -> None:
    token, reasons = CancellationToken(), []

    async def wait():
        reasons.append(await token.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(1)
        token.cancel("now")
    assert reasons == ["now", "now"]
    assert await token.wait() == "now"
    assert not token._callbacks
