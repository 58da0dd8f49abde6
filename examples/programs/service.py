"""Training programs as jobs behind an API; any number of server processes on one database.

    uvicorn examples.programs.service:app --workers 4

    POST /api/programs/generate          a brief; 202 with the job
    GET  /api/programs/jobs/{job}        how it stands; jobs of the old table are known, too
    POST /api/programs/jobs/{job}/retry  goes on with a job that has ended without a program
    GET  /api/programs/{program}         a finished program
    GET  /api/health
    /jobs                                the dashboard, live events, logs, why, cancel

STAGERUN_DB and PROGRAMS_DB name the databases of the runs and of the programs.
"""

import hashlib
import os
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool

from examples.programs import storage
from examples.programs.pipeline import JOB, pipeline
from examples.programs.program import Brief
from stagerun import RuntimeClosedError, StoreError, UsageError
from stagerun.web import Service

service = Service(os.environ.get("STAGERUN_DB", "stagerun.db"), pipelines=[pipeline])
app = FastAPI(title="Training programs", lifespan=service.lifespan())
app.mount("/jobs", service.app)

BODY = {
    "content": {"application/json": {"schema": msgspec.json.schema_components([Brief])[1]["Brief"]}}
}


@app.post("/api/programs/generate", status_code=202, openapi_extra={"requestBody": BODY})
async def generate(
    request: Request, idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Start a job; asked again with the same Idempotency-Key, tell of the first one.

    409: the key was used with another brief.
    """
    try:
        brief = msgspec.json.decode(await request.body(), type=Brief)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(422, f"not a brief: {error}") from error
    mark = hashlib.sha256(msgspec.json.encode(brief)).hexdigest()
    labels = {"brief": mark}
    try:
        run = await service.runtime.start(
            pipeline, [brief], key=idempotency_key, labels=labels, **JOB
        )
    except UsageError as error:
        raise HTTPException(422, str(error)) from error
    found = await run.document()
    if found["labels"].get("brief", mark) != mark:
        why = f"Idempotency-Key was used for another brief, by job {run.id}: give a key of its own"
        raise HTTPException(409, why)
    return told(found)


@app.get("/api/programs/jobs/{job}")
async def status(job: str) -> dict[str, Any]:
    return told(await document(job))


@app.post("/api/programs/jobs/{job}/retry", status_code=202)
async def retry(job: str) -> dict[str, Any]:
    """Go on with a job: weeks that are written stay, all others are asked for."""
    found = await document(job)
    if found["status"] == "succeeded":
        raise HTTPException(409, f"job {job} has its program: there is nothing to retry")
    try:
        run = await service.runtime.resume(found["id"], pipeline, failed=True)
    except UsageError as error:
        raise HTTPException(409, str(error)) from error
    return told(await run.document())


@app.get("/api/programs/{program}")
async def finished(program: str) -> Response:
    found = await run_in_threadpool(storage.load, program)
    if found is None:
        raise HTTPException(404, f"there is no program {program!r}")
    return Response(found, media_type="application/json")


@app.get("/api/health")
async def health() -> dict[str, Any]:
    found, jobs = service.runtime.health(), service.runtime.statistics().runs
    return {"status": found.status, "why": found.why, "process": os.getpid(), "jobs": jobs}


async def document(job: str) -> dict[str, Any]:
    """Return the document of a job's run."""
    run_id = await run_in_threadpool(storage.successor, job) or job
    try:
        run = await service.runtime.find(run_id)
    except UsageError as error:
        raise HTTPException(404, f"there is no job {job!r}") from error
    return await run.document()


def told(run: dict[str, Any]) -> dict[str, Any]:
    """Return what a client of this API wants to know of a run."""
    stages = {stage["name"]: stage for stage in run["stages"]}
    program = f"/api/programs/{run['id']}-1" if run["status"] == "succeeded" else None
    return {
        "job": run["id"],
        "status": run["status"],
        "verdict": run["verdict"],
        "cause": run["cause"],
        "message": run["message"],
        "percent": run["percent"],
        "step": run["step"],
        "weeks": {"asked": stages["week"]["accepted"], "written": stages["week"]["ok"]},
        "errors": {
            name: stage["error"]["message"] for name, stage in stages.items() if stage["error"]
        },
        "program": program,
        "earlier": run["generations"],
        "created_at": run["created_at"],
        "updated_at": run["updated_at"],
        "finished_at": run["finished_at"],
    }


@app.exception_handler(StoreError)
@app.exception_handler(RuntimeClosedError)
async def unavailable(_: Request, error: Exception) -> Response:
    """Say that another process, or a later moment, will do."""
    return Response(str(error), 503, {"Retry-After": "5"}, media_type="text/plain")
