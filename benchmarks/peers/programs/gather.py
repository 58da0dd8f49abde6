"""Plain `asyncio.gather` over all items: nothing is stored."""

import asyncio

from probe import Call, Window, called, tell


async def main(call: Call) -> None:
    one, two, three = call.async_bodies(asyncio.sleep)

    async def carry(item: int) -> None:
        await one(item)
        await two(item)
        await three(item)

    with Window(call) as window:
        await asyncio.gather(*(carry(item) for item in range(call.items)))
    tell(call, window, call.finished)


if __name__ == "__main__":
    asyncio.run(main(called()))
