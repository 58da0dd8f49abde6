"""SAQ over Redis as it comes: each of three jobs an item enqueues the next; 50 at once."""

import asyncio
from typing import Any

from probe import PLACES, Call, Window, called, tell
from saq import Queue, Worker

_AT_ONCE = 50


async def main(call: Call) -> None:
    queue = Queue.from_url(call.service)
    await queue.connect()
    first, second, third = call.async_bodies(asyncio.sleep)
    ended = asyncio.Event()

    async def one(_: Any, *, item: int) -> None:
        await first(item)
        await queue.enqueue("two", key=f"two-{item}", item=item)

    async def two(_: Any, *, item: int) -> None:
        await second(item)
        await queue.enqueue("three", key=f"three-{item}", item=item)

    async def three(_: Any, *, item: int) -> None:
        await third(item)

    async def count(_: Any) -> None:
        if call.finished == call.items:
            ended.set()

    concurrency = _AT_ONCE if call.measures else PLACES
    worker = Worker(
        queue,
        functions=[("one", one), ("two", two), ("three", three)],
        concurrency=concurrency,
        after_process=count,
    )
    serving = asyncio.create_task(worker.start())
    with Window(call) as window:
        if not call.resumes:
            for item in range(call.items):
                await queue.enqueue("one", key=f"one-{item}", item=item)
        await ended.wait()
    stored = await _complete(queue, call.items)
    await worker.stop()
    await serving
    await queue.disconnect()
    tell(call, window, stored)


async def _complete(queue: Queue, items: int) -> int:
    """Count the last jobs that Redis holds as complete."""
    jobs = [await queue.job(f"three-{item}") for item in range(items)]
    return sum(job is not None and job.status == "complete" for job in jobs)


if __name__ == "__main__":
    asyncio.run(main(called()))
