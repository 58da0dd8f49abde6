"""Streams of events from real servers: many at once, cut in the middle, and at a server's end."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from attrs import frozen

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
LONGEST = 20.0
SERVERS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "--no-access-log"],
    "uvicorn-2-workers": ["uvicorn", "--port", "{port}", "--no-access-log", "--workers", "2"],
    "hypercorn-trio": ["hypercorn", "-k", "trio", "--bind", "127.0.0.1:{port}"],
}


@frozen
class Server:
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def start(self, *seconds: float) -> str:
        answer = httpx.post(f"http://127.0.0.1:{self.port}/work", json=seconds, timeout=LONGEST)
        return str(answer.raise_for_status().json()["id"])

    def listen(self, run: str, last: int | None = None) -> "Listener":
        return Listener(self.port, run, last)

    @property
    def sockets(self) -> int:
        """Open ones, of all processes of the server."""
        group = subprocess.run(
            ["ps", "-o", "pid=", "-g", str(self.process.pid)],
            capture_output=True,
            check=True,
            text=True,
            timeout=LONGEST,
        )
        found = 0
        for pid in group.stdout.split():
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed just now
                    found += str(descriptor.readlink()).startswith("socket:")
        return found

    def metric(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.port}/jobs/metrics", timeout=LONGEST).text
        found = re.search(rf"^stagerun_{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])


class Listener:
    """A client on a socket of its own, which reads when it is told to."""

    def __init__(self, port: int, run: str, last: int | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LONGEST)
        sent = f"GET /jobs/runs/{run}/events HTTP/1.1\r\nHost: localhost\r\n"
        if last is not None:
            sent += f"Last-Event-ID: {last}\r\n"
        self.socket.sendall(f"{sent}\r\n".encode())
        self.raw = b""

    def until(self, what: bytes) -> None:
        while what not in self.raw:
            read = self.socket.recv(65_536)
            assert read, f"the stream ended before {what!r}: {self.raw!r}"
            self.raw += read

    def to_its_end(self) -> None:
        with contextlib.suppress(ConnectionError):
            while read := self.socket.recv(65_536):
                self.raw += read

    @property
    def ids(self) -> list[int]:
        return [int(found) for found in re.findall(rb"^id: (\d+)$", self.raw, re.MULTILINE)]

    def close(self) -> None:
        self.socket.close()


@contextmanager
def serving(name: str, folder: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.format(port=port) for part in SERVERS[name]]
    log = folder / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "tests.real.served:star"],
            cwd=ROOT,
            env={**os.environ, "SERVED_DB": str(folder / "runs.db")},
            stdout=out,
            stderr=out,
            start_new_session=True,  # hypercorn serves in a child
        )
    try:
        until = time.monotonic() + LONGEST
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/ping", timeout=LONGEST)
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield Server(process, port, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn-2-workers"])
def test_a_server_that_is_told_to_end_does_not_wait_for_streams(name: str, tmp_path: Path) -> None:
    with serving(name, tmp_path) as server, ExitStack() as stack:
        run = server.start(60, 60)
        listeners = [server.listen(run) for _ in range(5)]
        for listener in listeners:
            stack.callback(listener.close)
            listener.until(b"event: stage\n")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for listener in listeners:
            listener.to_its_end()
            assert listener.raw.endswith(b"0\r\n\r\n"), "the stream was cut, not ended"
        streams = time.monotonic() - began
        server.process.wait(LONGEST)
        process = time.monotonic() - began
    assert streams < 1.0
    assert process < 1.0 + 1.0  # the run has a grace of 1 s, though this one does not need it
    log = server.log.read_text()
    assert "Traceback" not in log, log
    assert "ASGI callable" not in log, log


def test_a_client_goes_on_with_the_servers_next_process(tmp_path: Path) -> None:
    with serving("uvicorn", tmp_path) as server:
        run = server.start(60)
        listener = server.listen(run)
        listener.until(b"event: stage\n")
        server.process.send_signal(signal.SIGTERM)
        listener.to_its_end()
        listener.close()
        server.process.wait(LONGEST)
    with serving("uvicorn", tmp_path) as server:
        again = server.listen(run, last=listener.ids[-1])
        again.until(b"0\r\n\r\n")
        again.close()
        ids = listener.ids + again.ids
        assert ids == list(range(1, len(ids) + 1))
        assert b'"status":"interrupted"' in again.raw
        done = server.listen(run, last=ids[-1])
        done.until(b"\r\n\r\n")
        assert b" 204 " in done.raw
        done.close()


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn-trio"])
def test_clients_that_vanish_leave_nothing(name: str, tmp_path: Path) -> None:
    with serving(name, tmp_path) as server:
        run = server.start(60)
        _come_and_go(server, run)
        base = server.sockets
        for _ in range(3):
            _come_and_go(server, run)
        until = time.monotonic() + LONGEST
        while server.sockets > base:
            assert time.monotonic() < until, (base, server.sockets)
            time.sleep(0.05)
        log = server.log.read_text()
        assert "Traceback" not in log, log


def _come_and_go(server: Server, run: str) -> None:
    listeners = [server.listen(run) for _ in range(100)]
    listeners[-1].until(b"event: stage\n")
    for listener in listeners:
        listener.close()
    until = time.monotonic() + LONGEST
    while server.metric("streams_open"):
        assert time.monotonic() < until
        time.sleep(0.05)
