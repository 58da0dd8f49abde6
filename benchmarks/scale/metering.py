"""What a program costs: time, processor time, memory, and the file that it leaves."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter, process_time

import trio

from benchmarks.memory import MEGABYTE, resident
from stagerun import Runtime, open_runtime

__all__ = ["FILE", "Program", "metered"]

FILE = "stagerun.db"

Program = Callable[[Runtime], Awaitable[dict[str, float]]]
"""Returns what it has to tell beside its cost."""


def metered(program: Program, items: int, steps: int, directory: Path) -> dict[str, float]:
    """Run *program* here; times are those between an open runtime and the return."""
    start = resident("VmRSS")
    told = trio.run(_timed, program, directory / FILE)
    # The kernel keeps the peak of the whole process: no sampling, nothing missed between samples.
    # Its counters are summed up some pages late: what was seen at the start has been, too.
    peak = max(start, resident("VmHWM"))
    size = sum(file.stat().st_size for file in directory.glob(f"{FILE}*"))
    return {
        "items": items,
        "steps": steps,
        "steps_per_second": steps / told["seconds"],
        "cpu_seconds_per_1000_steps": 1000 * told["cpu_seconds"] / steps,
        "start_mb": start,
        "peak_mb": peak,
        "growth_mb": peak - start,
        "file_mb": size / MEGABYTE,
        "bytes_per_item": size / items,
        "bytes_per_step": size / steps,
        **told,
    }


async def _timed(program: Program, path: Path) -> dict[str, float]:
    async with open_runtime(path) as runtime:
        began, used = perf_counter(), process_time()
        told = await program(runtime)
        return {
            "seconds": perf_counter() - began,
            "cpu_seconds": process_time() - used,
            **told,
        }
