"""A parent that has opened nothing and has no threads, its forked children, and what they say."""

import contextlib
import json
import os
import random
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import field, frozen

from tests.campaign.crowdhistory import History, Process
from tests.campaign.crowdruns import EXECUTED
from tests.campaign.told import spoken

__all__ = ["Family"]


@frozen
class Family:
    """The children of this process; it hears over one pipe what they were told."""

    path: Path
    """Their database. What they note, and say on standard error, stands beside it."""
    history: History = field(factory=History, kw_only=True)
    alive: dict[int, Process] = field(factory=dict, kw_only=True)
    later: list[tuple[float, Callable[[], None]]] = field(factory=list, kw_only=True)
    """What is to be done when its time has come, for example SIGCONT."""
    _pipe: tuple[int, int] = field(factory=os.pipe, kw_only=True)
    _rest: list[bytes] = field(factory=lambda: [b""], kw_only=True)

    def begin(self) -> None:
        """Be ready for children."""
        if threading.active_count() > 1:
            raise RuntimeError("children are forked, and this process has threads")
        noted = self.path.with_name("executed")
        executed = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.environ[EXECUTED] = str(executed)
        os.set_blocking(self._pipe[0], False)

    def fork(
        self, role: str, function: Callable[..., None], *args: Any, limited: bool = False
    ) -> Process:
        errors = self.path.with_name(f"errors-{len(self.history.processes)}")
        pid = os.fork()
        if pid:
            return self.born(Process(pid, role, errors, limited=limited))
        status = 1
        try:
            descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(descriptor, 2)
            random.seed(os.getpid())
            function(*args)
            status = 0
        except BaseException:  # noqa: BLE001 - it is looked for in what was said
            traceback.print_exc()
        finally:
            os._exit(status)

    def born(self, process: Process) -> Process:
        self.history.processes.append(process)
        self.alive[process.pid] = process
        return process

    def those(self, role: str) -> list[Process]:
        return [each for each in self.alive.values() if each.role == role and not each.is_killed]

    def signal(self, process: Process, number: signal.Signals) -> None:
        if process.gone_at is None:
            process.signals.append((number, time.monotonic(), time.time()))
            os.kill(process.pid, number)

    def say(self, words: list[Any]) -> None:
        os.write(self._pipe[1], spoken(words) + b"\n")  # short enough to go as a whole

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Hear what is said, and do what is due, until *condition* or the time is over."""
        until = time.monotonic() + seconds
        while not condition() and (now := time.monotonic()) < until:
            for due in [each for each in self.later if each[0] <= now]:
                self.later.remove(due)
                due[1]()
            select.select([self._pipe[0]], [], [], 0.01)
            self._hear()
            self._reap()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._pipe[0], 1 << 16):
                *lines, self._rest[0] = (self._rest[0] + more).split(b"\n")
                for line in lines:
                    self.history.hear(json.loads(line))

    def _reap(self) -> None:
        """Note who has gone; who was killed stays unreaped for a while, as zombies do."""
        for process in list(self.alive.values()):
            killed_at = process.killed_at
            if killed_at is not None and time.monotonic() < killed_at + 1.0:
                continue
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                process.gone_at, process.status = (
                    time.monotonic(),
                    os.waitstatus_to_exitcode(status),
                )
                del self.alive[pid]
