"""Resident memory of stagerun: it should follow the buffers, not the number of items."""

import resource
import sys
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.process import measure_apart
from benchmarks.subject import check_stored, run_stagerun

NAME = "memory"
FEW = 1_000

MEGABYTE = 1_000_000


def run(items: int, directory: Path | None = None) -> dict[str, Any]:
    machine = environment.describe(directory)
    few = measure_apart(NAME, FEW, directory)
    many = measure_apart(NAME, items, directory)
    return {
        "benchmark": "memory",
        "command": f"python -m benchmarks memory --items {items}",
        "environment": machine,
        "results": [{"items": FEW, **few}, {"items": items, **many}],
        "difference_mb": many["peak_mb"] - few["peak_mb"],
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines.append(f"{'items':>10}{'start MB':>12}{'peak MB':>12}{'end MB':>12}{'items/s':>12}")
    for result in report["results"]:
        sizes = "".join(f"{result[key]:>12.1f}" for key in ("start_mb", "peak_mb", "end_mb"))
        rate = result["items"] / result["seconds"]
        lines.append(f"{result['items']:>10,}{sizes}{rate:>12,.0f}")
    lines += ["", f"difference of the peaks: {report['difference_mb']:.1f} MB"]
    return "\n".join(lines)


def measure(items: int, directory: Path) -> dict[str, float]:
    """Run stagerun here; sizes in MB of 1,000,000 bytes, before, at most, and after."""
    path = directory / "stagerun.db"
    start = resident("VmRSS")
    seconds = run_stagerun(items, path)
    # The kernel keeps the peak of the whole process: no sampling, nothing missed between samples.
    peak, end = resident("VmHWM"), resident("VmRSS")
    check_stored(items, path)
    return {"seconds": seconds, "start_mb": start, "peak_mb": peak, "end_mb": end}


def resident(field: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        # macOS tells the peak alone, in bytes; others in KiB.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / MEGABYTE
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field)) / MEGABYTE
