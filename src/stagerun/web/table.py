"""The whole API on one page: which operation does what, who serves it, and what it takes."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from stagerun.store.itemlist import LEVELS
from stagerun.web.assets import Assets
from stagerun.web.backend import Backend, Limits
from stagerun.web.details import Details
from stagerun.web.events import Events
from stagerun.web.fields import CANCEL, RESUME, start_fields
from stagerun.web.metrics import Metrics
from stagerun.web.openapi import document
from stagerun.web.overview import Overview
from stagerun.web.problems import answer
from stagerun.web.queries import Choices, Labels, Number, Parameter, Text
from stagerun.web.routes import Operation
from stagerun.web.runs import Runs
from stagerun.web.schedules import Schedules
from stagerun.web.schemas import OUTCOMES, STATUSES

__all__ = ["operations"]

_PAGE: Final = 500
_AFTER: Final = Text("after", "`next` of the page before.")
_STAGE: Final = Text("stage", "Only those of the stage of this name.")


def _limit(default: int) -> Parameter:
    return Number("limit", "How many at most.", default, least=1, most=_PAGE)


def operations(backend: Backend, limits: Limits, events: Events) -> tuple[Operation, ...]:
    """Return everything that the service answers."""
    runs, details, overview = Runs(backend, limits), Details(backend), Overview(backend)
    schedules, assets, metrics = Schedules(backend), Assets(), Metrics(backend, events)
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
            body=start_fields(limits),
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
            body=CANCEL,
            answers={202: "Cancellation", 200: "Cancellation"},
        ),
        Operation(
            method="POST",
            path="/runs/{id}/resume",
            handler=runs.resume,
            access="write",
            about="Go on with a run that has ended, in a new generation. 409: it cannot.",
            body=RESUME,
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
            path="/schedules",
            handler=schedules.schedules,
            access="read",
            about="List what runs by itself, by name.",
            answers={200: "Schedules"},
        ),
        Operation(
            path="/schedules/{schedule}",
            handler=schedules.schedule,
            access="read",
            about="Show one schedule, and what became of its last slots, the newest first.",
            answers={200: "Schedule"},
        ),
        Operation(
            method="POST",
            path="/schedules/{schedule}/pause",
            handler=schedules.pause_schedule,
            access="write",
            about="Let no slot come until it is resumed. Runs under way go on.",
            answers={200: "Schedule"},
        ),
        Operation(
            method="POST",
            path="/schedules/{schedule}/resume",
            handler=schedules.resume_schedule,
            access="write",
            about="Let slots come again from now on; none is made up for.",
            answers={200: "Schedule"},
        ),
        Operation(
            method="POST",
            path="/schedules/{schedule}/trigger",
            handler=schedules.trigger_schedule,
            access="write",
            about="Have a run started now, paused or not, if its overlap lets it. 409: no process"
            " serves the schedule.",
            answers={202: "Slot"},
            refusals=(409,),
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
            about="200 while the process serves; 503 when its runtime has ended before it.",
            answers={200: "Health", 503: "Health"},
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
