"""pypeln in task mode (asyncio): four workers a stage, queues of 100, nothing is stored."""

import asyncio

import pypeln
from probe import Call, Window, called, tell


def main(call: Call) -> None:
    first, second, third = call.async_bodies(asyncio.sleep)

    async def one(item: int) -> int:
        await first(item)
        return item

    async def two(item: int) -> int:
        await second(item)
        return item

    async def three(item: int) -> int:
        await third(item)
        return item

    with Window(call) as window:
        items = pypeln.task.map(one, range(call.items), workers=4, maxsize=100)
        items = pypeln.task.map(two, items, workers=4, maxsize=100)
        count = sum(1 for _ in pypeln.task.map(three, items, workers=4, maxsize=100))
    tell(call, window, count)


if __name__ == "__main__":
    main(called())
