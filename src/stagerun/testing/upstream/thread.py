"""The upstream in a thread, for programs that are not trio's, and for plain tests."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import trio

from stagerun.testing.upstream.server import TLS, Upstream, open_upstream

__all__ = ["upstream_in_thread"]


@contextmanager
def upstream_in_thread(tls: TLS | None = None) -> Iterator[Upstream]:
    """Run an upstream in a thread: for asyncio, for FastAPI's tests, for plain functions.

    The same as `open_upstream`, but for `asked()`, which is for trio programs alone.
    """
    opened: Future[tuple[Upstream, trio.lowlevel.TrioToken]] = Future()
    left = trio.Event()

    async def main() -> None:
        async with open_upstream(tls) as upstream:
            opened.set_result((upstream, trio.lowlevel.current_trio_token()))
            await left.wait()

    with ThreadPoolExecutor(1, thread_name_prefix="upstream") as pool:
        served = pool.submit(trio.run, main)
        either: list[Future[Any]] = [served, opened]
        wait(either, return_when=FIRST_COMPLETED)
        if not opened.done():
            served.result()  # raises why it could not be opened
        upstream, token = opened.result()
        try:
            yield upstream
        finally:
            if not served.done():
                token.run_sync_soon(left.set)
        served.result()
