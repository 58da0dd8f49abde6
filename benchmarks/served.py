"""A web service in a process of its own, under uvicorn."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.process import BenchmarkError

__all__ = ["WITHIN", "served", "until_it_answers"]

WITHIN = 30.0
"""Seconds after which whatever does not answer is given up."""


@contextmanager
def served(source: str, place: Path) -> Iterator[tuple[int, int]]:
    """Serve what *source* calls ``service``; yield its process and its port.

    The path of its database is in the variable SERVICE_DB.
    """
    (place / "benchmarked_service.py").write_text(source)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["uvicorn", "benchmarked_service:service", "--port", str(port)]
    command += ["--app-dir", str(place), "--no-access-log", "--backlog", "4096"]
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "SERVICE_DB": str(place / "runs.db")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield server.pid, port
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def until_it_answers(web: httpx.Client) -> None:
    until = time.monotonic() + WITHIN
    while True:
        try:
            web.get("/healthz").raise_for_status()
        except httpx.TransportError as error:
            if time.monotonic() > until:
                raise BenchmarkError("the service did not start") from error
            time.sleep(0.05)
        else:
            return
