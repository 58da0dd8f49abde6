# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Threads and iterators that block, in real time with the store of production."""

import itertools
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from stagerun import CancellationToken, Pipeline, Retry, open_runtime, report, stage
from stagerun.engine.context import current_context
from stagerun.store.opening import read_only
from tests.conftest import listed, sums_hold

pytestmark = pytest.mark.real


@asynccontextmanager
async def opened(path):
    """A runtime on a real file; its sums are checked when it has been left."""
    with trio.fail_after(30):
        async with open_runtime(path) as runtime:
            yield runtime
    connection = read_only(path)
    try:
        sums_hold(connection)
    finally:
        connection.close()


def sql(path, query):
    connection = read_only(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_a_plain_function_runs_in_a_thread(tmp_path) -> None:
    @stage(workers=4)
    def where(_number):
        return threading.current_thread() is threading.main_thread()

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("where", [where]), list(range(100)))
        result = await run.wait()
        assert set(await listed(result.results())) == {False}


async def test_a_thread_past_its_deadline_is_left_behind_and_the_run_goes_on(tmp_path) -> None:
    release, path = threading.Event(), tmp_path / "runs.db"

    @stage(deadline=0.3)
    def pick(number):
        if number == 2:
            release.wait(20)
        return number

    async with opened(path) as runtime:
        run = await runtime.start(Pipeline("pick", [pick]), [1, 2, 3])
        result = await run.wait()
        assert result.status == "succeeded"
        assert await listed(result.results()) == [1, 3]
        (survivor,) = (await run.document())["survivors"]
        assert "thread" in survivor
        assert (await run.document())["stopped_at"] is None
        release.set()
        while not sql(path, "SELECT late FROM failures WHERE late IS NOT NULL"):  # noqa: ASYNC110 - no event tells of it
            await trio.sleep(0.01)
    assert sql(path, "SELECT item, outcome FROM item_overview ORDER BY item") == [
        (1, "ok"),
        (2, "timed_out"),
        (3, "ok"),
    ]


async def test_the_slot_of_a_thread_that_is_left_behind_is_replaced(tmp_path) -> None:
    release = threading.Event()

    @stage(workers=2, deadline=0.2)
    def pick(number):
        if number <= 10:
            release.wait(20)
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("pick", [pick]), list(range(1, 21)))
        result = await run.wait()
        assert (result.stages[0].timed_out, result.stages[0].ok) == (10, 10)
        release.set()


async def test_threads_see_their_token(tmp_path) -> None:
    begun = threading.Event()

    @stage
    def polite(number, ctx):
        begun.set()
        stop = threading.Event()
        ctx.token.add_callback(stop.set)
        stop.wait(20)
        ctx.token.raise_if_cancelled()

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("polite", [polite]), [1, 2])
        while not begun.is_set():  # noqa: ASYNC110 - set by a thread
            await trio.sleep(0.01)
        await run.cancel()
        result = await run.wait()
        assert (result.status, result.stages[0].cancelled) == ("cancelled", 1)
        assert result.seconds < 4
        assert (await run.document())["survivors"] == []


async def test_a_token_can_be_cancelled_from_a_thread(tmp_path) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(20)

    token = CancellationToken()
    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("nap", [nap]), [1], token=token)
        threading.Thread(target=token.cancel, args=("from a thread",)).start()
        result = await run.wait()
        assert (result.status, result.cause) == ("cancelled", "token")


async def test_reports_and_logs_from_threads_are_kept(tmp_path) -> None:
    import stagerun

    @stage
    def tell(number, ctx):
        stagerun.report("step", f"item {number}", number, 3)
        stagerun.heartbeat()
        ctx.log.info("hello from %s", number)

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("tell", [tell]), [1, 2, 3])
        await run.wait()
        document = await run.document()
    assert (document["step"], document["done"]) == ("step", 3)
    assert any("hello from 3" in line["message"] for line in document["recent_logs"])


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_what_a_thread_raises_is_its_item_s_failure(tmp_path, error) -> None:
    @stage
    def pick(number):
        if number == 2:
            raise error
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("pick", [pick]), [1, 2, 3])
        result = await run.wait()
        assert (result.stages[0].ok, result.stages[0].failed) == (2, 1)


async def test_a_stage_that_swallows_its_cancellation_for_ever_is_abandoned(tmp_path) -> None:
    enough = threading.Event()

    @stage(deadline=0.2)
    async def greedy(number):
        while number == 2 and not enough.is_set():
            with suppress(trio.Cancelled):
                await trio.sleep(20)
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("greedy", [greedy], grace=0.3), [1, 2, 3])
        result = await run.wait()
        assert result.stages[0].timed_out == 1
        assert result.stages[0].ok == 2
        assert len((await run.document())["survivors"]) == 1
        enough.set()


