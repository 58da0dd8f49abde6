"""From nothing: what an import takes, and how soon a fresh program works on its first item."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.latency.figure import Figure
from benchmarks.process import BenchmarkError

__all__ = ["opening"]

_IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
_PROGRAM = """
import sys, time, trio
from stagerun import Pipeline, open_runtime, stage

@stage
async def first(item):
    print(time.clock_gettime(time.CLOCK_MONOTONIC))

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        await (await runtime.start(Pipeline("first", [first]), [1])).wait()

trio.run(main)
"""


def opening(repeats: int, directory: Path) -> list[Figure]:
    """Import in turns, each in a fresh interpreter; start a program on a database of its own."""
    _seconds(_PROGRAM, str(directory / "first.db"))  # as an installed package, it is compiled
    trio = [_seconds(_IMPORT.format("import trio")) for _ in range(repeats)]
    ours, whole, items = list[float](), list[float](), list[float]()
    for number, base in enumerate(trio):
        ours.append(_seconds(_IMPORT.format("import stagerun")) / base)
        whole.append(_seconds(_IMPORT.format("from stagerun import open_runtime")) / base)
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        items.append((_seconds(_PROGRAM, str(directory / f"{number}.db")) - began) * 1000)
    return [
        Figure("import trio", [seconds * 1000 for seconds in trio]),
        Figure("import stagerun, against it", ours, 1.3, 0.5, unit="x"),
        Figure("from stagerun import open_runtime, against it", whole, unit="x"),
        Figure("process start to the first item", items, 250, 0.5),
    ]


def _seconds(program: str, *arguments: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"a fresh program failed: {done.stderr.strip()}")
    return float(done.stdout)
