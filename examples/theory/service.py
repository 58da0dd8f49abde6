"""The theory of a project, made in the background.

    uvicorn examples.theory.service:app

    POST /api/projects/{project}/generate-theory                    {"least"?: 5} -> 202, task_id
    GET  /api/projects/{project}/generate-theory/status/{task_id}
    POST /api/projects/{project}/generate-theory/cancel/{task_id}
    /stagerun/                                                      dashboard and API of all runs

A project is a folder of texts in THEORY_PROJECTS. By default that is the folder of this file,
where there is the project `interviews`. What is made of it goes to THEORY_STORE (`theory-store`),
the runs to THEORY_DATABASE (`theory.db`).
"""

import os
from pathlib import Path
from typing import Annotated, Any, Final

import fastapi
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from examples.theory.pipeline import pipeline
from examples.theory.texts import interviews_in
from stagerun import UsageError
from stagerun.web import Service

HERE: Final = Path(__file__).parent
PROJECTS: Final = Path(os.environ.get("THEORY_PROJECTS", HERE)).absolute()
STORE: Final = Path(os.environ.get("THEORY_STORE", "theory-store")).absolute()

STEPS: Final = {
    "interviews": "auto_code",
    "code": "auto_code",
    "embed": "auto_code",
    "save_codes": "auto_code",
    "save_vectors": "auto_code",
    "tally": "sync",
    "sync": "sync",
    "categories": "theory",
    "publish": "theory",
}
"""What people know a stage as."""
BEGIN: Final = 25.0
"""Where the progress of this work begins, in the whole that people see."""

service = Service(os.environ.get("THEORY_DATABASE", "theory.db"), pipelines=[pipeline])
app = FastAPI(lifespan=service.lifespan(), title="theory")
app.mount("/stagerun", service.app)

Project = Annotated[str, fastapi.Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
PATH: Final = "/api/projects/{project}/generate-theory"


class Wish(BaseModel):
    """What a theory has to be."""

    least: Annotated[int, Field(ge=0, description="least number of categories")] = 5


@app.post(PATH, status_code=202)
async def generate(project: Project, wish: Wish | None = None) -> dict[str, Any]:
    """Start; the answer comes when the run is on disk."""
    run = await service.runtime.start(
        pipeline,
        params={
            "folder": str(folder_of(project)),
            "store": str(STORE / project),
            "least": (wish or Wish()).least,
        },
        labels={"project": project},
    )
    return {"task_id": run.id, "status_url": f"{PATH.format(project=project)}/status/{run.id}"}


@app.get(PATH + "/status/{task_id}")
async def status(project: Project, task_id: str) -> dict[str, Any]:
    """Tell how a task stands."""
    document = await document_of(project, task_id)
    interviews, fragments, *_ = document["stages"]
    return {
        "task_id": document["id"],
        "project": project,
        "status": document["status"],
        "verdict": document["verdict"],
        "step": step_of(document),
        "progress": progress_of(document),
        "updated_at": document["updated_at"],
        "message": document["message"],
        **error_of(document),
        "interviews": counts_of(interviews),
        "fragments": counts_of(fragments),
    }


@app.post(PATH + "/cancel/{task_id}")
async def cancel(project: Project, task_id: str) -> dict[str, Any]:
    """Ask a task to stop, of whichever process it is; a repetition changes nothing."""
    document = await document_of(project, task_id)
    return dict(await service.runtime.cancel(document["id"], "cancelled over the project's page"))


def folder_of(project: str) -> Path:
    folder = PROJECTS / project
    try:
        interviews_in(folder)
    except ValueError as error:
        raise HTTPException(404, f"project {project!r} has no texts") from error
    return folder


async def document_of(project: str, task_id: str) -> dict[str, Any]:
    try:
        document = await (await service.runtime.find(task_id)).document()
    except UsageError as error:
        raise HTTPException(404, str(error)) from error
    if document["pipeline"] != pipeline.name or document["labels"].get("project") != project:
        raise HTTPException(404, f"project {project!r} has no task {task_id}")
    return document


def step_of(document: dict[str, Any]) -> str:
    """Return the first step that is not done; of a run that has ended, where it stood."""
    open_stages = (each["name"] for each in document["stages"] if each["status"] != "succeeded")
    return STEPS.get(next(open_stages, "none"), "done")


def progress_of(document: dict[str, Any]) -> float:
    """Return the progress in per cent: 25 at the start, 40 when all interviews are coded.

    The stages' weights say how much of it each one is. An item moves it whatever its outcome.
    """
    return round(BEGIN + (100 - BEGIN) * (document["percent"] or 0) / 100, 1)


def error_of(document: dict[str, Any]) -> dict[str, str | None]:
    """Return the error of the stage that failed, or else of the run."""
    failed = [each["error"] for each in document["stages"] if each["status"] == "failed"]
    error = next((each for each in failed if each), document["error"])
    if document["error"] is None or error is None:
        return {"error": None, "error_code": None}
    return {"error": error["message"], "error_code": error["code"].rpartition(".")[2]}


def counts_of(stage: dict[str, Any]) -> dict[str, int]:
    names = ("accepted", "ok", "failed", "timed_out", "cancelled", "in_flight", "waiting")
    return {name: stage[name] for name in names}
