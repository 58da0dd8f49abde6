"""Real server processes of the old service and of the new one, to be started, asked and killed."""

import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import trio

from examples.programs.program import Brief

ROOT: Final = Path(__file__).resolve().parents[2]
BEFORE: Final = "examples.programs.before:app"
SERVICE: Final = "examples.programs.service:app"
LONGEST: Final = 120.0
"""Seconds for any single wait."""


def environment(folder: Path, models: str) -> dict[str, str]:
    """Return the environment of a server: its databases stand in *folder*."""
    own = {
        "PROGRAMS_DB": str(folder / "programs.db"),
        "STAGERUN_DB": str(folder / "runs.db"),
        "MODELS_ADDRESS": models,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGERUN_")}
    return {**kept, **own}


@asynccontextmanager
async def serving(
    app: str,
    folder: Path,
    models: str,
    *,
    workers: int = 1,
    settings: Mapping[str, str] | None = None,
) -> AsyncGenerator["Server"]:
    """Run uvicorn with an app in processes of its own; they end with the block."""
    port = _free_port()
    options = ["--port", str(port), "--workers", str(workers), "--no-access-log"]
    with (folder / "server.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "uvicorn", app, *options],
            cwd=ROOT,
            env={**environment(folder, models), **(settings or {})},
            stdout=log,
            stderr=log,
            start_new_session=True,  # its workers are to be killed with it
        )
    address = f"http://127.0.0.1:{port}"
    alone = httpx.Limits(max_keepalive_connections=0)  # any of its processes may answer
    try:
        async with httpx.AsyncClient(base_url=address, limits=alone, timeout=30) as client:
            server = Server(process, client)
            await server.get("/api/health")
            yield server
            await server.terminate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


class Server:
    """A server under way, and what can be done with it."""

    def __init__(self, process: trio.Process, client: httpx.AsyncClient) -> None:
        self.process = process
        self._client = client

    @property
    def address(self) -> str:
        return str(self._client.base_url)

    async def get(self, path: str) -> Any:
        """Ask until there is an answer: the process that would have given it may be dead."""
        with trio.fail_after(LONGEST):
            while True:
                try:
                    answer = await self._client.get(path)
                except httpx.TransportError:
                    if self.process.poll() is not None:
                        raise
                    await trio.sleep(0.05)
                else:
                    return answer.raise_for_status().json()

    async def generate(self, brief: Brief) -> str:
        """Start a job; return its identifier."""
        content = msgspec.json.encode(brief)
        answer = await self._client.post("/api/programs/generate", content=content)
        return str(answer.raise_for_status().json()["job"])

    async def job(self, job: str) -> dict[str, Any]:
        return dict(await self.get(f"/api/programs/jobs/{job}"))

    async def retry(self, job: str) -> httpx.Response:
        return await self._client.post(f"/api/programs/jobs/{job}/retry")

    async def until_succeeded(self, count: float) -> None:
        """Wait until so many jobs have succeeded; of the new service only."""

        async def enough() -> bool:
            found = await self.get("/jobs/runs?status=succeeded&limit=100")
            return len(found["runs"]) >= count

        await until(enough)

    async def kill_one(self) -> None:
        """kill -9 of a process that has jobs; uvicorn starts another in its place."""
        health: dict[str, Any] = {}

        async def busy() -> bool:
            health.update(await self.get("/api/health"))
            return bool(health["jobs"])

        await until(busy)
        os.kill(health["process"], signal.SIGKILL)

    async def kill(self) -> None:
        """kill -9 of all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def terminate(self) -> None:
        """SIGTERM, as a deployment sends it."""
        self.process.terminate()
        with trio.fail_after(LONGEST):
            await self.process.wait()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what other processes do."""
    with trio.fail_after(LONGEST):
        while not await holds():  # noqa: ASYNC110 - no event comes from there
            await trio.sleep(0.05)


async def questions(models: str) -> dict[str, Any]:
    """Ask the model server what it was asked so far."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(models.removesuffix("/v1") + "/requests")
        return dict(answer.json())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
