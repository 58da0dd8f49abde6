"""What it costs to call code that does not run on trio's loop: processes, threads, asyncio."""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

import trio
from attrs import asdict

from benchmarks import environment
from stagerun import stage
from stagerun.offload.loop import AsyncioCall, AsyncioLoop
from stagerun.offload.place import place_of
from stagerun.offload.workers import WorkerProcess, Workers
from stagerun.store import codec

_DEADLINE = 0.1
_COLD = 10
_KILLS = 20


@stage(mode="process")
def work(seconds: float) -> float:
    if seconds:
        time.sleep(seconds)
    return seconds


def run(calls: int, directory: Path | None) -> dict[str, Any]:
    return {
        "benchmark": "offload",
        "command": f"python -m benchmarks offload --calls {calls}",
        "environment": environment.describe(directory),
        "results": trio.run(_measure, calls),
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines.append(f"{'milliseconds':<44}{'p50':>9}{'p99':>9}")
    for name, (median, high) in report["results"].items():
        lines.append(f"{name:<44}{median:>9.3f}{high:>9.3f}")
    return "\n".join(lines)


async def _measure(calls: int) -> dict[str, Any]:
    load = {
        "place": asdict(place_of(work)),
        "stage": {
            "name": work.name,
            "kind": work.kind.value,
            "run": "0" * 32,
            "result_limit": work.result_limit,
            "http_total": work.http_total,
        },
        "argv": [],
        "params": codec.encode(None),
        "log_level": 20,
    }
    workers = Workers("work", load)
    cold, overshoot = [], []
    for _ in range(_COLD):
        began = time.perf_counter()
        workers.idle.append(await workers.fresh())
        cold.append(time.perf_counter() - began)
    worker = workers.idle[0]
    warm = await _each(calls, lambda: _call(worker, 0.0))
    await workers.end(at_once=True)
    for _ in range(_KILLS):
        worker, began = await workers.fresh(), time.perf_counter()
        with trio.move_on_after(_DEADLINE):
            await _call(worker, 60.0)
        overshoot.append(time.perf_counter() - began - _DEADLINE)
    loop = AsyncioLoop()
    under_asyncio = await _each(calls, lambda: _call_asyncio(loop))
    await loop.close()
    in_thread = await _each(calls, lambda: trio.to_thread.run_sync(lambda: 0.0))
    return {
        "process: started, module imported": _quantiles(cold),
        "process: a call, warm": _quantiles(warm),
        "process: dead after its deadline": _quantiles(overshoot),
        "asyncio: a call": _quantiles(under_asyncio),
        "thread: a call": _quantiles(in_thread),
    }


async def _call(worker: WorkerProcess, seconds: float) -> None:
    attempt = {"item": 1, "key": None, "attempt": 1, "left": None}
    await worker.call(([codec.encode(seconds)], attempt), lambda _frame: None)


async def _call_asyncio(loop: AsyncioLoop) -> None:
    async def nothing() -> None:
        pass

    ended = trio.Event()

    def on_end(_call: AsyncioCall) -> None:
        ended.set()

    loop.call(nothing, copy_context(), on_end)
    await ended.wait()


async def _each(calls: int, call: Callable[[], Awaitable[object]]) -> list[float]:
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return taken


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return median and p99 in milliseconds, by nearest rank."""
    ordered = sorted(seconds)
    ranks = (math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.99))
    median, high = (ordered[rank] * 1000 for rank in ranks)
    return median, high
