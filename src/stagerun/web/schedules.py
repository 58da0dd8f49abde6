"""Schedules over HTTP: listed, shown, paused, resumed, triggered.

All of it is said to the database, and heard by whatever process serves the schedule: so it is
answered while a stage blocks the runtime of this one.
"""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stagerun.engine.triggering import ask_to_pause, ask_to_trigger, ask_to_unpause
from stagerun.errors import UsageError
from stagerun.store.codec import words
from stagerun.store.driver import Question
from stagerun.store.schedulelist import schedule_document, schedule_list
from stagerun.web.backend import Backend
from stagerun.web.problems import Problem, answer, place
from stagerun.web.runs import whoever_asks

__all__ = ["Schedules"]


class Schedules:
    """What can be done with schedules."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def schedules(self, _request: Request) -> Response:
        """Answer with all schedules, by name."""
        return answer({"schedules": await self._backend.pool.ask(schedule_list())})

    async def schedule(self, request: Request) -> Response:
        """Answer with one schedule, and what became of its last slots."""
        return answer(await self._backend.pool.ask(_of_schedule(request)))

    async def pause_schedule(self, request: Request) -> Response:
        """Let no slot come any more."""
        name = await self._known(request)
        return answer(await self._backend.pool.hold(ask_to_pause(name, _now)))

    async def resume_schedule(self, request: Request) -> Response:
        """Let slots come again, from now on."""
        name = await self._known(request)
        return answer(await self._backend.pool.hold(ask_to_unpause(name)))

    async def trigger_schedule(self, request: Request) -> Response:
        """Have a run started now, by whatever process serves the schedule."""
        name = await self._known(request)
        try:
            slot = await self._backend.pool.hold(ask_to_trigger(name, whoever_asks(request), _now))
        except UsageError as error:
            raise Problem(409, str(error), title="Served by nobody", kind="unserved") from error
        there = {} if slot["run"] is None else {"Location": place(request, f"/runs/{slot['run']}")}
        return answer(slot, 202, there)

    async def _known(self, request: Request) -> str:
        name: str = (await self._backend.pool.ask(_of_schedule(request)))["name"]
        return name


def _of_schedule(request: Request) -> Question[dict[str, Any]]:
    """Ask for the schedule that the path names.

    Raises:
        Problem: 404: there is none of that name.
    """
    question = schedule_document(words(request.path_params["schedule"], 64))

    def ask(connection: Any) -> dict[str, Any]:
        try:
            return question(connection)
        except UsageError as error:
            raise Problem(404, str(error), title="No such schedule", kind="no-schedule") from error

    return ask


def _now() -> int:
    return time.time_ns() // 1_000
