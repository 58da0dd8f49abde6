"""stagerun, as in `benchmarks overhead`: four workers a stage, deadlines, every outcome stored."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import trio
from probe import PLACES, Call, Window, called, tell

from stagerun import Pipeline, open_runtime, stage

_COUNTS = "SELECT count(*) FROM items GROUP BY stage"


async def main(call: Call) -> None:
    first, second, third = call.async_bodies(trio.sleep)
    declare = stage(workers=4 if call.measures else PLACES, deadline=30)

    @declare
    async def one(item: int) -> int:
        await first(item)
        return item

    @declare
    async def two(item: int) -> int:
        await second(item)
        return item

    @declare
    async def three(item: int) -> int:
        await third(item)
        return item

    pipeline = Pipeline(
        "peers",
        [one, two, three],
        deadline=1800,
        source=lambda: range(call.items),
        on_interrupt="resume",
    )
    path = call.directory / "stagerun.db"
    async with open_runtime(path, pipelines=[pipeline]) as runtime:
        with Window(call) as window:
            run = await runtime.start(pipeline, key="peers")
            result = await run.wait()
    if result.status != "succeeded":
        sys.exit(f"the run did not succeed: {result}")
    tell(call, window, _stored(path))


def _stored(path: Path) -> int:
    """Open the file anew and count the items that have an outcome in each stage."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        counts = [count for (count,) in connection.execute(_COUNTS)]
    return min(counts) if len(counts) == 3 else 0


if __name__ == "__main__":
    trio.run(main, called())
