"""The child's side of ``mode="process"``: find the function, call it, and say what came of it.

The main thread runs the stage. A second thread reads what the parent sends, so that a cancellation
is seen while the stage works, and the parent's death too. Two more ways lead from the parent's
death to the end of this process and of all that it has started (docs/decisions/0005): the kernel
kills the whole group when the lifeline breaks, whatever holds Python's lock, and sends a signal,
on which this process does so, when the thread that started it has ended.
"""

import ctypes
import fcntl
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, Final, cast

from attrs import define, field

from stagerun.engine.context import CURRENT, Context
from stagerun.engine.token import CancellationToken
from stagerun.logs import RunLog
from stagerun.model.policy import Batch
from stagerun.model.stage import Kind, Stage
from stagerun.offload.crossing import describe, describe_error
from stagerun.offload.frames import Splitter, pack
from stagerun.offload.place import Place, find
from stagerun.store import codec

__all__ = ["main"]

_RATE, _BURST = 50.0, 50.0
"""Reports and heartbeats a second that cross, and how many at once: none may flood the parent."""
_F_SETSIG: Final = 10  # Linux; Python 3.11 has no name for it
_PR_SET_PDEATHSIG: Final = 1


def main(wire_fd: int, lifeline: int, parent: int) -> None:
    """Serve one stage until the parent hangs up."""
    _die_with(parent, lifeline)
    os.set_inheritable(wire_fd, False)
    wire = _Wire(socket.socket(fileno=wire_fd))
    threading.Thread(target=wire.read, name="stagerun wire", daemon=True).start()
    load = wire.requests.get()
    if load is None:
        return
    try:
        server = _Server(wire, **load[1])
    except BaseException as error:  # noqa: BLE001 - whatever an import raises
        wire.send("refused", *describe_error(error))
        return
    wire.send("ready")
    while (request := wire.requests.get()) is not None:
        server.serve(*request[1:])


def _die_with(parent: int, lifeline: int) -> None:
    """Have the kernel end this process, and its group, when the parent is gone."""
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        # Not SIGKILL, which would come before the lifeline breaks, and spare what this has started.
        signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGKILL))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
        # Nothing is ever written to the lifeline: its only news is its end.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != parent:  # it died before all this
        os._exit(1)


