"""The whole API on one page: which operation does what, and who serves it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from attrs import frozen
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from stagerun.store.codec import words
from stagerun.store.itemlist import LEVELS
from stagerun.web.assets import Assets
from stagerun.web.backend import Backend, Limits
from stagerun.web.bodies import Field
from stagerun.web.details import Details
from stagerun.web.events import Events
from stagerun.web.metrics import Metrics
from stagerun.web.openapi import document
from stagerun.web.overview import Overview
from stagerun.web.problems import Problem, answer
from stagerun.web.queries import Choices, Labels, Number, Parameter, Text
from stagerun.web.routes import Operation, routes
from stagerun.web.runs import KEY, Runs
from stagerun.web.schemas import OUTCOMES, STATUSES

__all__ = ["Built", "build", "operations"]

_PAGE: Final = 500
_REASON: Final = 500
"""Characters of a cancellation's reason at most."""
_AFTER: Final = Text("after", "`next` of the page before.")
_STAGE: Final = Text("stage", "Only those of the stage of this name.")


def _limit(default: int) -> Parameter:
    return Number("limit", "How many at most.", default, least=1, most=_PAGE)


@frozen
class Built:
    """The app, and what must be served while it is."""

    app: ASGIApp
    operations: tuple[Operation, ...]
    _events: Events

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve streams of events; soon after the end of the block none is left."""
        async with self._events.serving():
            yield


def build(backend: Backend, limits: Limits | None = None) -> Built:
    """Return the API and the dashboard of *backend*, not yet guarded."""
    limits = limits or Limits(body=backend.body_limit)
    events = Events(backend)
    table = operations(backend, limits, events)
    app = Starlette(
        routes=routes(table, limits),
        exception_handlers={HTTPException: _not_found},
    )
    app.router.redirect_slashes = False  # it would make an address from what Host says
    return Built(app, table, events)


def operations(backend: Backend, limits: Limits, events: Events) -> tuple[Operation, ...]:
    """Return everything that the service answers."""
    runs, details, overview = Runs(backend, limits), Details(backend), Overview(backend)
    assets, metrics = Assets(), Metrics(backend, events)
    table: tuple[Operation, ...]

    async def openapi(_request: Request) -> Response:
        return answer(document(table))

    table = (
        Operation(
            path="/runs",
            handler=runs.listed,
            access="read",
            about="List runs, the newest first.",
            query=(
                _limit(50),
                _AFTER,
                Choices("status", "Only runs of this status.", STATUSES),
                Text("pipeline", "Only runs of the pipeline of this name."),
                Labels("label", "`name:value`; only runs that have it. May be repeated."),
            ),
            answers={200: "Runs"},
        ),
        Operation(
            method="POST",
            path="/runs",
            handler=runs.start,
            access="write",
            about="Start a run. When this answers, the run and its items are on disk. With a key"
            " that was used before: 200 and the first run.",
            body=_start(limits),
            headers=("Idempotency-Key",),
            answers={202: "Run", 200: "Run"},
            refusals=(404,),
        ),
        Operation(
            path="/runs/{id}",
            handler=runs.shown,
            access="read",
            about="Show all about one run.",
            answers={200: "Run"},
        ),
        Operation(
            method="POST",
            path="/runs/{id}/cancel",
            handler=runs.cancel,
            access="write",
            about="Ask a run to stop. 200: it has ended, now or before.",
            body=(_REASON_FIELD,),
            answers={202: "Cancellation", 200: "Cancellation"},
        ),
        Operation(
            method="POST",
            path="/runs/{id}/resume",
            handler=runs.resume,
            access="write",
            about="Go on with a run that has ended, in a new generation. 409: it cannot.",
            body=_RESUME,
            answers={202: "Run"},
            refusals=(409,),
        ),
        Operation(
            path="/runs/{id}/items",
            handler=details.items,
            access="read",
            about="List the items of a run that have an outcome.",
            query=(
                _limit(50),
                _AFTER,
                _STAGE,
                Choices("outcome", "Only these, with commas between.", OUTCOMES, several=True),
            ),
            answers={200: "Items"},
        ),
        Operation(
            path="/runs/{id}/logs",
            handler=details.logs,
            access="read",
            about="List the kept log lines of a run, the oldest first.",
            query=(
                _limit(200),
                Number("after", "Only lines after the event of this number.", 0),
                Choices("level", "Only lines of this level and above.", LEVELS),
                _STAGE,
            ),
            answers={200: "Logs"},
        ),
        Operation(
            path="/runs/{id}/why",
            handler=details.why,
            access="read",
            about="Say why a run stands where it does: what it waits for, and what ends the wait.",
            answers={200: "Why"},
        ),
        Operation(
            path="/runs/{id}/events",
            handler=events.stream,
            access="read",
            about="Follow a run, as server-sent events. 204: it has ended, and all was received.",
            query=(Text("after", "For tools: the same as Last-Event-ID."),),
            headers=("Last-Event-ID",),
            answers={200: "text/event-stream", 204: ""},
            refusals=(429,),
        ),
        Operation(
            path="/runs/{id}/charts",
            handler=details.charts,
            access="read",
            about="What the page of a run draws: throughput, timeline, durations, errors.",
            answers={200: "Charts"},
        ),
        Operation(
            path="/pipelines",
            handler=overview.pipelines,
            access="read",
            about="List the pipelines that can be started here or have runs.",
            answers={200: "Pipelines"},
        ),
        Operation(
            path="/pipelines/{name}/durations",
            handler=overview.durations,
            access="read",
            about="How long the last runs of a pipeline took, the newest last.",
            query=(_limit(100),),
            answers={200: "Durations"},
        ),
        Operation(
            path="/labels",
            handler=overview.labels,
            access="read",
            about="List the labels that runs have, with some of their values.",
            query=(Text("name", "Only the label of this name."),),
            answers={200: "Labels"},
        ),
        Operation(
            path="/overview",
            handler=overview.overview,
            access="read",
            about="How many runs there are of each status, and how the service does.",
            answers={200: "Overview"},
        ),
        Operation(
            path="/healthz",
            handler=overview.healthz,
            access="open",
            about="200 while the process serves.",
            answers={200: "Health"},
        ),
        Operation(
            path="/readyz",
            handler=overview.readyz,
            access="open",
            about="200 while runs can be started and read; else 503.",
            answers={200: "Readiness", 503: "Readiness"},
        ),
        Operation(
            path="/metrics",
            handler=metrics.scrape,
            access="read",
            about="Figures for Prometheus.",
            answers={200: "text/plain"},
            refusals=(501,),
        ),
        Operation(
            path="/openapi.json",
            handler=openapi,
            access="open",
            about="This document.",
            answers={200: "Document"},
        ),
        Operation(
            path="/docs",
            handler=assets.docs,
            access="open",
            about="This document, as a page.",
            answers={200: "text/html", 304: ""},
        ),
        Operation(
            path="/",
            handler=assets.dashboard,
            access="open",
            about="The dashboard.",
            answers={200: "text/html", 304: ""},
        ),
        Operation(
            path="/static/{name:path}",
            handler=assets.static,
            access="open",
            about="Parts of the pages.",
            answers={200: "text/plain", 304: ""},
        ),
    )
    return table


def _start(limits: Limits) -> tuple[Field, ...]:
    return (
        Field(
            name="pipeline",
            about="Which pipeline, by its name.",
            schema={"type": "string"},
            check=lambda value: None if isinstance(value, str) else "must be text",
            required=True,
        ),
        Field(
            name="items",
            about="What goes through the stages; without it the pipeline's own source gives them.",
            schema={"type": "array", "maxItems": limits.items},
            check=lambda value: _list(value, limits.items),
        ),
        Field(
            name="params",
            about="What every stage can read as ctx.params.",
            schema={"type": "object"},
            check=lambda value: None if isinstance(value, dict) else "must be an object, {...}",
        ),
        Field(
            name="labels",
            about="Text to text; runs can be listed by them.",
            schema={"type": "object", "additionalProperties": {"type": "string"}},
            check=_labels,
        ),
        Field(
            name="key",
            about="Makes repeated starts one: the second is answered with the first run.",
            schema={"type": "string", "minLength": 1, "maxLength": KEY},
            check=lambda value: _text(value, KEY),
        ),
    )


_REASON_FIELD: Final = Field(
    name="reason",
    about="One line for people; stages read it too.",
    schema={"type": "string", "minLength": 1, "maxLength": _REASON},
    check=lambda value: _text(value, _REASON),
)
_RESUME: Final = (
    Field(
        name="failed",
        about="Whether failed, timed-out and crashed items run again, too.",
        schema={"type": "boolean", "default": False},
        check=lambda value: None if isinstance(value, bool) else "must be true or false",
    ),
    Field(
        name="changed",
        about="What to do when stages have changed since.",
        schema={"type": "string", "enum": ["refuse", "repeat"], "default": "refuse"},
        check=lambda value: (
            None if value in ("refuse", "repeat") else "must be 'refuse' or 'repeat'"
        ),
    ),
)


def _list(value: Any, most: int) -> str | None:
    if not isinstance(value, list):
        return "must be a list, [...]"
    return None if len(value) <= most else f"must have {most} items at most, has {len(value)}"


def _labels(value: Any) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        return "must be an object of texts, {...}"
    fine = all(name and words(name, 10**6) == name for name in value)
    return None if fine else "must have names that are not empty and can be stored"


def _text(value: Any, most: int) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        return f"must be text of 1 to {most} characters"
    return None if value.isprintable() else "must be one line of characters that can be printed"


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = words(request.scope["path"], 80)
    return Problem(
        status, f"there is nothing at {path}; GET /openapi.json lists all there is"
    ).response()
