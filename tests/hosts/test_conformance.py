# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disallow-untyped-decorators=False
# ruff: noqa: ASYNC110 - what another thread does is looked at: neither loop has an event for it
"""The same behaviour for programs on trio and on asyncio: one set of tests, two event loops."""

import asyncio
import inspect
import sqlite3
import threading
import time
from contextlib import aclosing, closing, suppress
from types import ModuleType

import anyio
import anyio.lowlevel
import pytest
import trio

import stagerun
import stagerun.asyncio
from stagerun import DROP, Pipeline, Retry, stage
from stagerun.engine import handle, runtime
from stagerun.hosts import facade, opening

pytestmark = pytest.mark.real

HOSTS = {
    "trio": (stagerun, trio.run),
    "asyncio": (stagerun.asyncio, lambda main, *args: asyncio.run(main(*args))),
}


def on_both_hosts(test):
    """Run an async test under trio and under asyncio, with the front door of each."""

    def run(host, tmp_path):
        door, start = HOSTS[host]

        async def bounded() -> None:
            with anyio.fail_after(30):
                await test(door, tmp_path)

        start(bounded)

    run.__name__, run.__qualname__ = test.__name__, test.__qualname__
    return pytest.mark.parametrize("host", HOSTS)(run)


@stage(workers=2)
async def double(number):
    await trio.sleep(0.001)
    return number * 2


@stage
async def hang(number):
    await trio.sleep_forever()


@stage
def shout(text):
    return text.upper()


@on_both_hosts
async def test_a_run_gives_its_results_in_item_order(door: ModuleType, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("double", [double]), range(1_200), labels={"a": "b"})
        result = (await run.wait()).raise_for_status()
        assert [value async for value in result.results()] == [2 * n for n in range(1_200)]
        assert [value async for value in run.results()] == [2 * n for n in range(1_200)]
        assert (run.status, run.percent, run.generation) == ("succeeded", 100.0, 1)
        assert (run.counts[0].ok, run.source_length) == (1_200, 1_200)
        document = await run.document()
        assert (document["id"], document["labels"]) == (run.id, {"a": "b"})


@on_both_hosts
async def test_results_may_be_left_in_the_middle(door, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("double", [double]), range(1_200))
        results = (await run.wait()).results()
        assert await anext(results) == 0
        await results.aclose()


@on_both_hosts
async def test_a_cancelled_wait_leaves_the_run_alone(door, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("hang", [hang]), [1])
        with anyio.move_on_after(0.05) as patience:
            await run.wait()
        assert patience.cancelled_caught
        assert run.status == "running"
        await run.cancel("enough")
        result = await run.wait()
        assert (result.status, result.message) == ("cancelled", "enough")


@on_both_hosts
async def test_leaving_interrupts_and_those_who_wait_are_told(door, folder) -> None:
    ended = []

    async def wait(run):
        ended.append((await run.wait()).status)

    async with (
        anyio.create_task_group() as group,
        door.open_runtime(folder / "runs.db") as host,
    ):
        run = await host.start(Pipeline("hang", [hang], grace=1), [1])
        group.start_soon(wait, run)
        await anyio.lowlevel.checkpoint()
    assert ended == ["interrupted"]


