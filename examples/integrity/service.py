"""A service whose records can be checked, and which misbehaves on request.

    python -m examples.integrity.service --port 0 --hang 3 --drip 1 --busy 2 --reset 1

It serves what the installed Python distributions say about their own files: path, size and sha256
from each one's RECORD. An entity is a distribution, the biggest ones by default. When it listens it
prints one line, {"address": "http://127.0.0.1:PORT"}.

    GET /entities                                 {"entities": [{"name", "records", "files"}]}
    GET /entities/NAME/records?page=0&size=250    {"entity", "page", "pages", "total", "records":
                                                   [{"entity", "path", "size", "sha256"}]}
    GET /plan                                     {"hang": [["NAME", 0], ...], "drip": ..., ...}

`size` and `sha256` are null where RECORD has none (compiled files, mostly). With `--records N`
every entity has exactly N records: one with fewer files is read again from its first file on, so
the same file comes more than once, and `files` tells how many different ones there are.

So many pages as asked for misbehave, chosen by `--seed` among all pages of 250 records:

    hang    never answered
    drip    sent one byte at a time: a page takes hours
    busy    503 with Retry-After, the first time; then well
    reset   connection reset in the middle of the body, the first time; then well

`&misbehave=MODE` does the same to one request, every time.
"""

import argparse
import base64
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

import trio

from examples.loopback import running, send

MODES: Final = ("hang", "drip", "busy", "reset")
PAGE_SIZE: Final = 250
MOST_RECORDS: Final = 10_000  # per entity

Record = dict[str, Any]
Page = tuple[str, int]


@asynccontextmanager
async def running_service(**options: float) -> AsyncGenerator[str]:
    """Run the service in a process of its own; its address is good inside the block.

    Options are those of the command line: `running_service(hang=3, page_delay=0.2)`. The process
    ends with the block, and by itself when this process dies.
    """
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    async with running("examples.integrity.service", *arguments) as address:
        yield address


def main() -> None:
    options = _parser().parse_args()
    entities = installed_entities(options.entities, options.records)
    pages = [(name, page) for name in entities for page in range(entities[name].pages(PAGE_SIZE))]
    modes = [mode for mode in MODES for _ in range(getattr(options, mode))]
    if len(modes) > len(pages):
        sys.exit(f"{len(modes)} pages cannot misbehave: there are only {len(pages)}")
    chosen = random.Random(options.seed).sample(pages, len(modes))
    service = Service(
        entities=entities, plan=dict(zip(chosen, modes, strict=True)), options=options
    )
    try:
        trio.run(_serve, service, options.port, options.until_stdin_closes)
    except* KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 lets the system choose")
    add("--entities", type=int, default=5, help="so many of the biggest distributions (5)")
    add("--records", type=int, help=f"exactly so many per entity, at most {MOST_RECORDS}")
    add("--page-delay", type=float, default=0.0, help="seconds before any page is answered (0)")
    for mode in MODES:
        add(f"--{mode}", type=int, default=0, metavar="PAGES", help="pages that misbehave so (0)")
    add("--seed", type=int, default=0, help="chooses the pages that misbehave (0)")
    add("--times", type=int, default=1, help="so often is a page busy or reset (1)")
    add("--retry-after", type=int, default=1, help="what a busy page asks for, in seconds (1)")
    add("--drip-interval", type=float, default=0.1, help="seconds between two bytes (0.1)")
    add("--until-stdin-closes", action="store_true", help="end with the process that started this")
    return parser


async def _serve(service: "Service", port: int, until_stdin_closes: bool) -> None:
    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, service.talk, port, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(listen)
        bound = listeners[0].socket.getsockname()[1]
        print(json.dumps({"address": f"http://127.0.0.1:{bound}"}), flush=True)
        if until_stdin_closes:
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                while await stdin.receive_some():
                    pass
            nursery.cancel_scope.cancel()


class Entity(NamedTuple):
    files: list[Record]
    total: int  # of records: above len(files) when they are read more than once

    def pages(self, size: int) -> int:
        return ceil(self.total / size)

    def page(self, number: int, size: int) -> list[Record]:
        last = min((number + 1) * size, self.total)
        return [self.files[i % len(self.files)] for i in range(number * size, last)]


def installed_entities(count: int, records: int | None) -> dict[str, Entity]:
    """The `count` biggest distributions by their names, each with `records` records."""
    by_name: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        by_name.setdefault(distribution.name, distribution)  # the first one found is imported
    files = {name: distribution.files or [] for name, distribution in by_name.items()}
    biggest = sorted((name for name in files if files[name]), key=lambda n: (-len(files[n]), n))
    entities = {}
    for name in biggest[:count]:
        root = Path(str(by_name[name].locate_file(""))).resolve()
        rows = [_record(name, root, file) for file in files[name][:MOST_RECORDS]]
        entities[name] = Entity(rows, min(records or len(rows), MOST_RECORDS))
    return entities


