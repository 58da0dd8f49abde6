"""Resources that break while they are used: opened again, and no item lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from stagerun import Context, Pipeline, Restart, Retry, Runtime, stage


async def test_a_resource_whose_own_task_dies_is_opened_again(runtime: Runtime) -> None:
    opened = 0

    @asynccontextmanager
    async def connection() -> AsyncIterator[int]:
        nonlocal opened
        opened += 1

        async def listen(number: int) -> None:
            if number == 1:
                await trio.sleep(5)
                raise OSError("the peer hung up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, opened)
            yield opened
            nursery.cancel_scope.cancel()

    @stage(resource=connection, retry=Retry(attempts=2, base=0.1))
    async def use(item: int, ctx: Context) -> int:
        await trio.sleep(2)
        return int(ctx.resource)

    run = await runtime.start(Pipeline("broken", [use]), [1, 2, 3, 4])
    result = await run.wait()
    assert result.status == "succeeded"
    assert opened == 2
    assert [value async for value in result.results()] == [1, 1, 2, 2]


async def test_a_resource_that_breaks_while_nothing_is_to_do_costs_no_item_an_attempt(
    runtime: Runtime,
) -> None:
    attempts = []
    opened = 0

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        nonlocal opened
        opened += 1

        async def die() -> None:
            await trio.sleep(1)
            raise OSError("gone")

        async with trio.open_nursery() as nursery:
            if opened == 1:
                nursery.start_soon(die)
            yield
            nursery.cancel_scope.cancel()

    @stage(resource=connection)
    async def use(item: int, ctx: Context) -> int:
        attempts.append(ctx.attempt)
        return item

    async def source() -> AsyncIterator[int]:
        yield 1
        await trio.sleep(10)
        yield 2

    run = await runtime.start(Pipeline("idle", [use]), source)
    assert (await run.wait()).stages[0].ok == 2
    assert attempts == [1, 1]
    assert opened == 2


async def test_a_resource_that_always_breaks_gives_the_run_up(runtime: Runtime) -> None:
    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fail)
            yield

    @stage(resource=connection, restart=Restart(attempts=3), retry=Retry(attempts=9, base=0))
    async def use(item: int) -> None:
        await trio.sleep_forever()

    result = await (await runtime.start(Pipeline("never", [use]), [1])).wait()
    assert (result.status, result.cause) == ("failed", "resource")
    assert "3 times in a row" in result.message


async def _fail() -> None:
    raise OSError("no connection")