async def test_an_item_that_times_out_is_cut_soon_after_its_deadline(tmp_path) -> None:
    @stage(deadline=0.2)
    async def hang(number):
        if number == 2:
            await trio.sleep_forever()
        return f"result of {number}"

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("hang", [hang]), [1, 2, 3])
        result = await run.wait()
        assert await listed(result.results()) == ["result of 1", "result of 3"]
    assert result.stages[0].timed_out == 1


# -- sources that block -------------------------------------------------------------------------


@stage
async def same(value):
    return value


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("kind", ["generator", "function", "set"])
async def test_items_come_from_plain_iterables(tmp_path, count: int, kind: str) -> None:
    source = {
        "generator": lambda: (n for n in range(count)),
        "function": lambda: lambda: iter(range(count)),
        "set": lambda: set(range(count)),
    }[kind]()
    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("iterables", [same]), source)
        result = await run.wait()
        assert result.status == "succeeded"
        assert sorted(await listed(result.results())) == list(range(count))


@pytest.mark.parametrize("given", [0, 3, 100])
async def test_what_an_iterator_gave_before_it_raised_is_worked_off(tmp_path, given: int) -> None:
    def broken():
        yield from range(given)
        raise OSError("gone")

    for source in (broken(), broken):
        async with opened(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("broken", [same]), source)
            result = await run.wait()
            assert (result.status, result.cause) == ("failed", "source_error")
            assert (result.stages[0].ok, result.stages[0].waiting) == (given, 0)


async def test_an_item_that_cannot_be_stored_fails_alone(tmp_path) -> None:
    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("odd", [same]), iter([1, 2, object(), 4]))
        result = await run.wait()
        assert result.status == "succeeded"
        assert (result.stages[0].ok, result.stages[0].failed) == (3, 1)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_whatever_an_iterator_raises_fails_its_run_alone(tmp_path, error) -> None:
    def broken():
        yield 1
        raise error

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("broken", [same]), broken)
        assert (await run.wait()).cause == "source_error"
        again = await runtime.start(Pipeline("fine", [same]), [1])
        assert (await again.wait()).status == "succeeded"


async def test_an_iterator_that_hangs_fails_the_run_at_its_deadline(tmp_path) -> None:
    release = threading.Event()

    def hanging():
        yield 1
        release.wait(20)
        yield 2

    async with opened(tmp_path / "runs.db") as runtime:
        pipeline = Pipeline("hanging", [same], source_deadline=0.3)
        run = await runtime.start(pipeline, hanging())
        result = await run.wait()
        release.set()
        assert (result.status, result.cause) == ("failed", "source_timeout")
        assert result.stages[0].ok == 1


async def test_an_iterator_slower_than_its_chunks_loses_nothing(tmp_path) -> None:
    """The deadline is for the next item, not for the chunk that several of them make."""

    def slow():
        for number in range(6):
            time.sleep(0.005)
            yield number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("slow", [same]), slow())
        result = await run.wait()
        assert result.stages[0].ok == 6


async def test_endless_iterators_end_with_their_run(tmp_path) -> None:
    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("endless", [same]), itertools.count())
        await trio.sleep(0.2)
        await run.cancel()
        result = await run.wait()
        assert result.status == "cancelled"
        assert result.seconds < 3


async def test_a_function_source_that_blocks_does_not_block_the_program(tmp_path) -> None:
    release = threading.Event()

    def connects():
        release.wait(5)
        return [1, 2]

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("blocking", [same]), connects)
        began = trio.current_time()
        await trio.sleep(0.05)
        waited = trio.current_time() - began
        release.set()
        await run.wait()
        assert waited < 2


async def test_forty_hung_threads_of_one_run_do_not_hold_another(tmp_path) -> None:
    release = threading.Event()

    @stage(workers=50, deadline=20)
    def hang(_number):
        release.wait(20)

    @stage
    def quick(number):
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        hung = await runtime.start(Pipeline("hung", [hang], grace=0.2), list(range(50)))
        await trio.sleep(0.2)
        with trio.fail_after(5):
            for source in ([1, 2], iter([1, 2])):
                run = await runtime.start(Pipeline("quick", [quick]), source)
                assert (await run.wait()).status == "succeeded"
        await hung.cancel()
        release.set()
        await hung.wait()


async def test_a_cancelled_query_interrupts_nobody_else_s(tmp_path) -> None:
    """One reader is shared: what a cancelled caller interrupts must be its own query."""
    slow = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000)"
        " SELECT count(*) FROM c"
    )
    answers = []

    async def patient(store):
        answers.append(await store.ask(lambda c: c.execute(slow).fetchone()[0]))

    async with opened(tmp_path / "runs.db") as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(patient, runtime._store)
        await trio.sleep(0.05)
        with trio.move_on_after(0.05):
            await runtime._store.ask(lambda c: c.execute("SELECT 1").fetchone())
    assert answers == [2_000_000]


