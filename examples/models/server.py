"""A model server for loopback, without a model: answers come from the words of the question.

    python -m examples.models.server --port 0 --hang 1 --busy 3

It speaks the usual protocol, and when it listens it prints one line,
{"address": "http://127.0.0.1:PORT/v1"}.

    POST /v1/chat/completions    messages, response_format (json_schema, json_object), max_tokens
    POST /v1/embeddings          input: a text, or a list of texts; 64 numbers for each
    GET  /v1/models
    GET  /requests               {"requests", "chats", "embeddings", "open", "contents",
                                  "latest": [what was asked]}

Answers are the same for the same request (answers.py). So many requests as asked for misbehave,
counted as different contents arrive:

    hang        never answered                              every time
    drip        sent one byte at a time                     every time
    busy        429 with Retry-After                        the first time
    malformed   200, but not the JSON that was asked for    the first time
    reset       connection reset in the middle of the body  the first time

The same does a text that has [[hang]], [[drip]], [[busy]], [[malformed]] or [[reset]] in it;
[[always-busy]] and [[always-malformed]] do it every time.
"""

import argparse
import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
from attrs import frozen

from examples.loopback import running, send
from examples.models import protocol

__all__ = ["running_models", "serving_models"]

ROOT: Final = Path(__file__).resolve().parents[2]
MODES: Final = ("hang", "drip", "busy", "malformed", "reset")
EVERY_TIME: Final = ("hang", "drip", "always-busy", "always-malformed")
LARGEST_HEAD: Final = 2**16
LARGEST_BODY: Final = 2**24
REMEMBERED: Final = 1000  # of the latest requests
SHOWN: Final = 200  # characters of each


@asynccontextmanager
async def running_models(**options: Any) -> AsyncGenerator[str]:
    """Run the server in a process of its own; its address is good inside the block.

    Options are those of the command line: `running_models(hang=1, retry_after=0)`. The process
    ends with the block, and by itself when this process dies.
    """
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    async with running("examples.models.server", *arguments) as address:
        yield address


@asynccontextmanager
async def serving_models(**options: Any) -> AsyncGenerator[str]:
    """Serve inside this trio program; the address is good inside the block."""
    async with serving(Server(Options(**options))) as address:
        yield address


@asynccontextmanager
async def serving(server: "Server") -> AsyncGenerator[str]:
    """Serve at an address of its own, which is good inside the block.

    A server may have several addresses: it remembers what it was asked at any of them.
    """
    async with trio.open_nursery() as nursery:
        yield await nursery.start(server.listen)
        nursery.cancel_scope.cancel()


def main() -> None:
    options = vars(_parser().parse_args())
    until_stdin_closes = options.pop("until_stdin_closes")
    try:
        trio.run(_serve, Server(Options(**options)), until_stdin_closes)
    except* KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.models.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 lets the system choose")
    for mode in MODES:
        add(f"--{mode}", type=int, default=0, metavar="N", help="requests that misbehave so (0)")
    add("--delay", type=float, default=0.0, help="seconds before any answer (0)")
    add("--retry-after", type=int, default=1, help="what a busy answer asks for, in seconds (1)")
    add("--drip-interval", type=float, default=0.1, help="seconds between two bytes (0.1)")
    add("--until-stdin-closes", action="store_true", help="end with the process that started this")
    return parser


async def _serve(server: "Server", until_stdin_closes: bool) -> None:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.listen)
        print(json.dumps({"address": address}), flush=True)
        if until_stdin_closes:
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                while await stdin.receive_some():
                    pass
            nursery.cancel_scope.cancel()


@frozen
class Options:
    """How a server serves; the command line says what each one means."""

    port: int = 0
    hang: int = 0
    drip: int = 0
    busy: int = 0
    malformed: int = 0
    reset: int = 0
    delay: float = 0.0
    retry_after: int = 1
    drip_interval: float = 0.1


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: HTTPStatus
    document: Any
    mode: str | None = None


