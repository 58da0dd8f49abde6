"""How soon a run of another process hears that it shall stop, has ended, and says why it waits."""

import math
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import trio

from benchmarks import environment
from benchmarks.process import BenchmarkError
from stagerun import Runtime, open_runtime

_OWNER = """
import sys, time, trio
from stagerun import Pipeline, open_runtime, stage

@stage(deadline=None)
async def wait(n):
    await trio.sleep_forever()

@stage(deadline=None)
async def block(n):
    time.sleep(3600)

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        for _ in range(int(sys.argv[2])):
            run = await runtime.start(Pipeline("wait", [wait], grace=1, deadline=None), [1])
            print(run.id, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        run = await runtime.start(Pipeline("block", [block], grace=1, deadline=None), [1])
        print(run.id, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
_OFFSETS = (0.037 * number % 0.25 for number in count())
"""Seconds between two requests: asked back to back, each would just have missed a look."""
_WARM_UP = 1.0
"""Seconds after which a stage that blocks the event loop has been found out."""


def run(runs: int, directory: Path | None) -> dict[str, Any]:
    """Ask *runs* runs of one other process, one after the other."""
    with tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch:
        path = Path(scratch) / "stagerun.db"
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(path), str(runs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            results = trio.run(_measure, owner, path, runs)
        finally:
            owner.kill()
            owner.communicate(timeout=30)
    return {
        "benchmark": "asking",
        "command": f"python -m benchmarks asking --runs {runs}",
        "environment": environment.describe(directory),
        "results": results,
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines.append(f"{'milliseconds':<44}{'p50':>8}{'p99':>8}")
    for name, (median, high) in report["results"].items():
        lines.append(f"{name:<44}{median:>8.0f}{high:>8.0f}")
    return "\n".join(lines)


async def _measure(owner: "subprocess.Popen[str]", path: Path, number: int) -> dict[str, Any]:
    assert owner.stdout is not None
    assert owner.stdin is not None
    runs = [owner.stdout.readline().strip() for _ in range(number)]
    if not all(runs):
        raise BenchmarkError("the other process did not start its runs")
    async with open_runtime(path) as runtime:
        why = [await _seconds_until_told(runtime, run) for run in runs]
        for run in runs:
            await trio.sleep(next(_OFFSETS))
            await runtime.cancel(run)
        await trio.sleep(2)
        owner.stdin.write("go on\n")
        owner.stdin.flush()
        blocked = owner.stdout.readline().strip()
        await trio.sleep(_WARM_UP)
        held = [await _seconds_until_told(runtime, blocked) for _ in runs]
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT (q.taken_at - q.asked_at) / 1e6, (g.finished_at - q.asked_at) / 1e6"
            " FROM requests q JOIN generations g USING (run, generation)"
            " WHERE q.kind = 'cancel' AND g.status = 'cancelled'"
        ).fetchall()
    if len(rows) != number:
        raise BenchmarkError(f"{len(rows)} of {number} runs were cancelled")
    return {
        "cancel: asked to token set": _quantiles([taken for taken, _ in rows]),
        "cancel: asked to ending on disk": _quantiles([ended for _, ended in rows]),
        "why: asked to answered": _quantiles(why),
        "why: the same, event loop blocked": _quantiles(held),
    }


async def _seconds_until_told(runtime: Runtime, run: str) -> float:
    await trio.sleep(next(_OFFSETS))
    began = time.perf_counter()
    told = await runtime.why(run)
    if told["told_by"] != "process":
        raise BenchmarkError(f"run {run} did not answer: {told['summary']}")
    return time.perf_counter() - began


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return median and p99 in milliseconds, by nearest rank."""
    ordered = sorted(seconds)
    ranks = (math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.99))
    median, high = (ordered[rank] * 1000 for rank in ranks)
    return median, high