async def test_a_late_end_is_kept_however_soon_it_comes(tmp_path) -> None:
    """The item's row and the note on its late end may wait for the same commit."""
    path = tmp_path / "runs.db"

    @stage(workers=8, deadline=0.05, retry=Retry(attempts=1))
    def late(_number):
        time.sleep(0.052)  # the subject of the test: just beyond its deadline

    async with opened(path) as runtime:
        run = await runtime.start(Pipeline("late", [late]), list(range(200)))
        result = await run.wait()
        await trio.sleep(0.2)
    kept = sql(path, "SELECT count(*) FROM failures WHERE late IS NOT NULL")[0][0]
    assert result.stages[0].timed_out == 200
    assert kept == 200


async def test_a_thread_that_is_left_behind_speaks_for_its_own_attempt_only(tmp_path) -> None:
    told: list[tuple[int | None, bool]] = []

    @stage(deadline=0.6)
    def pick(number):
        if number == 1:
            released.wait(20)
            context = current_context()
            assert context is not None
            told.append((context.item, context.token.cancelled))
            report("a late word")
            spoken.set()
        return number

    released, spoken = threading.Event(), threading.Event()
    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("pick", [pick]), [1, 2, 3])
        result = await run.wait()
        released.set()
        await trio.to_thread.run_sync(spoken.wait, 20)
        document = await run.document()
    assert (result.stages[0].ok, told) == (2, [(1, True)])
    assert document["step"] != "a late word"


# -- many that do not stop ----------------------------------------------------------------------


async def test_too_many_threads_left_behind_fail_the_run_and_are_named(tmp_path) -> None:
    release = threading.Event()

    @stage(workers=8, deadline=0.05)
    def stuck(_number):
        release.wait(30)

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("stuck", [stuck], grace=0.2), list(range(500)))
        result = await run.wait()
        assert (result.status, result.cause) == ("failed", "survivors")
        document = await run.document()
        names = runtime.statistics().survivor_names
        release.set()
    assert 64 <= len(names) <= 64 + 8
    assert "thread of stage stuck, item 1" in names
    assert len(document["survivors"]) >= 64


async def test_threads_of_earlier_runs_count_too(tmp_path) -> None:
    """A service that starts a hanging run every hour must not gather threads for ever."""
    release = threading.Event()

    @stage(workers=40, deadline=0.05)
    def stuck(_number):
        release.wait(30)

    async with opened(tmp_path / "runs.db") as runtime:
        first = await runtime.start(Pipeline("stuck", [stuck], grace=0.2), list(range(40)))
        assert (await first.wait()).cause != "survivors"
        second = await runtime.start(Pipeline("stuck", [stuck], grace=0.2), list(range(40)))
        assert (await second.wait()).cause == "survivors"
        release.set()


async def test_a_thread_that_beats_is_left_alone_and_a_silent_one_is_cut(tmp_path) -> None:
    release = threading.Event()

    @stage(heartbeat_timeout=0.3)
    def work(number, ctx):
        for _ in range(10):
            time.sleep(0.05)  # the subject of the test: it takes longer than its timeout
            if number == 1:
                ctx.heartbeat()
        if number == 2:
            release.wait(20)
        return number

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("work", [work]), [1, 2])
        await run.wait()
        assert await listed(run.results()) == [1]
        release.set()
    assert sql(tmp_path / "runs.db", "SELECT cause FROM failures") == [("stalled",)]


async def test_who_could_not_beat_because_another_blocked_the_loop_is_not_cut(tmp_path) -> None:
    begun = trio.Event()

    @stage(workers=2, heartbeat_timeout=0.6, deadline=20)
    async def work(kind, ctx):
        if kind == "blocks":
            await begun.wait()
            time.sleep(1.5)  # noqa: ASYNC251 - the subject of the test: it blocks the loop
            ctx.heartbeat()
            return kind
        for _ in range(8):
            begun.set()
            await trio.sleep(0.3)
            ctx.heartbeat()
        return kind

    async with opened(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("work", [work]), ["beats", "blocks"])
        await run.wait()
        results = await listed(run.results())
    assert "beats" in results


async def test_the_program_leaves_while_a_thread_left_behind_goes_on_logging(tmp_path) -> None:
    over = threading.Event()

    @stage(deadline=0.1)
    def stubborn(_number, ctx):
        while not over.wait(0.001):
            ctx.log.info("still here")

    try:
        async with opened(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("stubborn", [stubborn], grace=0.2), [1])
            await run.wait()
        assert (await run.wait()).stages[0].timed_out == 1
    finally:
        over.set()
