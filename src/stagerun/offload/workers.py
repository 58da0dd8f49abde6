"""The parent's side of ``mode="process"``: worker processes that are killed when they overrun.

Each process leads a session of its own, so that killing its group takes along what it started. It
is started from the thread of the event loop, for the kernel ties its life to that thread.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from attrs import define, field

from stagerun.errors import WorkerDied
from stagerun.offload.crossing import restore, restore_error
from stagerun.offload.frames import Splitter, pack

__all__ = ["WorkerProcess", "Workers"]

_START = 30.0
"""Seconds for a new process to import its module."""
_LEAVE = 1.0
"""Seconds for an idle process to leave by itself, so that what it registered for its exit runs."""
_LOOK = 0.005
"""Seconds between two looks at a process, where the system cannot wake us."""
_CHUNK = 2**20
_WORDS = 500
_PERHAPS = ": by the system when memory is short, or by somebody"
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]);"
    " from stagerun.offload.child import main; main(*map(int, sys.argv[3:6]))"
)

Hear = Callable[[list[Any]], None]
"""Takes a frame that comes while a call is under way: ``report``, ``heartbeat``, ``log``."""


@define(eq=False)
class Workers:
    """The processes of one stage: those that rest wait for the next item."""

    stage: str
    load: dict[str, Any]
    """What a new process has to know; see ``child.py``."""
    idle: list["WorkerProcess"] = field(factory=list, init=False)
    _ended: bool = field(default=False, init=False)

    def rested(self) -> "WorkerProcess | None":
        """Return a process that has nothing to do, if there is one."""
        return self.idle.pop() if self.idle else None

    async def fresh(self) -> "WorkerProcess":
        """Start a process and wait until it has imported its module.

        Raises:
            WorkerDied: It ended meanwhile, or took too long.
        """
        worker = WorkerProcess.spawn(self.stage)
        with trio.move_on_after(_START):
            await worker.begin(self.load)
            return worker
        raise WorkerDied(f"{worker.name} did not start within {_START:g} s")

    async def rest(self, worker: "WorkerProcess") -> None:
        """Let a process wait for the next item, if it lives and one may come."""
        if self._ended:
            await worker.kill()
        elif worker.alive:
            self.idle.append(worker)

    async def end(self, *, at_once: bool) -> None:
        """Let the processes go that rest. Ends within a second or so; nothing can cut it."""
        self._ended = True
        resting, self.idle = self.idle, []
        with trio.CancelScope(shield=True):
            await self._dismiss(resting, at_once=at_once)

    @staticmethod
    async def _dismiss(resting: list["WorkerProcess"], *, at_once: bool) -> None:
        async with trio.open_nursery() as nursery:
            for worker in resting:
                nursery.start_soon(worker.kill if at_once else worker.leave)


class WorkerProcess:
    """One process, working for one attempt at a time."""

    def __init__(
        self, stage: str, process: "subprocess.Popen[bytes]", ours: socket.socket, lifeline: int
    ) -> None:
        self.name = f"the worker process {process.pid} of stage {stage}"
        self._process = process
        self._socket = ours
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._lifeline = lifeline
        self._splitter = Splitter()
        self.calls = 0
        """How many calls it was given: the number of the one under way."""
        self._sending = False
        self._cancel: str | None = None
        """Why the call under way was asked to stop, while it is still being sent."""

    @classmethod
    def spawn(cls, stage: str) -> "WorkerProcess":
        """Start a process. Blocks for the milliseconds that the system needs for it."""
        ours, theirs = socket.socketpair()
        broken, lifeline = os.pipe()
        with theirs:
            places = [str(theirs.fileno()), str(broken), str(os.getpid())]
            name = f"stagerun worker of stage {stage}"
            try:
                process = subprocess.Popen(  # noqa: S603 - our own program, without a shell
                    [sys.executable, "-P", "-c", _BOOT, name, json.dumps(sys.path), *places],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), broken],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                os.close(lifeline)
                raise
            finally:
                os.close(broken)
        return cls(stage, process, ours, lifeline)

    async def begin(self, load: dict[str, Any]) -> None:
        """Tell the process what it is for. Raises what its import raised."""
        answer = await self._exchange(pack("load", load), lambda _frame: None)
        if answer[0] == "refused":
            await self.kill()
            raise restore_error(*answer[1:])

    async def call(self, request: tuple[Any, ...], hear: Hear) -> Any:
        """Make one call; return its result, or raise its error. A call that is cut is killed.

        Raises:
            WorkerDied: The process ended before it answered.
        """
        frame = pack("call", self.calls + 1, *request)
        self.calls += 1
        answer = (await self._exchange(frame, hear))[2]
        if answer[0] == "many":
            return [restore(each) for each in answer[1]]
        result = restore(answer)
        if answer[0] == "error":
            raise result
        return result

    @property
    def alive(self) -> bool:
        """Whether it can take another call."""
        return self._process.returncode is None

    def cancel(self, call: int, why: str) -> None:
        """Cancel the token of a call, if it is still under way."""
        if call != self.calls:
            return
        if self._sending:
            self._cancel = why
            return
        with suppress(OSError):  # no room, or nobody there: its scope will be cut all the same
            self._socket.send(pack("cancel", self.calls, why[:_WORDS]))

    async def kill(self) -> None:
        """Kill the process and what it has started; return when it is gone."""
        self._kill_group()
        with trio.CancelScope(shield=True):
            await self._gone()

    async def leave(self) -> None:
        """Ask the process to leave; kill it, or what it leaves behind, after a second."""
        with trio.CancelScope(shield=True):
            self._socket.shutdown(socket.SHUT_WR)
            with trio.move_on_after(_LEAVE):
                await self._ended()
            await self.kill()

    async def _exchange(self, frame: bytes, hear: Hear) -> list[Any]:
        """Send a request and wait for its answer; whatever ends this earlier kills the process."""
        answer = None
        self._sending, self._cancel = True, None
        try:
            await self._stream.send_all(frame)
            self._sending = False
            if self._cancel is not None:
                self.cancel(self.calls, self._cancel)
            answer = await self._answer(hear)
        except trio.BrokenResourceError:
            answer = None  # it was dead before the request had reached it
        finally:
            if answer is None:
                await self.kill()
        if answer is None:
            raise WorkerDied(f"{self.name} {_manner(self._process.returncode)}")
        return answer

    async def _answer(self, hear: Hear) -> list[Any] | None:
        """Read until there is an answer, or the end; what is said meanwhile is heard."""
        while received := await self._received():
            answer = None
            for frame in self._splitter.feed(received):
                if frame[0] in ("ready", "refused"):
                    answer = frame
                elif frame[0] == "log" or frame[1] == self.calls:
                    if frame[0] == "done":
                        answer = frame
                    else:
                        hear(frame)
            if answer is not None:
                return answer
        return None

    async def _received(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except trio.BrokenResourceError:  # reset: it died with something unread
            return b""

    def _kill_group(self) -> None:
        """Kill the process and its group. It has not been waited for, so its number is its own."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # macOS says so of the dead
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _gone(self) -> None:
        """Wait for the killed process, and give back what it held here."""
        if self._process.returncode is None:
            await self._ended()
            self._process.wait()
            await self._stream.aclose()
            os.close(self._lifeline)

    async def _ended(self) -> None:
        """Wait until the process has ended, without asking the system for its status."""
        if hasattr(os, "pidfd_open"):
            watch = os.pidfd_open(self._process.pid)
            try:
                await trio.lowlevel.wait_readable(watch)
            finally:
                os.close(watch)
        else:
            while self._process.poll() is None:  # noqa: ASYNC110 - only a look can tell
                await trio.sleep(_LOOK)


def _manner(status: int) -> str:
    if status >= 0:
        return f"ended by itself with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"was killed by {name}" + (_PERHAPS if name == "SIGKILL" else "")
