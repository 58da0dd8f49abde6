"""Runs over HTTP: listed, shown, started, cancelled, resumed."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import anyio
from starlette.requests import Request
from starlette.responses import Response

from stagerun.engine.asking import ask_to_cancel, ask_why
from stagerun.errors import UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.store.codec import words
from stagerun.store.documents import run_document
from stagerun.store.driver import Question
from stagerun.store.listing import run_page
from stagerun.store.questions import run_of_key
from stagerun.store.reports import run_identifier
from stagerun.web.backend import Backend, Limits, Started
from stagerun.web.problems import Problem, answer, place
from stagerun.web.routes import body_of, query_of

__all__ = ["KEY", "Runs", "next_page", "of_run", "whoever_asks", "wholly"]

T = TypeVar("T")

KEY: Final = 200
"""Characters of an idempotency key at most."""
_BLAMED_WITHIN: Final = 3.0
"""Seconds for finding out what blocks the runtime."""


class Runs:
    """What can be done with runs."""

    def __init__(self, backend: Backend, limits: Limits) -> None:
        self._backend = backend
        self._limits = limits

    async def listed(self, request: Request) -> Response:
        """Answer with a page of runs, the newest first."""
        query = query_of(request)
        question = run_page(
            status=query["status"],
            pipeline=query["pipeline"],
            labels=query["label"],
            after=query["after"],
            limit=query["limit"],
        )
        runs, following = await self._backend.pool.ask(question)
        return next_page(request, {"runs": runs}, following)

    async def shown(self, request: Request) -> Response:
        """Answer with all about one run."""
        return answer(await self._backend.pool.ask(of_run(request, run_document)))

    async def start(self, request: Request) -> Response:
        """Start a run; with a key that was used before, answer with the first one."""
        body = body_of(request)
        pipeline = self._pipeline(body["pipeline"])
        key = _key(request, body["key"])
        pool = self._backend.pool
        first = None if key is None else await pool.ask(run_of_key(key))
        run = await self._acknowledged(
            self._backend.runtime.start(
                pipeline, body["items"], params=body["params"], labels=body["labels"], key=key
            )
        )
        again = first is not None and first.id == run.id
        return await self._on_its_way(request, run, 200 if again else 202)

    async def cancel(self, request: Request) -> Response:
        """Ask a run of any process to stop."""
        pool, body = self._backend.pool, body_of(request)
        identifier = await pool.ask(of_run(request, wholly))
        asked = {"reason": body["reason"], "by": whoever_asks(request)}
        told = await pool.hold(ask_to_cancel(identifier, asked, _now, wait=False))
        return answer(told, 200 if told["became"] == "ended" else 202)

    async def resume(self, request: Request) -> Response:
        """Go on with a run that has ended, in a new generation."""
        body = body_of(request)
        document = await self._backend.pool.ask(of_run(request, run_document))
        identifier, name = document["id"], document["pipeline"]
        if document["finished_at"] is None and document["verdict"] != "dead":
            raise _conflict(f"run {identifier} has not ended: wait for its end, or cancel it first")
        pipeline = self._backend.pipelines.get(name)
        if pipeline is None:
            raise _conflict(
                f"run {identifier} is of pipeline {name!r}, which this service does not know:"
                f" resume it where it is known ({self._known()})"
            )
        resuming = self._backend.runtime.resume(
            identifier,
            pipeline,
            failed=bool(body["failed"]),
            changed=body["changed"] or "refuse",
        )
        try:
            run = await self._acknowledged(resuming)
        except UsageError as error:
            raise _conflict(str(error)) from error
        return await self._on_its_way(request, run, 202)

    def _pipeline(self, name: str) -> Pipeline:
        pipeline = self._backend.pipelines.get(name)
        if pipeline is None:
            raise Problem(
                404,
                f"no pipeline {words(name, 80)!r} can be started here: {self._known()}",
                title="No such pipeline",
                kind="no-pipeline",
                pipelines=sorted(self._backend.pipelines),
            )
        return pipeline

    def _known(self) -> str:
        names = ", ".join(sorted(self._backend.pipelines))
        return f"there are {names}" if names else "it knows none: give Service(pipelines=[...])"

    async def _acknowledged(self, call: Awaitable[Started]) -> Started:
        """Wait until the runtime has the run on disk, but not for ever."""
        with anyio.move_on_after(self._limits.start_seconds):
            return await call
        raise Problem(
            503,
            f"the runtime has not answered within {self._limits.start_seconds:g} s."
            f" {await self._blocked_by()} The run may still begin: ask again with the same key",
            title="Runtime does not answer",
            kind="blocked",
            headers={"Retry-After": "10"},
        )

    async def _blocked_by(self) -> str:
        pool = self._backend.pool
        with anyio.move_on_after(_BLAMED_WITHIN):
            runs, _ = await pool.ask(run_page(status="running", limit=50))
            for run in runs:
                if run["verdict"] == "blocked":
                    why = await pool.hold(ask_why(run["id"], {"by": "the service"}, _now))
                    return str(why["summary"])
        return "Its event loop is blocked, or its database is."

    async def _on_its_way(self, request: Request, run: Started, status: int) -> Response:
        document = await self._backend.pool.ask(run_document(run.id))
        return answer(document, status, {"Location": place(request, f"/runs/{run.id}")})


def of_run(request: Request, make: Callable[[str], Question[T]]) -> Question[T]:
    """Ask about the run that the path names, by its identifier or the beginning of it.

    Raises:
        Problem: 404: there is no such run, or more than one.
    """
    given = words(request.path_params["id"], 64)

    def ask(connection: Any) -> T:
        try:
            identifier = run_identifier(given)(connection)
        except UsageError as error:
            raise Problem(404, str(error), title="No such run", kind="no-run") from error
        return make(identifier)(connection)

    return ask


def wholly(identifier: str) -> Question[str]:
    """Ask for nothing more than the whole identifier."""
    return lambda _: identifier


def next_page(request: Request, page: dict[str, Any], following: object) -> Response:
    """Answer with a page, and with where the next one is, relative to this address."""
    headers = {}
    if following is not None:
        kept = [pair for pair in request.query_params.multi_items() if pair[0] != "after"]
        headers["Link"] = f'<?{urlencode([*kept, ("after", str(following))])}>; rel="next"'
    return answer(page | {"next": following}, headers=headers)


def whoever_asks(request: Request) -> str:
    """Return in words who has sent a request; it stands in the story of the run."""
    return f"{request.client.host} over HTTP" if request.client else "somebody over HTTP"


def _key(request: Request, in_body: str | None) -> str | None:
    """Return the one idempotency key, given in the body or in a header."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return in_body
    key = given[0].strip().removeprefix('"').removesuffix('"')
    if len(given) > 1 or not 0 < len(key) <= KEY or not (key.isascii() and key.isprintable()):
        raise Problem(
            422,
            f"Idempotency-Key must be one text of 1 to {KEY} printable characters of ASCII",
            kind="header",
            field="Idempotency-Key",
        )
    if in_body not in (None, key):
        raise Problem(
            422,
            "the body gives another key than the header Idempotency-Key: give one of them",
            kind="header",
            field="Idempotency-Key",
        )
    return key


def _conflict(problem: str) -> Problem:
    return Problem(409, problem, title="Cannot be resumed", kind="conflict")


def _now() -> int:
    return time.time_ns() // 1_000
