"""How soon a web service answers while its stages work, and while one of them blocks.

One program on uvicorn: a stage with many items in flight, and a second one whose function blocks
for seconds. As a baseline the same block in a task on the service's own event loop.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import environment
from benchmarks.process import BenchmarkError

_SERVICE = """
import asyncio, os, time
from contextlib import asynccontextmanager
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from stagerun import Pipeline, stage
from stagerun.web import Service

@stage(workers=1000, deadline=None)
async def hold(seconds):
    await trio.sleep(seconds)

@stage(deadline=None)
async def block(seconds):
    time.sleep(seconds)

service = Service(
    os.environ["RESPONSIVE_DB"],
    pipelines=[Pipeline("hold", [hold], grace=0.2), Pipeline("block", [block], grace=0.2)],
    insecure=True,
)

async def ping(request):
    return PlainTextResponse("pong")

async def naive(request):
    # The same block in a task on the host's own loop, as a job inside a handler is.
    async def job():
        time.sleep(float(request.query_params["seconds"]))
    request.app.state.job = asyncio.create_task(job())
    return PlainTextResponse("begun")

app = Starlette(
    lifespan=service.lifespan(),
    routes=[Route("/ping", ping), Route("/naive", naive), Mount("/jobs", service.app)],
)
"""
_STARTS_WITHIN = 30.0
_PAUSE = 0.005
"""Seconds between two requests of a kind: a client that waits in vain asks no more meanwhile."""


def run(items: int, seconds: float, directory: Path | None) -> dict[str, Any]:
    """Ask for *seconds* while nothing happens, while *items* are in flight, and beside a block."""
    with tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch:
        place = Path(scratch)
        (place / "responsive_service.py").write_text(_SERVICE)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["uvicorn", "responsive_service:app", "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--app-dir", scratch, "--no-access-log"],
            env={**os.environ, "RESPONSIVE_DB": str(place / "runs.db")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                results = _measure(client, items, seconds)
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    return {
        "benchmark": "responsive",
        "command": f"python -m benchmarks responsive --items {items} --seconds {seconds:g}",
        "environment": environment.describe(directory),
        "results": results,
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines.append(f"{'milliseconds':<50}{'p50':>9}{'p99':>9}{'longest':>9}")
    for name, figures in report["results"].items():
        lines.append(f"{name:<50}" + "".join(f"{figure:>9.1f}" for figure in figures))
    return "\n".join(lines)


def _measure(client: httpx.Client, items: int, seconds: float) -> dict[str, list[float]]:
    _until_it_answers(client)
    results = {"GET /ping, idle": _asked(client, "/ping", seconds)}
    held = _start(client, "hold", [3600.0] * items)
    _until_in_flight(client, held, items)
    results[f"GET /ping, {items} items in flight"] = _asked(client, "/ping", seconds)
    blocking = _start(client, "block", [seconds])
    _until_in_flight(client, blocking, 1)
    results["the same, a stage in time.sleep()"] = _asked(client, "/ping", seconds - 1)
    _until_ended(client, blocking)
    blocking = _start(client, "block", [seconds])
    _until_in_flight(client, blocking, 1)
    results["GET of a run, a stage in time.sleep()"] = _asked(
        client, f"/jobs/runs/{blocking}", seconds - 1
    )
    why = client.get(f"/jobs/runs/{blocking}/why").json()
    if "responsive_service.py" not in json.dumps(why):
        raise BenchmarkError(f"the line that blocks was not named: {why['summary']}")
    _until_ended(client, blocking)
    client.get("/naive", params={"seconds": seconds})
    results["GET /ping, time.sleep() on the host's own loop"] = _asked(client, "/ping", 1)
    return results


def _asked(client: httpx.Client, path: str, seconds: float) -> list[float]:
    """Ask again and again; return p50, p99 and the longest, in milliseconds."""
    times, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        client.get(path).raise_for_status()
        times.append(time.perf_counter() - began)
        time.sleep(_PAUSE)
    times.sort()
    return [1e3 * times[int(share * (len(times) - 1))] for share in (0.5, 0.99, 1.0)]


def _start(client: httpx.Client, pipeline: str, items: list[float]) -> str:
    answer = client.post("/jobs/runs", json={"pipeline": pipeline, "items": items})
    return str(answer.raise_for_status().json()["id"])


def _until_it_answers(client: httpx.Client) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            client.get("/ping").raise_for_status()
        except httpx.TransportError as error:
            if time.monotonic() > until:
                raise BenchmarkError("the service did not start") from error
            time.sleep(0.05)
        else:
            return


def _until_in_flight(client: httpx.Client, run: str, items: int) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while client.get(f"/jobs/runs/{run}").json()["stages"][0]["in_flight"] < items:
        if time.monotonic() > until:
            raise BenchmarkError(f"{items} items did not come under way")
        time.sleep(0.02)


def _until_ended(client: httpx.Client, run: str) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while client.get(f"/jobs/runs/{run}").json()["finished_at"] is None:
        if time.monotonic() > until:
            raise BenchmarkError("a run did not end")
        time.sleep(0.02)
