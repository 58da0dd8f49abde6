"""Many clients that follow one run: how soon they hear, and what that costs the server.

One program on uvicorn with a run that logs at a steady pace; its clients are in this process. The
time of an event is that of its commit or a moment before, so what is told here is never too small.
"""

import math
import os
import re
import resource
import selectors
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field

from benchmarks import environment
from benchmarks.process import BenchmarkError
from benchmarks.served import WITHIN, served, until_it_answers

_SERVICE = """
import os
import trio
from stagerun import Pipeline, stage
from stagerun.web import Service

@stage(deadline=None)
async def talk(pause, ctx):
    while True:
        ctx.log.info("a line of the usual length, with an item and a cause in it")
        await trio.sleep(pause)

pipelines = [Pipeline("talk", [talk], deadline=None, grace=0.2)]
service = Service(os.environ["SERVICE_DB"], pipelines=pipelines, insecure=True)
"""
_AT = re.compile(rb'"at":"([^"]+)"')
_TICKS = os.sysconf("SC_CLK_TCK")
_PAUSE = 0.24
"""Seconds between two lines: a bit out of step with the server's look, as real ones are."""


@define(eq=False)
class _Client:
    socket: socket.socket
    rest: bytes = b""
    since: float = math.inf
    """Events from before are repeated to whoever has just come: they tell nothing."""
    delays: list[float] = field(factory=list)

    def read(self) -> None:
        read = self.socket.recv(65_536)
        if not read:
            raise BenchmarkError(f"a stream ended: {self.rest!r}")
        now = time.time()
        *whole, self.rest = (self.rest + read).split(b"\n")
        for line in whole:
            if line.startswith(b"data: ") and (found := _AT.search(line)):
                at = datetime.fromisoformat(found[1].decode()).timestamp()
                if at >= self.since:
                    self.delays.append(now - at)


def run(clients: int, seconds: float, directory: Path | None) -> dict[str, Any]:
    """Measure the server alone, with *clients* streams, and after twice as many have vanished."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    machine = environment.describe(directory)
    with (
        tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch,
        served(_SERVICE, Path(scratch)) as (pid, port),
    ):
        results = _measure(pid, port, clients, seconds)
    return {
        "benchmark": "streams",
        "command": f"python -m benchmarks streams --clients {clients} --seconds {seconds:g}",
        "environment": machine,
        "results": results,
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines += [f"{name:<56}{figure:>12,.1f}" for name, figure in report["results"].items()]
    return "\n".join(lines)


def _measure(pid: int, port: int, clients: int, seconds: float) -> dict[str, float]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN) as web:
        until_it_answers(web)
        body = {"pipeline": "talk", "items": [_PAUSE]}
        run = str(web.post("/runs", json=body).raise_for_status().json()["id"])
        _vanish(web, port, run, 100)  # what is opened or loaded once, is by then
        time.sleep(2)
        sockets, memory = _sockets(pid), _memory(pid)
        results = {"server's CPU without clients, %": _busy(pid, seconds)}
        streams = [_connect(port, run) for _ in range(clients)]
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                selector.register(stream.socket, selectors.EVENT_READ, stream)
            _read(selector, 2)
            for stream in streams:
                stream.since = time.time()
            began, used = time.monotonic(), _used(pid)
            _read(selector, seconds)
            busy = 100 * (_used(pid) - used) / (time.monotonic() - began)
        if not all(stream.delays for stream in streams):
            raise BenchmarkError("a client heard nothing")
        delays = sorted(delay for stream in streams for delay in stream.delays)
        results |= {
            f"server's CPU with {clients} streams, %": busy,
            "events received per second": len(delays) / seconds,
            "commit to client, p50, ms": 1e3 * _quantile(delays, 0.5),
            "commit to client, p99, ms": 1e3 * _quantile(delays, 0.99),
            "commit to client, longest, ms": 1e3 * delays[-1],
            "server's memory per stream, KiB": (_memory(pid) - memory) / clients / 1024,
        }
        for stream in streams:
            stream.socket.close()
        _until_none_is_open(web)
        _vanish(web, port, run, 1_000)
        time.sleep(1)
        after = _memory(pid)
        _vanish(web, port, run, 1_000)
        time.sleep(1)
        results |= {
            "open sockets more than before, after 1,000 have vanished": _sockets(pid) - sockets,
            "memory more than before any client, MiB": (after - memory) / 2**20,
            "memory more after another 1,000, MiB": (_memory(pid) - after) / 2**20,
        }
    return results


def _vanish(web: httpx.Client, port: int, run: str, clients: int) -> None:
    """Connect, and close before or while something is received."""
    for first in range(0, clients, 100):
        streams = [_connect(port, run) for _ in range(first, min(first + 100, clients))]
        for stream in streams[::2]:
            stream.read()
        for stream in streams:
            stream.socket.close()
    _until_none_is_open(web)


def _connect(port: int, run: str) -> _Client:
    stream = _Client(socket.create_connection(("127.0.0.1", port), timeout=WITHIN))
    stream.socket.sendall(f"GET /runs/{run}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return stream


def _read(selector: selectors.BaseSelector, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            key.data.read()


def _busy(pid: int, seconds: float) -> float:
    """Return how much of one processor the server uses, in percent."""
    used = _used(pid)
    time.sleep(seconds)
    return 100 * (_used(pid) - used) / seconds


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def _sockets(pid: int) -> int:
    """Return how many sockets are open: files of the database are opened now and then, and stay."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed just now
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _until_none_is_open(web: httpx.Client) -> None:
    until = time.monotonic() + WITHIN
    while "stagerun_streams_open 0.0" not in web.get("/metrics").text:
        if time.monotonic() > until:
            raise BenchmarkError("streams stay open though their clients have gone")
        time.sleep(0.1)
