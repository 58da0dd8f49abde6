"""What the programs of the peers share: how they are called, and what they tell.

`measure ITEMS DIRECTORY` has the items go through three steps that do nothing, and prints one line
of JSON. `begin` and `again` are one trial: the second step takes a while, each step tells of
itself in a file, and somebody kills `begin`. Nothing but the standard library is imported here,
as each peer has an environment of its own.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

PLACES = 10
"""Items that are under way at once in a trial, where the peer can be told."""
PAUSE = 0.2
"""Seconds that the second step of a trial takes."""
_MEGABYTE = 1_000_000

Body = Callable[[int], None]
AsyncBody = Callable[[int], Awaitable[None]]


@dataclass
class Call:
    """One call of a program, and what it has seen so far."""

    mode: str
    items: int
    directory: Path
    variant: str
    service: str
    service_pid: int | None
    first_step_at: float = 0.0
    _done: set[int] = field(default_factory=set)
    _log: int = -1

    @property
    def measures(self) -> bool:
        return self.mode == "measure"

    @property
    def finished(self) -> int:
        """How many items have had their third step."""
        return len(self._done)

    @property
    def resumes(self) -> bool:
        return self.mode == "again"

    def bodies(self) -> tuple[Body, Body, Body]:
        """The three steps, for those that call functions."""
        if self.measures:
            return self._first, _nothing, self._last
        self._log = os.open(self._log_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return self._noted(1, _nothing), self._noted(2, _pause), self._noted(3, self._last)

    def async_bodies(
        self, sleep: Callable[[float], Awaitable[None]]
    ) -> tuple[AsyncBody, AsyncBody, AsyncBody]:
        """The three steps, for those that await coroutines: of asyncio or of trio."""
        first, _, third = self.bodies()

        async def one(item: int) -> None:
            first(item)

        async def two(item: int) -> None:
            if self.measures:
                return
            self.note("begun", 2, item)
            await sleep(PAUSE)
            self.note("finished", 2, item)

        async def three(item: int) -> None:
            third(item)

        return one, two, three

    def note(self, what: str, step: int, item: int) -> None:
        """Append a line at once: what was written before a `kill -9` is in the file."""
        os.write(self._log, f"{what} {step} {item}\n".encode())

    def _noted(self, step: int, body: Body) -> Body:
        def noted(item: int) -> None:
            self.note("begun", step, item)
            body(item)
            self.note("finished", step, item)

        return noted

    def _first(self, _: int) -> None:
        if not self.first_step_at:
            self.first_step_at = time.time()

    def _last(self, item: int) -> None:
        self._done.add(item)

    def _log_path(self) -> Path:
        return self.directory / f"{self.mode}.log"


class Window:
    """The time that is measured, and the CPU seconds of all that works in it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.seconds = self.cpu_seconds = self.memory_mb = 0.0

    def __enter__(self) -> Self:
        self._used = _used(self._call.service_pid)
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = _used(self._call.service_pid) - self._used
        self.memory_mb = sum(map(_peak, _session())) / _MEGABYTE


def called() -> Call:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["measure", "begin", "again"])
    parser.add_argument("items", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--variant", default="")
    parser.add_argument("--service", default="")
    parser.add_argument("--service-pid", type=int)
    return Call(**vars(parser.parse_args()))


def tell(call: Call, window: Window, stored: int) -> None:
    """Print the figures, unless not all the work was done, or not all of it is stored.

    A trial tells nothing here: it is judged by its files.
    """
    if not call.measures:
        return
    if not call.finished == stored == call.items:
        sys.exit(f"{call.finished} of {call.items} items went through, {stored} are stored")
    figures = {
        "seconds": window.seconds,
        "cpu_seconds": window.cpu_seconds,
        "memory_mb": window.memory_mb,
        "first_step_at": call.first_step_at,
    }
    print(json.dumps(figures))


def _nothing(_: int) -> None:
    pass


def _pause(_: int) -> None:
    time.sleep(PAUSE)


def _used(service: int | None) -> float:
    """CPU seconds of this process, of the others of its session, and of the service."""
    others = [pid for pid in _session() if pid != os.getpid()]
    others += [] if service is None else [service]
    return time.process_time() + sum(map(_used_by, others))


def _session() -> list[int]:
    """The processes of this session; where there is no /proc, this one alone."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if _belongs(pid)] or [os.getpid()]


def _belongs(pid: int) -> bool:
    try:
        return os.getsid(pid) == os.getsid(0)
    except OSError:  # it has just ended, or is not ours to ask about
        return False


def _used_by(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> float:
    """The most memory in bytes that a process has had, by the kernel's count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
