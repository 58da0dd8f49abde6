"""Clocks on the wall that jump while monotonic time goes on, for processes started with the shim.

``shims/clock.c`` is compiled here and preloaded by ``environment()``. The processes then follow a
file; whoever sets what stands there moves the clocks of all that follow it. Linux only.
"""

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

from attrs import define

from tests.campaign import shim

__all__ = ["Clock", "build", "environment", "follow", "is_loaded", "unavailable"]

_SOURCE: Final = Path(__file__).with_name("shims") / "clock.c"
_SHIFT: Final = struct.Struct("=qq")


def unavailable() -> str:
    """Say why there can be no shim here; an empty text when there can."""
    return shim.unavailable().replace("of the disk", "of the clock")


def build(folder: Path) -> Path | None:
    """Compile the shim into *folder*; None when ``unavailable()`` says why not.

    Raises:
        subprocess.CalledProcessError: The compiler refuses it: a defect, or a broken compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or unavailable():
        return None
    made, fresh = folder / "clock.so", folder / f"clock.{os.getpid()}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", fresh, _SOURCE, "-ldl"], check=True)
    fresh.replace(made)  # at once: another process may be loading it
    return made


@define(eq=False)
class Clock:
    """The file that processes follow: how far their clocks are from the true ones."""

    path: Path
    _wall: int = 0
    _boot: int = 0

    def __attrs_post_init__(self) -> None:
        self.path.write_bytes(_SHIFT.pack(0, 0))

    @property
    def wall(self) -> float:
        """What a process that follows it reads as the time since 1970, in seconds."""
        return time.time() + self._wall / 1e9

    def sleep(self, seconds: float) -> None:
        """Have the machine wake up after a sleep of so many seconds, in which nothing ran."""
        self._wall += round(seconds * 1e9)
        self._boot += round(seconds * 1e9)
        self._set()

    def jump(self, seconds: float) -> None:
        """Set the clock on the wall forward, or back by a negative number."""
        self._wall += round(seconds * 1e9)
        self._set()

    def put_right(self) -> None:
        """Set the clock on the wall to the true time; what the machine has slept stays."""
        self._wall = 0
        self._set()

    def _set(self) -> None:
        with self.path.open("r+b") as file, mmap.mmap(file.fileno(), _SHIFT.size) as mapped:
            mapped[:] = _SHIFT.pack(self._wall, self._boot)


def environment(library: Path, clock: Clock) -> dict[str, str]:
    """Return the environment for a fresh interpreter that has the shim and follows *clock*."""
    return os.environ | {"LD_PRELOAD": str(library), "CAMPAIGN_CLOCK": str(clock.path)}


def follow(clock: Clock) -> None:
    """Have this process, which has the shim, follow another clock from now on."""
    if not ctypes.CDLL(None).clock_follow(os.fsencode(clock.path)):
        raise OSError(f"the clock {clock.path} cannot be followed")


def is_loaded() -> bool:
    """Whether this process was started with the shim."""
    return hasattr(ctypes.CDLL(None), "clock_follow")
