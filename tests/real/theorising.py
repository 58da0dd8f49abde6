# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""The theory example under way: its programs, its pipeline, and what its stores say then."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import trio

from examples.models.client import worth_another_try
from examples.theory.pipeline import DEFAULTS, pipeline
from examples.theory.texts import fragments_of
from stagerun import Retry, open_runtime

ROOT = Path(__file__).parents[2]
TEXTS = Path(str(DEFAULTS["folder"]))
NAMES = sorted(file.name for file in TEXTS.iterdir())
FIRST, *OTHERS = NAMES
FRAGMENTS = {file.name: len(fragments_of(file.read_text())) for file in TEXTS.iterdir()}
LONGEST = 60.0
SOON = Retry(attempts=2, base=0.05, on=worth_another_try)
QUICK = {
    "STAGERUN_THEORY_INTERVIEWS_DEADLINE": "6",
    "STAGERUN_THEORY_CODE_DEADLINE": "6",
    "STAGERUN_LOG_LEVEL": "INFO",
}


class Server:
    """A FastAPI program under uvicorn, in a process of its own."""

    def __init__(self, process, folder: Path, client: httpx.AsyncClient) -> None:
        self.process = process
        self.folder = folder
        self.client = client

    async def ask(self, method: str, project: str, path: str = "", **more) -> httpx.Response:
        url = f"/api/projects/{project}/generate-theory/{path}".rstrip("/")
        return await self.client.request(method, url, **more)

    async def start(self, wish=None) -> str:
        answer = await self.ask("POST", "interviews", json=wish)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    async def status(self, task: str) -> dict[str, Any]:
        return dict(
            (await self.ask("GET", "interviews", f"status/{task}")).raise_for_status().json()
        )

    async def until(self, task: str, wanted) -> list[dict[str, Any]]:
        """Ask for the status until it is as wanted; return all that were told."""
        told = []
        with trio.fail_after(LONGEST):
            while True:
                told.append(await self.status(task))
                if wanted(told[-1]):
                    return told
                await trio.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "server.log").read_text()


@asynccontextmanager
async def running(program: str, folder: Path, models: str, **settings: str):
    """Run a program under uvicorn; its files go to a folder, its answers come from the models."""
    process, url = launched(program, folder, models, settings)
    alone = httpx.Limits(max_keepalive_connections=0)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=LONGEST, limits=alone) as client:
            there = Server(process, folder, client)
            await answering(there)
            yield there
    finally:
        process.kill()
        process.wait()


def launched(program: str, folder: Path, models: str, settings: dict[str, str]):
    folder.mkdir(exist_ok=True)
    port = free_port()
    environment = {
        **os.environ,
        **QUICK,
        **settings,
        "MODELS_ADDRESS": models,
        "THEORY_STORE": str(folder / "store"),
        "THEORY_DATABASE": str(folder / "theory.db"),
    }
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), program]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def answering(there: Server) -> None:
    with trio.fail_after(LONGEST):
        while True:
            try:
                await there.client.get("/openapi.json")
            except httpx.TransportError:
                assert there.process.poll() is None, there.log()
                await trio.sleep(0.05)
            else:
                return


def ended(status: dict[str, Any]) -> bool:
    return status["status"] not in {"queued", "running"}


async def run(folder: Path, least: int = 5, **options):
    """Run the pipeline over the folder's texts, with other options of some stages."""
    params = {"folder": str(folder / "texts"), "store": str(folder / "store"), "least": least}
    async with open_runtime(folder / "runs.db") as runtime:
        return await (await runtime.start(adapted(**options), params=params)).wait()


def adapted(**options):
    stages = [each.with_options(**options.get(each.name, {})) for each in pipeline.stages]
    return pipeline.with_options(stages=stages)


def counts_of(run_or_result, name: str):
    counts = getattr(run_or_result, "counts", None) or run_or_result.stages
    return next(each for each in counts if each.name == name)


async def until_counts(reached) -> None:
    with trio.fail_after(LONGEST):
        while not reached():  # noqa: ASYNC110 - counts are looked at, nobody tells of them
            await trio.sleep(0.02)


def outcomes(result, name: str) -> tuple[int, int, int]:
    counts = counts_of(result, name)
    return counts.ok, counts.failed, counts.timed_out


def theory_in(store: Path) -> dict[str, Any]:
    (file,) = store.glob("theory-*.json")
    assert not [*store.glob("*.draft")]
    return dict(json.loads(file.read_text()))


def in_stores(store: Path) -> tuple[dict[Any, bool], set[Any]]:
    """Return the fragments in the first store, each with whether it is synced; and the second's."""
    with closing(sqlite3.connect(store / "codes.db")) as connection:
        rows = connection.execute("SELECT interview, number, synced FROM fragments").fetchall()
    with closing(sqlite3.connect(store / "vectors.db")) as connection:
        vectors = {*connection.execute("SELECT interview, number FROM vectors")}
    return {(name, number): bool(synced) for name, number, synced in rows}, vectors


def assert_whole(store: Path, names) -> None:
    """Both stores have all fragments of these interviews, and nothing else."""
    codes, vectors = in_stores(store)
    wanted = {(name, number) for name in names for number in range(1, FRAGMENTS[name] + 1)}
    assert (codes, vectors) == (dict.fromkeys(wanted, True), wanted)


def coded_before(folder: Path, task: str) -> list[str]:
    """The interviews that `before` has coded, embedded and written."""
    with closing(sqlite3.connect(folder / "store" / "before.db")) as connection:
        rows = connection.execute("SELECT interview FROM vectors WHERE task = ?", (task,))
        return sorted(name for (name,) in rows)


async def requests(models: str) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        return dict((await client.get(models.removesuffix("/v1") + "/requests")).json())