class _Wire:
    """The socket to the parent. Sends from any thread; read by one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.requests: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        """Calls to serve; None: the parent has hung up."""
        self.tokens: dict[int, CancellationToken] = {}
        """The token of the call under way, by its number. Made by the thread that reads: a
        cancellation may come right behind its call."""
        self._connection = connection
        self._sending = threading.Lock()
        self._allowance, self._allowed_at = _BURST, time.monotonic()
        os.register_at_fork(after_in_child=connection.close)  # a fork must not hold it open

    def send(self, *fields: Any) -> None:
        frame = pack(*fields)
        with self._sending:
            self._connection.sendall(frame)

    def mention(self, *fields: Any) -> None:
        """Send what may be left out when there is too much of it."""
        now = time.monotonic()
        gained = (now - self._allowed_at) * _RATE
        self._allowance, self._allowed_at = min(_BURST, self._allowance + gained), now
        if self._allowance >= 1.0:
            self._allowance -= 1.0
            self.send(*fields)

    def read(self) -> None:
        splitter = Splitter()
        while received := self._receive():
            for frame in splitter.feed(received):
                if frame[0] == "call":
                    self.tokens[frame[1]] = CancellationToken()
                if frame[0] != "cancel":
                    self.requests.put(frame)
                elif (token := self.tokens.get(frame[1])) is not None:
                    _cancel(token, frame[2])
        if self.tokens:  # at work for nobody
            os.killpg(0, signal.SIGKILL)
        self.requests.put(None)

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(2**20)
        except OSError:  # reset: the parent is gone
            return b""


def _cancel(token: CancellationToken, reason: str) -> None:
    try:
        token.cancel(reason)
    except BaseException as error:  # noqa: BLE001 - a callback of the user's, in this thread
        RunLog(run="-").warning("a callback of the cancellation token raised", exc_info=error)


class _Server:
    """Calls one stage's function, an attempt at a time."""

    def __init__(
        self,
        wire: _Wire,
        *,
        place: dict[str, Any],
        stage: dict[str, Any],
        argv: list[str],
        params: bytes,
        log_level: int,
    ) -> None:
        sys.argv[:] = argv  # a module may look at it while it is imported
        self._wire = wire
        self._limit: int = stage["result_limit"]
        self._run: str = stage["run"]
        self._params = codec.decode(params)
        self._stage = _declared(find(Place(**place)), stage)
        self._decode = codec.decoder(self._stage.value_type)
        _forward_log_lines(wire, log_level)

    def serve(self, number: int, values: list[bytes], attempt: dict[str, Any]) -> None:
        context = self._context(number, **attempt)
        CURRENT.set(context)
        try:
            answer = self._call(values, context)
        except BaseException as error:  # noqa: BLE001 - all that a stage raises is its item's
            answer = ["error", *describe_error(error)]
        self._wire.send("done", number, answer)
        del self._wire.tokens[number]

    def _call(self, values: list[bytes], context: Context) -> list[Any]:
        decoded = [self._decode(value) for value in values]
        options = {"ctx": context} if self._stage.wants_ctx else {}
        if self._stage.kind is not Kind.BATCH:
            return describe(self._stage.function(decoded[0], **options), self._limit)
        results = self._stage.function(decoded, **options)
        if not isinstance(results, list | tuple):
            return describe(results, self._limit)
        return ["many", [describe(result, self._limit) for result in results]]

    def _context(
        self,
        number: int,
        *,
        item: int | None,
        key: Any,
        attempt: int,
        left: float | None,
    ) -> Context:
        hub = _Hub(id=self._run, params=self._params, token=self._wire.tokens[number])
        log = RunLog(run=self._run, stage=self._stage.name)
        desk = _Desk(
            actor=_Actor(hub=hub, stage=self._stage, log=log),
            item=None if item is None else SimpleNamespace(number=item, key=key),
            attempt=attempt,
            deadline=float("inf") if left is None else time.monotonic() + left,
            number=number,
            wire=self._wire,
        )
        return Context(cast("Any", desk))  # what it asks of a desk stands below


def _declared(function: Any, options: dict[str, Any]) -> Stage:
    """Return a stage that takes and gives what the one in the parent does."""
    kind = Kind(options["kind"])
    return Stage(
        function=function,
        kind=kind,
        name=options["name"],
        http_total=options["http_total"],
        batch=Batch() if kind is Kind.BATCH else None,
    )


@define
class _Hub:
    """The run, as far as a context asks for it."""

    id: str
    params: Any
    token: CancellationToken

    def cancel(self, token: CancellationToken, why: str) -> None:
        _cancel(token, why)


@define
class _Actor:
    """The stage, as far as a context asks for it."""

    hub: _Hub
    stage: Stage
    log: RunLog


@define
class _Desk:
    """The attempt, as far as a context asks for it; what it reports goes to the parent."""

    actor: _Actor
    item: Any
    attempt: int
    deadline: float
    number: int
    wire: _Wire
    resource: Any = field(default=None, init=False)

    def report(self, step: str, message: str, done: float | None, total: float | None) -> None:
        texts = (codec.words(step), codec.words(message))
        self.wire.mention("report", self.number, *texts, codec.finite(done), codec.finite(total))

    def heartbeat(self) -> None:
        self.wire.mention("heartbeat", self.number)


def _forward_log_lines(wire: _Wire, level: int) -> None:
    """Have the parent say what is logged with the run's prefix: here nobody may be listening."""
    logger = logging.getLogger("stagerun")
    logger.addHandler(_Forwarding(wire))
    logger.propagate = False
    logger.setLevel(min(level, logging.INFO))


class _Forwarding(logging.Handler):
    """Sends log lines to the parent."""

    def __init__(self, wire: _Wire) -> None:
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        text = getattr(record, "stagerun_text", None) or record.getMessage()
        item = getattr(record, "stagerun_item", None)
        self._wire.send("log", record.levelno, codec.words(text), item)