def _record(entity: str, root: Path, file: metadata.PackagePath) -> Record:
    sha256 = None
    if file.hash is not None and file.hash.mode == "sha256":
        digest = file.hash.value
        sha256 = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
    path = os.path.normpath(root / file)  # RECORD has ../../../bin/NAME, too
    return {"entity": entity, "path": path, "size": file.size, "sha256": sha256}


class Answer(NamedTuple):
    status: HTTPStatus
    document: Any
    mode: str | None = None


class Service:
    """Speaks as much HTTP/1.1 as its clients need: GET, keep-alive, one request at a time."""

    def __init__(
        self, entities: dict[str, Entity], plan: dict[Page, str], options: argparse.Namespace
    ) -> None:
        self._entities = entities
        self._plan = plan
        self._options = options
        self._misbehaved: Counter[Page] = Counter()

    async def talk(self, stream: trio.SocketStream) -> None:
        # The client left, fell silent, or was cut off on request: nobody is there to be told.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            while head := await _read_head(stream):
                match head.split("\r\n", 1)[0].split(" "):
                    case ["GET", target, "HTTP/1.1"]:
                        await self._send(stream, await self._answer(target))
                    case _:
                        await self._send(stream, _error(HTTPStatus.NOT_IMPLEMENTED, "GET, please"))
                        return
                if "connection: close" in head.lower():
                    return

    async def _answer(self, target: str) -> Answer:
        path, _, query = target.partition("?")
        match path.strip("/").split("/"):
            case ["entities"]:
                rows = [
                    {"name": name, "records": entity.total, "files": len(entity.files)}
                    for name, entity in self._entities.items()
                ]
                return Answer(HTTPStatus.OK, {"entities": rows})
            case ["plan"]:
                pages = {mode: [p for p, m in self._plan.items() if m == mode] for mode in MODES}
                return Answer(HTTPStatus.OK, pages)
            case ["entities", name, "records"] if unquote(name) in self._entities:
                return await self._page(unquote(name), dict(parse_qsl(query)))
        return _error(HTTPStatus.NOT_FOUND, f"nothing is at {path}; look at /entities")

    async def _page(self, name: str, query: dict[str, str]) -> Answer:
        entity = self._entities[name]
        asked = query.get("misbehave")
        try:
            number, size = int(query.get("page", 0)), int(query.get("size", PAGE_SIZE))
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, "page and size are whole numbers")
        if not 1 <= size <= MOST_RECORDS or asked not in {None, *MODES}:
            wanted = f"size is 1 to {MOST_RECORDS}, misbehave one of {', '.join(MODES)}"
            return _error(HTTPStatus.BAD_REQUEST, wanted)
        pages = entity.pages(size)
        if not 0 <= number < pages:
            return _error(HTTPStatus.NOT_FOUND, f"{name} has pages 0 to {pages - 1}")
        await trio.sleep(self._options.page_delay)
        document = {
            "entity": name,
            "page": number,
            "pages": pages,
            "total": entity.total,
            "records": entity.page(number, size),
        }
        return Answer(HTTPStatus.OK, document, asked or self._planned((name, number)))

    def _planned(self, page: Page) -> str | None:
        mode = self._plan.get(page)
        if mode in {"busy", "reset"}:
            self._misbehaved[page] += 1
            if self._misbehaved[page] > self._options.times:
                return None
        return mode

    async def _send(self, stream: trio.SocketStream, answer: Answer) -> None:
        if answer.mode == "busy":
            answer = _error(HTTPStatus.SERVICE_UNAVAILABLE, "busy, come back later")
        body = json.dumps(answer.document).encode()
        head = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        if answer.status is HTTPStatus.SERVICE_UNAVAILABLE:
            head += f"Retry-After: {self._options.retry_after}\r\n"
        start = f"{head}\r\n".encode()
        await send(stream, start, body, answer.mode, self._options.drip_interval)


async def _read_head(stream: trio.SocketStream) -> str:
    """Return the head of the next request, or nothing when no other comes."""
    head = b""
    with trio.fail_after(60):
        while b"\r\n\r\n" not in head:
            more = await stream.receive_some()
            head += more
            if not more or len(head) > 2**16:
                return ""
    return head.decode("latin-1")


def _error(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, {"error": text})


if __name__ == "__main__":
    main()
