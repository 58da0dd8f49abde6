"""How much memory this process uses, and how much it may: told with each beat of its heart.

A process that the kernel kills for want of memory cannot say so itself; its last beat can.
"""

import resource
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["memory"]

_UNLIMITED = 1 << 60
"""Bytes from which on a limit is none."""


def memory() -> tuple[int | None, int | None]:
    """Return the resident bytes of this process and the least limit it has; None: not known."""
    return _used(), _limit()


def _used() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


@cache
def _limit() -> int | None:
    """Read once: it hardly ever changes, and each beat would read several files."""
    limits = [*_group_limits()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min((limit for limit in limits if 0 < limit < _UNLIMITED), default=None)


def _group_limits() -> Iterator[int]:
    """Give the limits of the control groups that this process is in, the outer ones too."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            if controllers
            else (Path("/sys/fs/cgroup"), "memory.max")
        )
        here = root / path.lstrip("/")
        for folder in (here, *here.parents):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):  # no such group in here, or "max"
                continue
