"""Faults of the disk for SQLite's own calls, from Python: what is armed, and what was counted.

The calls are those that change a file whose name has ``.db`` in it. Their shim (``shims/io.c``) is
compiled here and must be there when a process starts (``environment()``): whoever forks its trials
starts itself once again with it. Linux only.
"""

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final, Literal

from attrs import frozen

__all__ = [
    "EIO",
    "ENOSPC",
    "KILL",
    "KILL_AFTER",
    "SHORT",
    "Change",
    "Kind",
    "Op",
    "arm",
    "build",
    "calls",
    "changes",
    "disarm",
    "environment",
    "fired",
    "is_loaded",
    "mark",
    "record",
    "slow",
    "unavailable",
]

Kind = Literal["any", "write", "fsync", "truncate", "unlink"]

EIO: Final = errno.EIO
ENOSPC: Final = errno.ENOSPC
SHORT: Final = -1
"""Half is written, and the next write finds the disk full; other calls are left alone."""
KILL: Final = -2
"""The process dies by SIGKILL before the call."""
KILL_AFTER: Final = -3
"""The same right after it: the kernel has taken it, and nobody has heard."""

_SOURCE: Final = Path(__file__).with_name("shims") / "io.c"
_KINDS: Final = ("any", "write", "fsync", "truncate", "unlink")


def unavailable() -> str:
    """Say why there can be no shim here; an empty text when there can."""
    if not sys.platform.startswith("linux"):
        return f"the shim of the disk is for Linux, this is {sys.platform}"
    if _compiler() is None:
        return "there is no C compiler (gcc or cc) for the shim of the disk"
    return ""


def build(folder: Path) -> Path | None:
    """Compile the shim into *folder*; None when ``unavailable()`` says why not.

    Raises:
        subprocess.CalledProcessError: The compiler refuses it: a defect, or a broken compiler.
    """
    compiler = _compiler()
    if compiler is None or unavailable():
        return None
    made = folder / "io.so"
    fresh = folder / f"io.{os.getpid()}.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", fresh, _SOURCE, "-ldl", "-lpthread"], check=True
    )
    fresh.replace(made)  # at once: another process may be loading it
    return made


def environment(shim: Path) -> dict[str, str]:
    """Return the environment for a fresh interpreter that has the shim."""
    return os.environ | {"LD_PRELOAD": str(shim)}


def is_loaded() -> bool:
    """Whether this process was started with the shim."""
    return hasattr(ctypes.CDLL(None), "io_arm")


def arm(n: int, kind: Kind, mode: int, sticky: bool = False) -> None:
    """Have the *n*-th call of *kind* from now on (the first is 1) meet *mode*.

    Args:
        n: Which call; 0 for none, to count only.
        kind: Which calls are counted; ``any`` for all of them together.
        mode: An errno with which it fails, ``SHORT``, ``KILL`` or ``KILL_AFTER``.
        sticky: All later ones too, until ``disarm()``.
    """
    _loaded().io_arm(n, _KINDS.index(kind), mode, int(sticky))


def disarm() -> None:
    """Let all calls pass from now on. The counters begin anew."""
    arm(0, "any", 0)


def calls(kind: Kind = "any") -> int:
    """Return how many calls of *kind* there were since ``arm()`` or ``disarm()``."""
    return int(_loaded().io_calls(_KINDS.index(kind)))


def fired() -> int:
    """Return how many calls have met what was armed, and what follows upon a short write."""
    return int(_loaded().io_fired())


def slow(kind: Kind, seconds: float) -> None:
    """Have each call of *kind* (not ``any``) take so many seconds more; 0 for none."""
    _loaded().io_slow(_KINDS.index(kind), round(seconds * 1e6))


# -- the record of what happened to the files ----------------------------------------------------


class Op(IntEnum):
    """What a record says, by the letter of the shim."""

    WRITE = ord("w")
    TRUNCATE = ord("t")
    UNLINK = ord("u")
    SYNC = ord("s")
    FAILED_SYNC = ord("f")
    MARK = ord("m")


@frozen(slots=True)
class Change:
    """One record: a change that the kernel took, an fsync, or a mark of ours between them."""

    op: Op
    path: str
    offset: int
    """Of a write, or the new size by a truncate."""
    data: bytes
    """What was written, or the mark's words."""


def record(descriptor: int) -> None:
    """Write each change from now on to *descriptor*; -1 ends it. Calls then go one by one."""
    _loaded().io_record(descriptor)


def mark(words: bytes) -> None:
    """Put a mark into the record, after all changes that have happened by now. Any thread."""
    _loaded().io_mark(words, len(words))


def changes(log: bytes) -> Iterator[Change]:
    """Read what ``record()`` wrote."""
    place = 0
    while place < len(log):
        op, path_size, offset, size = _HEAD.unpack_from(log, place)
        place += _HEAD.size
        path = os.fsdecode(log[place : place + path_size])
        place += path_size
        data = log[place : place + size]
        place += size
        yield Change(Op(op), path, offset, data)


_HEAD: Final = struct.Struct("=IIqq")


@cache
def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    if not hasattr(library, "io_arm"):
        raise RuntimeError("the shim of the disk is not loaded: start again with environment()")
    library.io_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.io_arm.restype = None
    library.io_calls.argtypes = [ctypes.c_int]
    library.io_calls.restype = library.io_fired.restype = ctypes.c_long
    library.io_slow.argtypes = [ctypes.c_int, ctypes.c_long]
    library.io_record.argtypes = [ctypes.c_int]
    library.io_mark.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return library


def _compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")
