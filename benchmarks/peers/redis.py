"""A Redis of the benchmark's own, where there is a `redis-server`."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from benchmarks.process import BenchmarkError

_WITHIN = 10.0


@frozen
class Redis:
    url: str
    pid: int


def redis_server() -> str:
    """Return where it is.

    Raises:
        BenchmarkError: there is none.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise BenchmarkError("no redis-server")
    return found


@contextmanager
def redis(directory: Path) -> Iterator[Redis]:
    """Start it on a free port of the loopback, with what it keeps in *directory*."""
    binary = redis_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = ["--dir", str(directory), "--appendonly", "yes", "--appendfsync", "everysec"]
    server = subprocess.Popen(
        [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", *kept],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_it_answers(port)
        yield Redis(f"redis://127.0.0.1:{port}", server.pid)
    finally:
        server.terminate()
        try:
            server.wait(_WITHIN)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _until_it_answers(port: int) -> None:
    until = time.monotonic() + _WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=_WITHIN).close()
        except OSError as error:
            if time.monotonic() > until:
                raise BenchmarkError("redis-server did not start") from error
            time.sleep(0.05)
        else:
            return
