"""The same job as it was: FastAPI, asyncio, one `gather`. One interview that hangs stops it at 25.

    python -m examples.theory.before --port 8700

MODELS_ADDRESS names the model server, projects are folders in THEORY_PROJECTS, and what is made of
them goes to `before.db` in THEORY_STORE.
"""

import argparse
import asyncio
import json
import logging
import os
import sqlite3
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException

from examples.theory.texts import Interview, fragments_of, interviews_in, text_of

logger = logging.getLogger("theory")
app = FastAPI(title="theory, before")

PROJECTS = Path(os.environ.get("THEORY_PROJECTS", Path(__file__).parent))
STORE = Path(os.environ.get("THEORY_STORE", "theory-store")) / "before.db"
MODELS = os.environ.get("MODELS_ADDRESS", "http://127.0.0.1:8901/v1")
INTERVIEW_CONCURRENCY = 4
FRAGMENT_CONCURRENCY = 8

statuses: dict[str, dict[str, Any]] = {}
tasks: set[asyncio.Task[None]] = set()


@app.post("/api/projects/{project}/generate-theory", status_code=202)
async def generate(project: str) -> dict[str, str]:
    task_id = uuid.uuid4().hex
    mark(task_id, status="running", step="start", progress=5)
    task = asyncio.create_task(run_theory(task_id, project))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return {"task_id": task_id}


@app.get("/api/projects/{project}/generate-theory/status/{task_id}")
async def status(project: str, task_id: str) -> dict[str, Any]:
    if task_id not in statuses:
        raise HTTPException(404, f"project {project} has no such task")
    return statuses[task_id]


def mark(task_id: str, **changes: Any) -> None:
    now = datetime.now(UTC).isoformat()
    statuses[task_id] = {**statuses.get(task_id, {}), **changes, "updated_at": now}


async def run_theory(task_id: str, project: str) -> None:
    try:
        logger.info("[theory] %s started", task_id)
        interviews = interviews_in(PROJECTS / project)
        STORE.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(STORE) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS codes (task, interview, number, codes)")
            connection.execute("CREATE TABLE IF NOT EXISTS vectors (task, interview, vectors)")

        logger.info("[theory_stage] auto_code of %d interviews", len(interviews))
        mark(task_id, step="auto_code", progress=25, message="Auto-coding interviews...")
        at_once = asyncio.Semaphore(INTERVIEW_CONCURRENCY)
        async with httpx.AsyncClient(base_url=MODELS, timeout=None) as client:
            coded = await asyncio.gather(
                *(auto_code(client, at_once, task_id, each) for each in interviews)
            )

        mark(task_id, step="theory", progress=40)
        owners = Counter(code for codes in coded for code in set(codes))
        categories = sorted(code for code, count in owners.items() if count > 1)
        mark(task_id, status="succeeded", step="done", progress=100, categories=categories)
    except Exception as error:
        logger.exception("[theory] %s failed", task_id)
        mark(task_id, status="failed", error=str(error), error_code=type(error).__name__)


async def auto_code(
    client: httpx.AsyncClient, at_once: asyncio.Semaphore, task_id: str, interview: Interview
) -> list[str]:
    async with at_once:
        text = text_of(interview)
        about = await chat(client, "Say in one sentence what this interview is about.", text[:2000])
        fragments = fragments_of(text)
        fragments_at_once = asyncio.Semaphore(FRAGMENT_CONCURRENCY)

        async def code(fragment: str) -> list[str]:
            async with fragments_at_once:
                answer = await chat(client, f"Give codes, one a line. About: {about}", fragment)
                return [word.strip(".,;").lower() for word in answer.split() if len(word) > 4][:3]

        codes = await asyncio.gather(*(code(each) for each in fragments))
        vectors = await generate_embeddings(client, fragments)
        with sqlite3.connect(STORE) as connection:
            rows = [(task_id, interview.name, i, json.dumps(c)) for i, c in enumerate(codes, 1)]
            connection.executemany("INSERT INTO codes VALUES (?, ?, ?, ?)", rows)
            row = (task_id, interview.name, json.dumps(vectors))
            connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", row)
        logger.info("[coding] %s: %d fragments", interview.name, len(fragments))
        return [code for each in codes for code in each]


async def chat(client: httpx.AsyncClient, system: str, text: str) -> str:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    answer = await client.post("/chat/completions", json={"model": "chat", "messages": messages})
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


async def generate_embeddings(client: httpx.AsyncClient, texts: list[str]) -> list[list[float]]:
    answer = await client.post("/embeddings", json={"model": "embeddings", "input": texts})
    answer.raise_for_status()
    return [row["embedding"] for row in answer.json()["data"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8700)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port)


if __name__ == "__main__":
    main()
