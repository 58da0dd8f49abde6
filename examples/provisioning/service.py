"""The pipeline over HTTP, under the paths of the report's service.

uvicorn examples.provisioning.service:app

POST /api/provision/start {"customer_url": ...}    202 {"job_id", "status_url"}
GET  /api/provision/status/JOB                     the phase, the agents, the latest log lines
GET  /api/provision/history                        all jobs, the newest first
GET  /api/provision/events/JOB                     what happens, as it happens (SSE)
POST /api/chat/JOB {"question": ...}               an answer out of the data set of a job
/jobs/                                             the dashboard, and the API of stagerun
"""

from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import RedirectResponse
from pydantic import AfterValidator, BaseModel, Field

from examples.provisioning.chat import chat
from examples.provisioning.pipeline import pipeline
from stagerun import UsageError
from stagerun.web import Service

BEGUN_WITHIN: Final = 20.0
ANSWERED_WITHIN: Final = 100.0

service = Service("provisioning.db", pipelines=[pipeline, chat])
app = FastAPI(lifespan=service.lifespan())
app.mount("/jobs", service.app)


def web_address(given: str) -> str:
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is no address of a web site: give https://HOST/")
    if parts.username or parts.password:
        raise ValueError("has a user or a password in it, which everybody would see in the history")
    return given


class Start(BaseModel):
    customer_url: Annotated[str, Field(max_length=2000), AfterValidator(web_address)]
    block: Annotated[float, Field(ge=0, le=60)] = 0
    """Seconds for which an agent is to block its event loop, to see that this goes on."""


Key = Annotated[str | None, Header(pattern=r"^[!-~]{1,200}$")]


class Question(BaseModel):
    question: Annotated[str, Field(min_length=1, max_length=1000)]


@app.post("/api/provision/start", status_code=202)
async def start(body: Start, idempotency_key: Key = None) -> dict[str, str]:
    """Start a job; asked again with the same Idempotency-Key, tell of the first one."""
    key = idempotency_key or uuid4().hex
    params = {"block": body.block} if body.block else None
    labels = {"customer_url": body.customer_url}
    with anyio.move_on_after(BEGUN_WITHIN):
        run = await service.runtime.start(
            pipeline, [body.customer_url], params=params, labels=labels, key=key
        )
        return {"job_id": run.id, "status_url": f"/api/provision/status/{run.id}"}
    blocked = (
        f"not begun within {BEGUN_WITHIN:g} s, and it may still begin: an agent blocks the others;"
        " see /api/provision/history for who it is. Repeat this with the header Idempotency-Key:"
        f" {key} to be told of the same job"
    )
    detail = {"message": blocked, "idempotency_key": key}
    raise HTTPException(503, detail, {"Idempotency-Key": key, "Retry-After": "5"})


@app.get("/api/provision/status/{job}")
async def status(job: str) -> dict[str, Any]:
    document = await document_of(job)
    begun = [stage["name"] for stage in document["stages"] if stage["started_at"]]
    return {
        "job_id": document["id"],
        "customer_url": document["labels"].get("customer_url"),
        "status": document["status"],
        "verdict": document["verdict"],
        "current_phase": begun[-1] if begun else None,
        "message": document["message"],
        "percent": document["percent"],
        "updated_at": document["updated_at"],
        "agents": [agent(stage) for stage in document["stages"]],
        "recent_logs": [f"{line['level']} {line['message']}" for line in document["recent_logs"]],
    }


def agent(stage: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": stage["name"],
        "status": stage["status"],
        "start_time": stage["started_at"],
        "end_time": stage["finished_at"],
        "error_message": stage["error"] and stage["error"]["message"],
    }


@app.get("/api/provision/history")
async def history(limit: Annotated[int, Field(ge=1, le=200)] = 50) -> dict[str, Any]:
    runs = await service.runs(pipeline=pipeline.name, limit=limit)
    told = ("status", "verdict", "message", "created_at", "finished_at")
    return {
        "jobs": [
            {"job_id": run["id"], "customer_url": run["labels"].get("customer_url")}
            | {name: run[name] for name in told}
            for run in runs
        ]
    }


@app.get("/api/provision/events/{job}")
async def events(job: str, request: Request) -> RedirectResponse:
    document = await document_of(job)
    return RedirectResponse(f"{request.scope['root_path']}/jobs/runs/{document['id']}/events")


@app.post("/api/chat/{job}")
async def answer(job: str, body: Question) -> dict[str, Any]:
    document = await document_of(job)
    if document["status"] != "succeeded":
        why = f"it is {document['status']}: {document['message'] or document['step']}"
        raise HTTPException(409, f"job {job} has no data set to ask, {why}")
    with anyio.move_on_after(ANSWERED_WITHIN):
        made = await service.runtime.find(document["id"])
        async for report in made.results():
            asked = {"data_set": report["data_set"], "question": body.question}
            run = await service.runtime.start(chat, [asked], labels={"job": document["id"]})
            result = await run.wait()
            async for found in result.results():
                return dict(found)
            raise HTTPException(502, f"the question was not answered: {result.message}")
    raise HTTPException(504, f"the question was not answered within {ANSWERED_WITHIN:g} s")


async def document_of(job: str) -> dict[str, Any]:
    """Read what is on disk, beside the runtime: no agent can hold this up."""
    try:
        return await service.document(job)
    except UsageError as error:
        raise HTTPException(404, str(error)) from error