class Server:
    """Speaks as much HTTP/1.1 as its clients need: keep-alive, one request at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._planned = deque(mode for mode in MODES for _ in range(getattr(options, mode)))
        self._contents: dict[str, str | None] = {}
        """What was asked, and how it was planned to misbehave."""
        self._misbehaved: set[tuple[str, str]] = set()
        self._latest: deque[str] = deque(maxlen=REMEMBERED)
        self._requests = self._open = 0
        self._kinds: Counter[str] = Counter()

    async def listen(self, task_status: trio.TaskStatus[str]) -> None:
        """Serve until cancelled; what starts this is told the address."""
        async with trio.open_nursery() as nursery:
            listen = partial(trio.serve_tcp, self.talk, self._options.port, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await nursery.start(listen)
            port = listeners[0].socket.getsockname()[1]
            task_status.started(f"http://127.0.0.1:{port}/v1")

    async def talk(self, stream: trio.SocketStream) -> None:
        # The client left, fell silent, or was cut off on request: nobody is there to be told.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            while request := await _read(stream):
                if request.path == "/requests":
                    await self._send(stream, Answer(HTTPStatus.OK, self._counted()))
                    continue
                self._requests += 1
                self._open += 1
                try:
                    await self._send(stream, await self._answer(request))
                finally:
                    self._open -= 1
                if request.headers.get("connection", "").lower() == "close":
                    return

    def _counted(self) -> dict[str, Any]:
        return {
            "requests": self._requests,
            "chats": self._kinds["Chat"],
            "embeddings": self._kinds["Embeddings"],
            "open": self._open,
            "contents": len(self._contents),
            "latest": [*self._latest],
        }

    async def _answer(self, request: Request) -> Answer:
        await trio.sleep(self._options.delay)
        try:
            match request.method, request.path:
                case "POST", "/v1/chat/completions":
                    return self._answered(protocol.Chat(json.loads(request.body)))
                case "POST", "/v1/embeddings":
                    return self._answered(protocol.Embeddings(json.loads(request.body)))
                case "GET", "/v1/models":
                    return Answer(HTTPStatus.OK, protocol.MODELS)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            return _error(HTTPStatus.BAD_REQUEST, f"not a request that can be read: {error!r}")
        return _error(HTTPStatus.NOT_FOUND, f"nothing answers {request.method} {request.path}")

    def _answered(self, asked: protocol.Asked) -> Answer:
        self._kinds[type(asked).__name__] += 1
        self._latest.append(asked.last[:SHOWN])
        mode = self._mode("\n".join(asked.texts))
        return Answer(HTTPStatus.OK, asked.answer(well=mode != "malformed"), mode)

    def _mode(self, content: str) -> str | None:
        """Decide how a request misbehaves, if it does."""
        if content not in self._contents:
            self._contents[content] = self._planned.popleft() if self._planned else None
        marked = (mode for mode in (*EVERY_TIME, *MODES) if f"[[{mode}]]" in content)
        mode = next(marked, self._contents[content])
        if mode is None or mode in EVERY_TIME:
            return mode and mode.removeprefix("always-")
        if (mode, content) in self._misbehaved:
            return None
        self._misbehaved.add((mode, content))
        return mode

    async def _send(self, stream: trio.SocketStream, answer: Answer) -> None:
        if answer.mode == "busy":
            answer = _error(HTTPStatus.TOO_MANY_REQUESTS, "busy, come back later")
        body = json.dumps(answer.document).encode()
        head = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if answer.status is HTTPStatus.TOO_MANY_REQUESTS:
            head += f"Retry-After: {self._options.retry_after}\r\n"
        start = f"{head}\r\n".encode()
        await send(stream, start, body, answer.mode, self._options.drip_interval)


async def _read(stream: trio.SocketStream) -> Request | None:
    """Return the next request, or None when no other comes that can be read."""
    data = b""
    with trio.fail_after(600):
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            data += more
            if not more or len(data) > LARGEST_HEAD:
                return None
        head, _, body = data.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {n.strip().lower(): v.strip() for n, _, v in (r.partition(":") for r in rest)}
        method, target, *_ = [*first.split(" "), "", ""]
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return None
        while len(body) < int(length):
            more = await stream.receive_some()
            body += more
            if not more:
                return None
    return Request(method, target.partition("?")[0], headers, body)


def _error(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, {"error": {"message": text, "type": status.phrase, "code": status.value}})


if __name__ == "__main__":
    main()
