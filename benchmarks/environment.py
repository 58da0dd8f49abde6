"""What the figures were measured on."""

import os
import platform
import sqlite3
import tempfile
from importlib.metadata import version
from pathlib import Path


def describe(directory: Path | None) -> dict[str, str | int | float]:
    """Versions, machine, and the file system of `directory`: on tmpfs a commit costs nothing."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "trio": version("trio"),
        "aiosqlite": version("aiosqlite"),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count() or 0,
        "load_before": round(os.getloadavg()[0], 2),
        "filesystem": _filesystem(directory or Path(tempfile.gettempdir())),
    }


def line(environment: dict[str, str | int | float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def stolen() -> float | None:
    """CPU seconds that the hypervisor gave to others since boot, where Linux tells.

    Other load on the machine's host makes every figure smaller and shows nowhere else.
    """
    statistics = Path("/proc/stat")
    if not statistics.exists():
        return None
    return int(statistics.read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def stolen_since(before: float | None) -> float | None:
    after = stolen()
    return None if before is None or after is None else after - before


def _filesystem(directory: Path) -> str:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    fields = (mount.split() for mount in mounts.read_text().splitlines())
    kinds = {Path(where): kind for _, where, kind, *_ in fields}
    path = directory.resolve()
    return next(kinds[parent] for parent in (path, *path.parents) if parent in kinds)
