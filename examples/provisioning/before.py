"""The service of the report, as its team wrote it: a task for each job, its state in a dict.

    uvicorn examples.provisioning.before:app

There is no stagerun in it. Its paths are those of service.py, and so are its seven agents. The
model is asked by a synchronous client without a timeout, from async functions.
"""

import asyncio
import json
import logging
import os
import urllib.request
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from examples.provisioning.dataset import DataSet, Row, faults, write
from examples.provisioning.designs import Customer, Design, rows_type, tables_of
from examples.provisioning.pages import Page, read_page

logger = logging.getLogger(__name__)
app = FastAPI()
jobs: dict[str, dict[str, Any]] = {}
background_tasks: set[asyncio.Task[None]] = set()


class Start(BaseModel):
    customer_url: str


@app.get("/")
async def root() -> dict[str, bool]:
    return {"ok": True}


@app.post("/api/provision/start", status_code=202)
async def start_provision(body: Start) -> dict[str, str]:
    job_id = str(uuid4())
    agents = [{"name": agent.__name__, "status": "waiting"} for agent in AGENTS]
    jobs[job_id] = {"job_id": job_id, "status": "running", "agents": agents, "recent_logs": []}
    task = asyncio.create_task(run_provisioning_workflow(jobs[job_id], body.customer_url))
    background_tasks.add(task)
    task.add_done_callback(background_tasks.discard)
    return {"job_id": job_id}


@app.get("/api/provision/status/{job_id}")
async def get_status(job_id: str) -> dict[str, Any]:
    if job_id not in jobs:
        raise HTTPException(404, "no such job")
    return jobs[job_id]


@app.get("/api/provision/history")
async def get_history() -> dict[str, Any]:
    return {"jobs": [*jobs.values()]}


async def run_provisioning_workflow(job: dict[str, Any], customer_url: str) -> None:
    log(job, f"Starting provisioning for {customer_url}")
    work: dict[str, Any] = {"url": customer_url, "job_id": job["job_id"]}
    for agent, record in zip(AGENTS, job["agents"], strict=True):
        job["current_phase"] = agent.__name__
        record.update(status="running", start_time=now())
        log(job, f"Starting {agent.__name__}...")
        try:
            await agent(work)
        except Exception as error:  # noqa: BLE001 - a failed agent ends the job, whatever it was
            record.update(status="failed", end_time=now(), error_message=str(error))
            job["status"] = "failed"
            log(job, f"{agent.__name__} failed: {error}")
            return
        record.update(status="completed", end_time=now())
    job["status"] = "completed"
    log(job, "Provisioning completed")


async def crawl(work: dict[str, Any]) -> None:
    host = urlsplit(work["url"]).netloc
    pages: list[Page] = []
    queue, known = [work["url"]], {work["url"]}
    async with httpx.AsyncClient(timeout=10, follow_redirects=True) as client:
        while queue and len(pages) < 8:
            address = queue.pop(0)
            answer = await client.get(address)
            if answer.is_success and "html" in answer.headers.get("content-type", ""):
                page, links = read_page(address, answer.headers, answer.content)
                pages.append(page)
                new = [link for link in links if urlsplit(link).netloc == host]
                queue += [link for link in new if link not in known]
                known.update(new)
    work["pages"] = pages


async def understand(work: dict[str, Any]) -> None:
    work["customer"] = ask_model("\n".join(page.text for page in work["pages"]), Customer)


async def design(work: dict[str, Any]) -> None:
    work["tables"] = tables_of(ask_model(work["customer"].summary, Design))


async def generate(work: dict[str, Any]) -> None:
    work["rows"] = {table.name: [] for table in work["tables"]}
    for number, page in enumerate(work["pages"], 1):
        made = ask_model(page.text, rows_type(work["tables"]))
        for name, values in msgspec.to_builtins(made).items():
            work["rows"][name] += [Row(number, each) for each in values]


async def load(work: dict[str, Any]) -> None:
    data_set = DataSet(work["customer"], work["pages"], work["tables"], work["rows"])
    work["path"] = Path("datasets", f"{work['job_id']}.db")
    work["counts"] = write(data_set, work["path"])


async def validate(work: dict[str, Any]) -> None:
    if found := faults(work["path"], work["counts"]):
        raise ValueError("; ".join(found))


async def check(work: dict[str, Any]) -> None:
    ask_model(f"Can these tables be asked about? {work['counts']}", list[str])


AGENTS: list[Callable[[dict[str, Any]], Awaitable[None]]]
AGENTS = [crawl, understand, design, generate, load, validate, check]


def ask_model(prompt: str, schema: Any) -> Any:
    (wanted,), more = msgspec.json.schema_components([schema], ref_template="#/$defs/{name}")
    whole = {"type": "object", "properties": {"answer": wanted}, "required": ["answer"]}
    body = {
        "model": os.environ.get("MODELS_CHAT", "chat"),
        "messages": [{"role": "user", "content": prompt}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {**whole, "$defs": more}},
        },
    }
    request = urllib.request.Request(
        os.environ["MODELS_ADDRESS"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        said = json.load(answer)["choices"][0]["message"]["content"]
    return msgspec.convert(json.loads(said)["answer"], schema)


def log(job: dict[str, Any], message: str) -> None:
    job["recent_logs"].append(message)
    logger.info(message)


def now() -> str:
    return datetime.now(UTC).isoformat()
