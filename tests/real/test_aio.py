# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Single calls of asyncio-only code out of stages on trio, in programs on trio and on asyncio."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest
import trio

import stagerun
import stagerun.asyncio
from stagerun import Pipeline, aio, open_runtime, stage
from tests.conftest import listed

pytestmark = pytest.mark.real


async def where() -> tuple[int, str]:
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop()), threading.current_thread().name


@stage(workers=3)
async def look(number):
    return list(await aio(where))


async def test_in_a_trio_program_all_calls_share_one_private_loop(tmp_path) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("look", [look]), range(6))
        seen = await listed((await run.wait()).raise_for_status().results())
    assert len({loop for loop, _ in seen}) == 1
    assert {name for _, name in seen} == {"stagerun asyncio stages"}


def test_in_an_asyncio_program_they_are_on_its_own_loop(tmp_path) -> None:
    async def main() -> None:
        async with stagerun.asyncio.open_runtime(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("look", [look]), range(6))
            seen = [each async for each in (await run.wait()).results()]
        here = [id(asyncio.get_running_loop()), threading.current_thread().name]
        assert seen == [here] * 6

    asyncio.run(main())


def on_each_host(tmp_path, pipeline, items):
    """Run a pipeline in a trio program and in an asyncio one; return the two results."""

    async def in_trio():
        async with open_runtime(tmp_path / "trio.db") as runtime:
            return await (await runtime.start(pipeline, items)).wait()

    async def in_asyncio():
        async with stagerun.asyncio.open_runtime(tmp_path / "asyncio.db") as runtime:
            return await (await runtime.start(pipeline, items)).wait()

    return trio.run(in_trio), asyncio.run(in_asyncio())


def test_a_deadline_reaches_the_call_itself(tmp_path) -> None:
    told = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            told.append("cancelled")
            raise

    @stage(deadline=0.1)
    async def call(number):
        try:
            await aio(hang)
        finally:
            told.append("left")

    for result in on_each_host(tmp_path, Pipeline("call", [call]), [1]):
        assert result.stages[0].timed_out == 1
    assert told == ["cancelled", "left"] * 2  # its stage goes on only when the call has ended


def test_what_it_raises_is_the_item_s(tmp_path, caplog) -> None:
    async def fail(text: str) -> None:
        await asyncio.sleep(0)
        raise LookupError(text)

    @stage
    async def call(number):
        with suppress(LookupError):
            await aio(fail, "caught")
        await aio(fail, text="not caught")

    for result in on_each_host(tmp_path, Pipeline("call", [call]), [1]):
        assert result.stages[0].failed == 1
    assert [record.getMessage().count("not caught") for record in caplog.records].count(1) == 2


def test_a_call_that_swallows_its_cancellation_is_left_behind(tmp_path) -> None:
    async def stubborn() -> None:
        for _ in range(40):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    @stage(deadline=0.1)
    async def call(number):
        if number == 1:
            await aio(stubborn)
        return number

    for result in on_each_host(tmp_path, Pipeline("call", [call], grace=0.2), [1, 2]):
        assert (result.stages[0].timed_out, result.stages[0].ok) == (1, 1)


def test_several_calls_of_one_stage_go_on_beside_each_other(tmp_path) -> None:
    async def meet(barrier: list[asyncio.Barrier]) -> None:
        if not barrier:
            barrier.append(asyncio.Barrier(3))
        await barrier[0].wait()

    @stage(deadline=10)
    async def call(number):
        barrier: list[asyncio.Barrier] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(aio, meet, barrier)
        return number

    for result in on_each_host(tmp_path, Pipeline("call", [call]), [1]):
        assert result.stages[0].ok == 1


def test_a_resource_may_live_on_the_loop(tmp_path) -> None:
    told = []

    class Session:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

        @classmethod
        async def open(cls):
            return cls()

        async def get(self, number):
            assert asyncio.get_running_loop() is self.loop
            return number

        async def close(self):
            told.append("closed")

    @asynccontextmanager
    async def resource():
        session = await aio(Session.open)
        try:
            yield session
        finally:
            await aio(session.close)

    @stage(resource=resource)
    async def call(number, ctx):
        return await aio(ctx.resource.get, number)

    for result in on_each_host(tmp_path, Pipeline("call", [call]), [1, 2]):
        assert (result.status, result.stages[0].ok) == ("succeeded", 2)
    assert told == ["closed", "closed"]


def test_a_child_task_s_call_that_never_ends_does_not_hold_the_program(tmp_path) -> None:
    let_go = threading.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    @stage(deadline=0.1)
    async def call(number):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aio, where)
            nursery.start_soon(aio, stubborn)

    async def main():
        with trio.fail_after(20):
            async with open_runtime(tmp_path / "runs.db") as runtime:
                run = await runtime.start(Pipeline("call", [call], grace=0.2), [1])
                return await run.wait()

    try:
        assert trio.run(main).stages[0].timed_out == 1
    finally:
        let_go.set()


def test_a_quick_call_of_a_child_leaves_the_stage_s_own_call_to_be_let_go(tmp_path) -> None:
    let_go = threading.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    @stage(deadline=0.3)
    async def call(number):
        if number == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(aio, where)
                await aio(stubborn)

    async def main():
        async with open_runtime(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("call", [call], grace=0.2), [1, 2])
            result = await run.wait()
            return result, (await run.document())["survivors"]

    try:
        result, survivors = trio.run(main)
        assert (result.stages[0].timed_out, result.stages[0].ok) == (1, 1)
        assert all(survivor.startswith("asyncio task") for survivor in survivors)
    finally:
        let_go.set()


async def test_a_loop_that_one_call_blocks_lets_the_others_end(tmp_path) -> None:
    begun = threading.Event()

    async def innocent(number: int) -> int:
        begun.set()
        await asyncio.sleep(0.05)
        return number

    async def block() -> None:
        time.sleep(1.0)  # noqa: ASYNC251 - the fault that is played here

    @stage(deadline=30)
    async def good(number):
        return await aio(innocent, number)

    @stage(deadline=0.1)
    async def bad(number):
        await trio.to_thread.run_sync(begun.wait)
        await aio(block)

    async with open_runtime(tmp_path / "runs.db") as runtime:
        fine = await runtime.start(Pipeline("good", [good]), [1])
        await runtime.start(Pipeline("bad", [bad], grace=0.1), [1])
        assert (await fine.wait()).status == "succeeded"


def test_a_stage_of_asyncio_s_may_call_it_too(tmp_path) -> None:
    @stage(mode="asyncio")
    async def call(number):
        return (await aio(where))[1]

    for result in on_each_host(tmp_path, Pipeline("call", [call]), [1]):
        assert result.status == "succeeded"


def test_a_closed_loop_of_the_host_fails_the_item_and_not_the_run(tmp_path, caplog) -> None:
    @stage
    async def call(number):
        await aio(where)

    loop = asyncio.new_event_loop()
    loop.close()

    async def main():
        env = stagerun.engine.env.Env(host_loop=loop)
        async with open_runtime(tmp_path / "runs.db", env=env) as runtime:
            return await (await runtime.start(Pipeline("call", [call]), [1])).wait()

    result = trio.run(main)
    assert result.stages[0].failed == 1
    assert "the asyncio loop that the call was meant for is closed" in caplog.text


async def test_outside_a_stage_it_says_so() -> None:
    with pytest.raises(stagerun.UsageError, match="in stages and their resources"):
        await aio(where)


async def test_in_virtual_time_it_is_carried_out_at_once(autojump_clock, bench) -> None:
    result = await bench.finish(Pipeline("look", [look]), [1])
    assert result.status == "succeeded"
