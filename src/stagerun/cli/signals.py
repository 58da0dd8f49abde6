"""Signals of ``run``: the first SIGINT cancels, SIGTERM shuts down, a second SIGINT leaves at once.

The handlers are Python's own, not tasks of the event loop: they work while a stage blocks it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

import trio
from attrs import define, field

from stagerun.cli.exits import CANCELLED, INTERRUPTED

__all__ = ["Signals", "leave_at_once"]

_PATIENCE: Final = 2.5
"""Seconds beyond the grace after which a blocked event loop no longer keeps the command."""
_BLOCKED: Final = 1.0
"""Seconds without a tick after which the event loop counts as blocked."""


@define(eq=False)
class Signals:
    """What the operator asked for by signals while a run is under way."""

    grace: float
    """The run's grace in seconds."""
    cancel: trio.Event = field(factory=trio.Event)
    shutdown: trio.Event = field(factory=trio.Event)
    status: int | None = None
    """The exit status that goes with the first signal; None: there was none."""
    ticked_at: float = field(factory=time.monotonic)
    """When the event loop was last seen at work."""
    screen_in_use: bool = False
    """Whether bars hide the cursor."""
    blame_nobody: Callable[[], None] = lambda: None
    """Called with the first signal: what is under way is not to blame if the process is killed."""
    _asked: threading.Event = field(factory=threading.Event)
    _over: threading.Event = field(factory=threading.Event)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen until the block is left. In the main thread, inside ``trio.run``."""
        host = trio.lowlevel.current_trio_token()

        def hear(number: int, _frame: FrameType | None) -> None:
            self.blame_nobody()
            if number == signal.SIGINT and self.status is not None:
                self._force(self.status)
            if self.status is None:
                self.status = CANCELLED if number == signal.SIGINT else INTERRUPTED
            event = self.cancel if number == signal.SIGINT else self.shutdown
            with suppress(trio.RunFinishedError):
                host.run_sync_soon(event.set)
            self._asked.set()

        guard = threading.Thread(target=self._guard, name="stagerun-signals", daemon=True)
        guard.start()
        before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self.rest()
            for number, handler in before.items():
                signal.signal(number, handler)

    def rest(self) -> None:
        """Judge the event loop no more: the run has ended, and what blocks now is the output."""
        self._over.set()
        self._asked.set()

    async def tick(self) -> None:
        """Show for ever that the event loop is at work."""
        while True:
            self.ticked_at = time.monotonic()
            await trio.sleep(0.1)

    @property
    def blocked_for(self) -> float:
        """Seconds for which the event loop has been blocked; 0 when it is not."""
        silent = time.monotonic() - self.ticked_at
        return silent if silent > _BLOCKED else 0.0

    def _guard(self) -> None:
        """Leave for a stage that blocks the event loop, which then can do nothing by itself."""
        self._asked.wait()
        wait = self.grace + _PATIENCE
        while not self._over.wait(wait):
            wait = _BLOCKED
            if self.blocked_for:
                os.write(2, b"\nstagerun: a stage blocks the event loop: left without an ending\n")
                self._force(self.status or INTERRUPTED)

    def _force(self, status: int) -> NoReturn:
        """Leave now and write nothing more; only the cursor comes back."""
        if self.screen_in_use:
            os.write(2, b"\x1b[?25h\n")
        os._exit(status)


def leave_at_once(status: int) -> NoReturn:
    """Leave although threads or tasks still run; all that was said is flushed before."""
    flushes: list[Callable[[], None]] = [
        stream.flush for stream in (sys.stdout, sys.stderr) if stream is not None
    ]
    for flush in flushes:
        with suppress(OSError, ValueError):
            flush()
    os._exit(status)
