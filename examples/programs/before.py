"""What the report's team had: FastAPI's BackgroundTasks, and a table that says how each job stands.

    uvicorn examples.programs.before:app

The work lives in the server's memory, its status in the table. When the server goes, the work goes;
the row stays `in_progress`, and whoever polls it polls for ever. With CLEAN_UP_AT_START=1 the
server does what the report's team did then: as it starts, it calls every such row `failed`, and
those of jobs that another process is at work on, too.

PROGRAMS_DB names the database, MODELS_ADDRESS the model's base address.
"""

import os
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import msgspec
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request

from examples.programs.program import (
    COACH,
    Brief,
    Line,
    Program,
    Session,
    Week,
    ask_for_skeleton,
    ask_for_week,
    exactly,
)

TABLES = """
CREATE TABLE IF NOT EXISTS program_generation_jobs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, request TEXT NOT NULL, program TEXT, error TEXT,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS programs (id TEXT PRIMARY KEY, document TEXT NOT NULL);
"""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    with closing(sqlite3.connect(database())) as connection:
        connection.executescript(TABLES)
    if os.environ.get("CLEAN_UP_AT_START"):
        execute(
            "UPDATE program_generation_jobs SET status = 'failed', error = 'server was restarted'"
            " WHERE status = 'in_progress'"
        )
    yield


app = FastAPI(title="Training programs, before", lifespan=lifespan)


@app.post("/api/programs/generate", status_code=202)
async def generate(request: Request, background: BackgroundTasks) -> dict[str, Any]:
    try:
        brief = msgspec.json.decode(await request.body(), type=Brief)
    except msgspec.DecodeError as error:
        raise HTTPException(422, str(error)) from error
    job, now = uuid4().hex, datetime.now(UTC).isoformat()
    execute(
        "INSERT INTO program_generation_jobs VALUES (?, 'in_progress', ?, NULL, NULL, ?, ?)",
        (job, msgspec.json.encode(brief).decode(), now, now),
    )
    background.add_task(generate_program, job, brief)
    return {"job": job, "status": "in_progress"}


@app.get("/api/programs/jobs/{job}")
async def status(job: str) -> dict[str, Any]:
    rows = execute("SELECT * FROM program_generation_jobs WHERE id = ?", (job,))
    if not rows:
        raise HTTPException(404, "no such job")
    return rows[0]


@app.get("/api/programs/{program}")
async def finished(program: str) -> Any:
    rows = execute("SELECT document FROM programs WHERE id = ?", (program,))
    if not rows:
        raise HTTPException(404, "no such program")
    return msgspec.json.decode(rows[0]["document"])


@app.get("/api/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


async def generate_program(job: str, brief: Brief) -> None:
    """Ask for the whole program, and say in the table how that went."""
    try:
        async with httpx.AsyncClient(timeout=60) as client:
            focuses = await ask(client, ask_for_skeleton(brief), exactly(brief.weeks, Line))
            weeks = []
            for number, focus in enumerate(focuses, start=1):
                prompt = ask_for_week(brief, number, focus)
                sessions = await ask(client, prompt, exactly(brief.sessions, Session))
                weeks.append(Week(number, focus, sessions))
        document = msgspec.json.encode(Program(job, brief, weeks)).decode()
        execute("INSERT INTO programs VALUES (?, ?)", (job, document))
        update(job, "completed", program=job)
    except Exception as error:  # noqa: BLE001 - as it is usually written
        update(job, "failed", error=str(error))


async def ask(client: httpx.AsyncClient, prompt: str, kind: Any) -> Any:
    """Ask the model for JSON by the schema of a type."""
    (wanted,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    schema = {
        "type": "object",
        "properties": {"answer": wanted},
        "required": ["answer"],
        "$defs": definitions,
    }
    answer = await client.post(
        f"{os.environ['MODELS_ADDRESS']}/chat/completions",
        json={
            "model": os.environ.get("MODELS_CHAT", "chat"),
            "messages": [
                {"role": "system", "content": COACH},
                {"role": "user", "content": prompt},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema},
            },
        },
    )
    answer.raise_for_status()
    content = answer.json()["choices"][0]["message"]["content"]
    return msgspec.convert(msgspec.json.decode(content)["answer"], kind)


def update(job: str, status: str, *, program: str | None = None, error: str | None = None) -> None:
    execute(
        "UPDATE program_generation_jobs SET status = ?, program = ?, error = ?, updated_at = ?"
        " WHERE id = ?",
        (status, program, error, datetime.now(UTC).isoformat(), job),
    )


def execute(sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database())) as connection, connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, values)]


def database() -> str:
    return os.environ.get("PROGRAMS_DB", "programs.db")
