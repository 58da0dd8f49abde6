"""What stands above the single run: pipelines, labels, sums, and how the service itself does."""

import os
from contextlib import suppress
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from stagerun.errors import RuntimeClosedError, SettingError, StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.rules.settings import apply_settings
from stagerun.store.charts import durations
from stagerun.store.listing import label_names, pipelines, status_counts
from stagerun.store.questions import open_owners
from stagerun.web.backend import Backend
from stagerun.web.guard import VISITOR
from stagerun.web.problems import Problem, answer
from stagerun.web.routes import query_of

__all__ = ["Overview"]

_READY_WITHIN = 3.0
"""Seconds for finding out whether the service is ready."""
_NOBODY = -1
"""The number of no owner."""


class Overview:
    """What one looks at first."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def pipelines(self, _request: Request) -> Response:
        """Answer with every pipeline that can be started here or has runs."""
        stored = {each["name"]: each for each in await self._backend.pool.ask(pipelines())}
        known = self._backend.pipelines
        found = []
        for name in sorted({*stored, *known}):
            nothing = {"name": name, "runs": 0, "last": None, "stages": None}
            document = {"startable": name in known, "deadline": None, "has_source": False}
            document |= stored.get(name, nothing)
            if name in known:
                document |= _declared(known[name])
            found.append(document)
        return answer({"pipelines": found})

    async def durations(self, request: Request) -> Response:
        """Answer with how long the last runs of a pipeline took, the newest last."""
        name = request.path_params["name"]
        document = await self._backend.pool.ask(durations(name, query_of(request)["limit"]))
        known = self._backend.pipelines.get(name)
        if known is None and not document["runs"]:
            raise Problem(404, f"no run of a pipeline {name[:80]!r} is known", kind="no-pipeline")
        return answer(document)

    async def labels(self, request: Request) -> Response:
        """Answer with the labels that runs have."""
        return answer(
            {"labels": await self._backend.pool.ask(label_names(query_of(request)["name"]))}
        )

    async def overview(self, _request: Request) -> Response:
        """Answer with how many runs there are of each status, and what is in hand here."""
        pool = self._backend.pool
        counts = await pool.ask(status_counts())
        owners = await pool.ask(open_owners(_NOBODY))
        return answer(
            {
                "counts": counts,
                "in_hand": self._in_hand(),
                "health": self._health(),
                "owners": len(owners),
            }
        )

    async def healthz(self, _request: Request) -> Response:
        """Answer that the process serves; whoever restarts it asks this.

        Only a new process helps one whose runtime has ended while the server goes on.
        """
        try:
            _ = self._backend.runtime
        except RuntimeClosedError:
            return answer({"status": "ended"}, 503)
        return answer({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Answer whether runs can be started and read now; whoever balances load asks this."""
        problem = await self._unready()
        if problem is None:
            return answer({"status": "ready", "problem": None})
        told = (
            problem if request.scope[VISITOR].reads else "ask with the token to hear what is wrong"
        )
        return answer({"status": "not ready", "problem": told}, 503, {"Retry-After": "2"})

    async def _unready(self) -> str | None:
        if self._backend.leaving:
            return "the service is about to end"
        try:
            health = self._backend.runtime.health()
            if health.status != "ok":
                return health.why or health.status
            with anyio.move_on_after(_READY_WITHIN):
                await self._round_trip()
                return None
        except (RuntimeClosedError, StoreError) as error:
            return str(error)
        return f"the runtime does not answer within {_READY_WITHIN:g} s: its event loop is blocked"

    async def _round_trip(self) -> None:
        """Ask for a run that there is not: so the runtime's loop and its store must answer."""
        with suppress(UsageError):
            await self._backend.runtime.find("no run")
        await self._backend.pool.ask(lambda _: None)

    def _in_hand(self) -> dict[str, Any] | None:
        try:
            statistics = self._backend.runtime.statistics()
        except RuntimeClosedError:
            return None
        return {
            "runs": statistics.runs,
            "in_flight": statistics.in_flight,
            "survivors": list(statistics.survivor_names),
        }

    def _health(self) -> dict[str, Any]:
        try:
            health = self._backend.runtime.health()
        except RuntimeClosedError as error:
            return {"status": "closed", "why": str(error), "since": None, "waiting": 0}
        since = None if health.since is None else health.since.isoformat(timespec="milliseconds")
        return {
            "status": health.status,
            "why": health.why,
            "since": since,
            "waiting": health.waiting,
        }


def _declared(pipeline: Pipeline) -> dict[str, Any]:
    """Return what holds for the next run: as declared, with what operators have set."""
    with suppress(SettingError):  # a start tells of it; here it is shown as it was declared
        pipeline = apply_settings(pipeline, os.environ)
    return {
        "deadline": pipeline.deadline,
        "has_source": pipeline.source is not None,
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind.value,
                "workers": stage.workers,
                "deadline": stage.deadline,
                "retries": stage.retry.attempts - 1,
            }
            for stage in pipeline.stages
        ],
    }
