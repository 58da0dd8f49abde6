"""How soon one sees what happens: a first item, a report on disk and in a browser, a document."""

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import trio

from benchmarks.latency.figure import Figure
from benchmarks.process import BenchmarkError, measure_apart
from benchmarks.served import WITHIN, served, until_it_answers
from stagerun import Pipeline, open_runtime, stage

__all__ = ["MEASURES", "visible"]

_SERVICE = """
import os, time
import trio
from stagerun import Pipeline, stage
from stagerun.web import Service

@stage(deadline=None)
async def talk(pause, ctx):
    count = 0
    while True:
        count += 1
        ctx.report("talking", str(time.monotonic()), done=count)
        ctx.log.info("said at %s", time.monotonic())
        await trio.sleep(pause)

@stage(workers=4)
async def nothing(item):
    return item

pipelines = [
    Pipeline("talk", [talk], deadline=None, grace=0.2),
    Pipeline("busy", [nothing], deadline=None, grace=0.2, source=lambda: range(10**9)),
]
service = Service(os.environ["SERVICE_DB"], pipelines=pipelines, insecure=True)
"""
_PAUSE = 0.31
"""Seconds between two reports: out of step with the quarter of a second in which others look."""
_POLL = 0.002
_SAID = re.compile(r"said at ([0-9.]+)")


def visible(repeats: int, directory: Path) -> list[Figure]:
    """Start runs in one process; then look at a service from outside, idle and under full load."""
    starts = [*measure_apart("latency-start", repeats * 5, directory).values()]
    figures = [Figure("start() to the first item", starts, 50, 0.99)]
    with (
        served(_SERVICE, directory) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WITHIN) as web,
    ):
        until_it_answers(web)
        talk = _start(web, {"pipeline": "talk", "items": [_PAUSE]})
        figures += _seen_from_outside(web, talk, repeats, directory / "runs.db", "idle")
        busy = _start(web, {"pipeline": "busy"})
        figures += _seen_from_outside(web, talk, repeats, directory / "runs.db", "full load")
        if web.get(f"/runs/{busy}").json()["status"] != "running":
            raise BenchmarkError("the busy run ended: there was no load")
    return figures


def _start(web: httpx.Client, body: dict[str, Any]) -> str:
    return str(web.post("/runs", json=body).raise_for_status().json()["id"])


def _seen_from_outside(
    web: httpx.Client, run: str, repeats: int, path: Path, load: str
) -> list[Figure]:
    return [
        Figure(f"a report on disk, {load}", _on_disk(path, run, repeats)),
        Figure(f"a log line at an SSE client, {load}", _streamed(web, run, repeats)),
        Figure(f"GET of a run's document, {load}", _read(web, run, repeats * 5)),
    ]


def _on_disk(path: Path, run: str, repeats: int) -> list[float]:
    """Look again and again for the last report, which says when it was made."""
    last = "SELECT note FROM generations JOIN runs USING (run) WHERE id = ?"
    samples, note = list[float](), None
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        while len(samples) <= repeats:
            time.sleep(_POLL)
            (found,) = connection.execute(last, (run,)).fetchone()
            if found is not None and found != note:
                note = found
                samples.append((time.monotonic() - float(note)) * 1000)
    return samples[1:]  # the first one lay there


def _streamed(web: httpx.Client, run: str, repeats: int) -> list[float]:
    """Follow the run's events: log lines, which take the same way as its progress."""
    samples, since = list[float](), time.monotonic()
    with web.stream("GET", f"/runs/{run}/events") as events:
        for line in events.iter_lines():
            at = _SAID.search(line)
            if at is not None and float(at[1]) > since:
                samples.append((time.monotonic() - float(at[1])) * 1000)
            if len(samples) == repeats:
                break
    return samples


def _read(web: httpx.Client, run: str, repeats: int) -> list[float]:
    samples = []
    for _ in range(repeats):
        began = time.perf_counter()
        web.get(f"/runs/{run}").raise_for_status()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def _measure_start(repeats: int, directory: Path) -> dict[str, float]:
    samples = trio.run(_starts, repeats, directory / "start.db")
    return {str(number): sample for number, sample in enumerate(samples)}


async def _starts(repeats: int, path: Path) -> list[float]:
    begun = list[float]()

    @stage
    async def first(item: int) -> int:
        begun.append(time.perf_counter())
        return item

    samples = []
    async with open_runtime(path) as runtime:
        for _ in range(repeats):
            began = time.perf_counter()
            run = await runtime.start(Pipeline("first", [first]), [1])
            await run.wait()
            samples.append((begun[-1] - began) * 1000)
    return samples


MEASURES = {"latency-start": _measure_start}
