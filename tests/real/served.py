# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""The same small service in FastAPI, Starlette and Quart, for real servers to serve.

Its database is named by the environment; every process of a server imports this file anew.
"""

import os
import time
from contextlib import asynccontextmanager
from typing import cast

import trio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from stagerun import Pipeline, stage
from stagerun.web import Service


@stage(workers=4, deadline=60)
async def work(item):
    await trio.sleep(item["seconds"])
    return item


@stage(workers=200, deadline=60)
async def hold(item):
    if item.get("block"):
        time.sleep(item["block"])  # noqa: ASYNC251 - the fault that is played here
    await trio.sleep(item["seconds"])
    return item


PIPELINES = [Pipeline("work", [work], grace=1), Pipeline("hold", [hold], grace=1)]

service = Service(os.environ.get("SERVED_DB", "served.db"), pipelines=PIPELINES)
"""Also an ASGI program by itself."""


@asynccontextmanager
async def own(app):
    """The program's own lifespan: the runtime is there before it and after it."""
    assert service.runtime.statistics().runs == 0
    yield {"greeting": "pong"}
    assert service.runtime.health().status


fast = FastAPI(lifespan=service.lifespan(own))
fast.mount("/jobs", service.app)


@fast.get("/ping")
async def ping() -> str:
    return f"pong from {os.getpid()}"


@fast.post("/work")
async def begin(seconds: list[float]) -> dict[str, str]:
    run = await service.runtime.start(PIPELINES[0], [{"seconds": each} for each in seconds])
    return {"id": run.id}


async def _ping(request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.state.greeting} from {os.getpid()}")


async def _begin(request) -> JSONResponse:
    seconds = await request.json()
    run = await service.runtime.start(PIPELINES[0], [{"seconds": each} for each in seconds])
    return JSONResponse({"id": run.id})


star = Starlette(
    lifespan=service.lifespan(own),
    routes=[
        Route("/ping", _ping),
        Route("/work", _begin, methods=["POST"]),
        Mount("/jobs", service.app),
    ],
)


def quart():
    """Return the same in Quart: its requests under ours, in one program."""
    from quart import request
    from quart_trio import QuartTrio

    app = QuartTrio(__name__)

    @app.get("/ping")
    async def ping() -> str:
        return f"pong from {os.getpid()}"

    @app.post("/work")
    async def begin():
        seconds = await request.get_json()
        run = await service.runtime.start(PIPELINES[0], [{"seconds": each} for each in seconds])
        return {"id": run.id}

    mounted = [Mount("/jobs", service.app), Mount("/", cast("ASGIApp", app))]
    return Starlette(lifespan=service.lifespan(), routes=mounted)