@on_both_hosts
async def test_a_left_runtime_takes_nothing_more(door, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        pass
    with pytest.raises(stagerun.RuntimeClosedError):
        await host.start(Pipeline("double", [double]), [1])


@on_both_hosts
async def test_errors_come_over_as_they_are(door, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        with pytest.raises(stagerun.UsageError, match="takes a Pipeline"):
            await host.start("double", [1])
        with pytest.raises(stagerun.UsageError, match="no run"):
            await host.find("feed")
    with pytest.raises(stagerun.StoreError, match="does not exist"):
        async with door.open_runtime(folder / "nowhere" / "runs.db"):
            pytest.fail("it opened")


@on_both_hosts
async def test_an_error_of_the_program_comes_out_of_the_block(door, folder) -> None:
    with pytest.raises(ZeroDivisionError):
        async with door.open_runtime(folder / "runs.db"):
            raise ZeroDivisionError


@on_both_hosts
async def test_a_lost_database_ends_the_block_with_what_has_happened(door, folder) -> None:
    async def lose() -> None:
        async with door.open_runtime(folder / "runs.db") as host:
            with closing(sqlite3.connect(folder / "runs.db")) as other:
                other.execute("DROP TABLE events")
                other.commit()
            with suppress(stagerun.StoreError):
                await host.start(Pipeline("double", [double]), [1])
            await anyio.sleep_forever()

    with pytest.raises(stagerun.StoreError, match="no such table"):
        await lose()


@on_both_hosts
async def test_a_cancelled_iteration_over_results_is_cancelled(door, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("double", [double]), range(3_000))
        await run.wait()
        for delay in (0.0, 0.001, 0.002, 0.005, 0.01):
            seen = 0
            with anyio.move_on_after(delay):
                async with aclosing(run.results()) as results:
                    async for _ in results:
                        seen += 1
                        if not seen % 100:
                            await anyio.lowlevel.checkpoint()
        assert len([value async for value in run.results()]) == 3_000


@on_both_hosts
async def test_runs_are_found_asked_cancelled_and_resumed_by_identifier(door, folder) -> None:
    pipeline = Pipeline("hang", [double, hang], grace=1)
    async with door.open_runtime(folder / "runs.db", pipelines=[pipeline]) as host:
        run = await host.start(pipeline, [1, 2], key="once")
        assert (await host.start(pipeline, [3], key="once")).id == run.id
        found = await host.find(run.id[:8])
        assert found.id == run.id
        assert (await host.why(run.id))["run"] == run.id
        assert (await run.why())["told_by"] == "process"
        assert (await host.cancel(run.id, "by hand"))["became"] in ("cancelling", "ended")
        assert (await found.wait()).message.startswith("by hand")
        again = await host.resume(run.id)
        assert (again.id, again.generation) == (run.id, 2)
        await again.cancel()
        await again.wait()
        third = await again.resume()
        assert third.generation == 3
        await third.cancel()
        await third.wait()
        assert list(await host.prune(runs=1)) == []


@on_both_hosts
async def test_a_token_of_the_program_cancels_a_run(door, folder) -> None:
    token = door.CancellationToken()
    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("hang", [hang], grace=1), [1], token=token)
        token.cancel("the host says so")
        assert (await run.wait()).message == "the host says so"


@on_both_hosts
async def test_what_is_under_way_is_told(door, folder) -> None:
    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("hang", [hang], grace=1), [1])
        while host.statistics().in_flight < 1:
            await anyio.sleep(0.005)
        assert host.statistics().runs == 1
        assert host.health().status == "ok"
        assert f"run {run.id}" in host.tree()


@on_both_hosts
async def test_plain_functions_retries_and_drops_work_as_everywhere(door, folder) -> None:
    tries = []

    @stage(retry=Retry(attempts=2, base=0.001))
    def flaky(text):
        tries.append(threading.current_thread())
        if len(tries) == 1:
            raise ValueError(text)
        return DROP if text == "b" else text

    async with door.open_runtime(folder / "runs.db") as host:
        run = await host.start(Pipeline("mixed", [flaky, shout]), ["a", "b", "c"])
        assert [value async for value in (await run.wait()).results()] == ["A", "C"]
    assert threading.main_thread() not in tries


def test_the_proxy_has_the_signatures_of_what_it_stands_for() -> None:
    for proxy, real in ((facade.Runtime, runtime.Runtime), (facade.Run, handle.Run)):
        names = {name for name in vars(real) if not name.startswith("_")}
        assert names <= set(vars(proxy))
        for name in names:
            ours, theirs = vars(proxy)[name], vars(real)[name]
            assert type(ours) is type(theirs), name
            if inspect.isfunction(theirs):
                assert told(ours) == told(theirs), name
                assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    given = inspect.signature(opening.open_runtime).parameters
    assert given == inspect.signature(stagerun.open_runtime).parameters


def told(function) -> str:
    return str(inspect.signature(function)).replace("stagerun.engine.handle.Run", "'Run'")


def test_both_front_doors_have_the_same_names() -> None:
    assert stagerun.asyncio.__all__ == stagerun.__all__


def test_the_wrong_front_door_names_the_right_one(tmp_path) -> None:
    async def wrong() -> None:
        async with stagerun.open_runtime(tmp_path / "runs.db"):
            pytest.fail("it opened")

    with pytest.raises(stagerun.UsageError, match=r"stagerun\.asyncio\.open_runtime"):
        asyncio.run(wrong())


# -- what only asyncio has ------------------------------------------------------------------------


