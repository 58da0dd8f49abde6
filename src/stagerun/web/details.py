"""What stands behind a run: its items, its log lines, why it stands where it does, its charts."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stagerun.engine.asking import ask_why, tell_story
from stagerun.errors import StoreError
from stagerun.store.charts import charts
from stagerun.store.itemlist import item_page, log_page
from stagerun.web.backend import Backend
from stagerun.web.problems import answer
from stagerun.web.routes import query_of
from stagerun.web.runs import next_page, of_run, whoever_asks, wholly

__all__ = ["Details"]


class Details:
    """What one reads when a run's document is not enough."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def items(self, request: Request) -> Response:
        """Answer with a page of items that have an outcome."""
        query = query_of(request)

        def page(run: str) -> Any:
            return item_page(
                run,
                stage=query["stage"],
                outcomes=query["outcome"],
                after=query["after"],
                limit=query["limit"],
            )

        items, following = await self._backend.pool.ask(of_run(request, page))
        return next_page(request, {"items": items}, following)

    async def logs(self, request: Request) -> Response:
        """Answer with a page of log lines, the oldest first."""
        query = query_of(request)

        def page(run: str) -> Any:
            lines = log_page(
                run,
                after=query["after"],
                limit=query["limit"],
                level=query["level"],
                stage=query["stage"],
            )
            return lambda connection: (run, *lines(connection))

        run, lines, following = await self._backend.pool.ask(of_run(request, page))
        return next_page(request, {"run": run, "logs": lines}, following)

    async def why(self, request: Request) -> Response:
        """Answer with why the run stands where it does, as its owner says it."""
        pool = self._backend.pool
        identifier = await pool.ask(of_run(request, wholly))
        asked = {"by": whoever_asks(request)}
        try:
            document = await pool.hold(ask_why(identifier, asked, lambda: time.time_ns() // 1_000))
        except StoreError as error:  # it takes no requests, but can be read
            document = await pool.hold(tell_story(identifier))
            document["summary"] += f" Its process cannot be asked: {error}"
        return answer(document)

    async def charts(self, request: Request) -> Response:
        """Answer with what the page of a run draws."""
        return answer(await self._backend.pool.ask(of_run(request, charts)))
