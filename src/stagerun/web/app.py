"""The app: the table of operations, served, and what must be open while it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import frozen
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from stagerun.store.codec import words
from stagerun.web.backend import Backend, Limits
from stagerun.web.events import Events
from stagerun.web.problems import Problem
from stagerun.web.routes import Operation, routes
from stagerun.web.table import operations

__all__ = ["Built", "build"]


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


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = words(request.scope["path"], 80)
    return Problem(
        status, f"there is nothing at {path}; GET /openapi.json lists all there is"
    ).response()