def test_a_stage_that_blocks_does_not_block_the_program(tmp_path) -> None:
    @stage
    async def block(number):
        time.sleep(1.0)  # noqa: ASYNC251 - the fault that is played here

    async def main() -> float:
        longest, ended = 0.0, asyncio.Event()
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            run = await host.start(Pipeline("block", [block]), [1])
            waiter = asyncio.create_task(run.wait())
            waiter.add_done_callback(lambda _: ended.set())
            while not ended.is_set():
                before = time.monotonic()
                await asyncio.sleep(0.002)
                longest = max(longest, time.monotonic() - before)
            assert (await waiter).status == "succeeded"
        return longest

    assert asyncio.run(main()) < 0.9  # of a second: it does not wait for the stage


def test_a_cancelled_caller_goes_on_while_trio_is_blocked(tmp_path) -> None:
    let_go = threading.Event()

    @stage
    async def block(number):
        let_go.wait(20)

    async def main() -> None:
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            run = await host.start(Pipeline("block", [block], grace=0.2), [1])
            while host.statistics().in_flight < 1:
                await asyncio.sleep(0.005)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(host.find(run.id), 0.05)
            let_go.set()
            assert (await run.wait()).status == "succeeded"

    asyncio.run(main())


def test_cancel_and_why_are_heard_while_trio_is_blocked(tmp_path) -> None:
    let_go = threading.Event()

    @stage
    async def block(number):
        let_go.wait(20)

    async def main() -> None:
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            run = await host.start(Pipeline("block", [block], grace=0.2), [1])
            while host.statistics().in_flight < 1:
                await asyncio.sleep(0.005)
            assert "test_conformance.py" in (await run.why())["summary"]
            await run.cancel("by hand")
            assert run.status == "running"
            let_go.set()
            assert (await run.wait()).status == "cancelled"

    asyncio.run(main())


def test_an_old_handle_does_not_cancel_a_later_generation(tmp_path) -> None:
    let_go = threading.Event()

    @stage
    async def block(number):
        if number == 2:
            let_go.wait(20)
        raise ValueError(number)

    async def main() -> None:
        pipeline = Pipeline("block", [block], grace=0.2)
        async with stagerun.asyncio.open_runtime(
            tmp_path / "runs.db", pipelines=[pipeline]
        ) as host:
            first = await host.start(pipeline, [1])
            await first.wait()
            again = await first.resume(failed=True)
            other = await host.start(pipeline, [2])
            while host.statistics().in_flight < 1:
                await asyncio.sleep(0.005)
            await first.cancel("the old handle")
            let_go.set()
            assert (await again.wait()).status == "failed"
            assert (await other.wait()).status == "failed"

    asyncio.run(main())


@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.002, 0.01])
def test_a_cancelled_opening_leaves_nothing_behind(tmp_path, delay) -> None:
    async def main() -> None:
        before = threading.active_count()
        began = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                async with stagerun.asyncio.open_runtime(tmp_path / "runs.db"):
                    await asyncio.Event().wait()
        assert time.monotonic() - began < 10
        until = time.monotonic() + 10
        while threading.active_count() > before + 1:  # trio keeps one of its own for a while
            assert time.monotonic() < until, threading.enumerate()
            await asyncio.sleep(0.01)
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            assert host.statistics().runs == 0

    asyncio.run(main())


def test_a_stage_that_never_stops_is_left_behind(tmp_path, caplog, monkeypatch) -> None:
    stopped = threading.Event()

    @stage
    async def stubborn(number):
        with trio.CancelScope(shield=True):
            while not stopped.is_set():
                await trio.sleep(0.01)

    async def main() -> float:
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            run = await host.start(Pipeline("stubborn", [stubborn], grace=0.2), [1])
            while host.statistics().in_flight < 1:
                await asyncio.sleep(0.005)
            began = time.monotonic()
        assert run.status == "interrupted"
        return time.monotonic() - began

    try:
        assert asyncio.run(main()) < 5
        assert "left behind in its thread: task of stage stubborn, item 1" in caplog.text
    finally:
        stopped.set()


def test_a_cancelled_host_leaves_in_order(tmp_path) -> None:
    async def serve(opened: asyncio.Event) -> None:
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            await host.start(Pipeline("hang", [hang], grace=0.5), [1])
            opened.set()
            await asyncio.Event().wait()

    async def main() -> None:
        opened = asyncio.Event()
        task = asyncio.create_task(serve(opened))
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as host:
            assert host.statistics().runs == 0

    asyncio.run(main())
