# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Libraries that know asyncio only, from stages on trio, against real servers."""

import asyncio
import time
from functools import partial

import aiohttp
import asyncpg  # type: ignore[import-untyped]  # it has no types
import pytest
import trio

import stagerun
import stagerun.asyncio
from stagerun import Pipeline, aio, stage
from tests.real.postgres import postgres

__all__ = ["postgres"]

pytestmark = pytest.mark.real

HOSTS = ["trio", "asyncio"]


async def opened(door, path, pipeline, items, *, params=None, cancel_when=None):
    """Run a pipeline in the event loop that this is called in."""
    async with door.open_runtime(path) as runtime:
        run = await runtime.start(pipeline, items, params=params)
        if cancel_when is not None:
            await cancel_when()
            await run.cancel()
        return await run.wait()


def run_on(host, *given, **options):
    """Run a pipeline in a program on trio, or on asyncio."""
    if host == "trio":
        return trio.run(lambda: opened(stagerun, *given, **options))
    return asyncio.run(asyncio.wait_for(opened(stagerun.asyncio, *given, **options), 60))


async def asked(address, query, *args):
    connection = await asyncpg.connect(address)
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


SLEEPERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sl%'"
)


@pytest.mark.parametrize("host", HOSTS)
def test_a_deadline_cancels_the_query_in_postgresql(host, tmp_path, postgres) -> None:
    async def ask(number):
        connection = await asyncpg.connect(postgres)
        try:
            await connection.fetchval("SELECT pg_sleep($1)", 30 if number == 2 else 0)
            return await connection.fetchval("SELECT $1::int * 2", number)
        finally:
            await connection.close()  # which waits until its query has been cancelled

    @stage(workers=3, deadline=0.5)
    async def query(number):
        return await aio(ask, number)

    began = time.monotonic()
    result = run_on(host, tmp_path / "runs.db", Pipeline("query", [query]), [1, 2, 3])
    assert (result.stages[0].ok, result.stages[0].timed_out) == (2, 1)
    assert time.monotonic() - began < 15
    asyncio.run(nobody_sleeps(postgres))


async def nobody_sleeps(address):
    """Wait until PostgreSQL has heard of the cancellation: it is told, not waited for."""
    async with asyncio.timeout(10):
        while await asked(address, SLEEPERS):  # noqa: ASYNC110 - only a look can tell
            await asyncio.sleep(0.02)


def test_the_pool_of_an_asyncio_program_serves_its_stages(tmp_path, postgres) -> None:
    async def main():
        async with asyncpg.create_pool(postgres, min_size=2, max_size=2) as pool:

            @stage(workers=8, deadline=20)
            async def double(number):
                return await aio(pool.fetchval, "SELECT $1::int * 2", number)

            pipeline = Pipeline("double", [double])
            return await opened(stagerun.asyncio, tmp_path / "runs.db", pipeline, range(100))

    result = asyncio.run(asyncio.wait_for(main(), 60))
    assert (result.status, result.stages[0].ok) == ("succeeded", 100)


def test_a_cancelled_run_cancels_the_query(tmp_path, postgres) -> None:
    async def until_it_sleeps():
        while not await asked(postgres, SLEEPERS):  # noqa: ASYNC110 - only a look can tell
            await asyncio.sleep(0.02)

    async def main():
        async with asyncpg.create_pool(postgres, min_size=2, max_size=2) as pool:

            @stage
            async def sleep(number):
                await aio(pool.fetchval, "SELECT pg_sleep(60)")

            given = (stagerun.asyncio, tmp_path / "runs.db", Pipeline("sleep", [sleep]), [1])
            return await opened(*given, cancel_when=until_it_sleeps)

    result = asyncio.run(asyncio.wait_for(main(), 60))
    assert result.status == "cancelled"
    asyncio.run(nobody_sleeps(postgres))


@pytest.mark.parametrize("host", HOSTS)
def test_a_deadline_closes_the_connection_of_an_http_client(host, tmp_path) -> None:
    gone = []

    async def serve(stream: trio.SocketStream) -> None:
        try:
            asked = await stream.receive_some(65536)
            if b"/quick" in asked:
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                return
            while await stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
        gone.append(time.monotonic())

    async def fetch_text(url):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.get(url) as response,
        ):
            return await response.text()

    @stage(workers=2, deadline=0.5)
    async def fetch(path, ctx):
        return await aio(fetch_text, f"http://127.0.0.1:{ctx.params['port']}{path}")

    async def main():
        async with trio.open_nursery() as nursery:
            listen = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
            listeners = await nursery.start(listen)
            params = {"port": listeners[0].socket.getsockname()[1]}
            work = partial(run_on, host, tmp_path / "runs.db", Pipeline("fetch", [fetch]))
            with trio.fail_after(30):
                call = partial(work, ["/quick", "/never"], params=params)
                result = await trio.to_thread.run_sync(call)
                while not gone:  # noqa: ASYNC110 - the server's side has no event for it
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        return result

    result = trio.run(main)
    assert (result.stages[0].ok, result.stages[0].timed_out) == (1, 1)
