"""The same pipeline inside a trio program of one's own: `python -m examples.integrity.main`."""

import trio

from examples.integrity.pipeline import pipeline
from stagerun import open_runtime


async def main() -> None:
    async with open_runtime("integrity.db") as runtime:
        run = await runtime.start(pipeline, params={"hang": 1})
        result = await run.wait()
        print(f"{result.status} after {result.seconds:.1f} s: {result.message}")
        for counts in result.stages:
            print(f"{counts.name:8}{counts.ok:6} ok {counts.timed_out:3} timed out")
        async for report in result.results():
            print(report)


if __name__ == "__main__":
    trio.run(main)
