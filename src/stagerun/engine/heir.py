"""Who takes over runs whose process has gone away: any runtime that knows their pipeline."""

from collections.abc import Mapping
from functools import partial

import trio
from attrs import define, field

from stagerun import logs
from stagerun.engine.admission import Admission, Again, AlreadyOpenError
from stagerun.engine.env import Env
from stagerun.engine.runs import Runs
from stagerun.errors import StagerunError
from stagerun.model.pipeline import Pipeline
from stagerun.store.driver import Store
from stagerun.store.reopening import adoptable, stored_run

__all__ = ["Heir"]


@define(eq=False)
class Heir:
    """Resumes, unasked, what says ``on_interrupt="resume"``, and what never had its turn."""

    _store: Store
    _env: Env
    _floor: trio.Nursery
    _runs: Runs
    _admission: Admission
    _refused: set[str] = field(init=False, factory=set)
    """Runs that cannot be taken over. Each is tried, and told of, once."""

    async def look(self, known: Mapping[str, Pipeline]) -> None:
        """Begin to take over what runs of *known* pipelines there are."""
        if not known or self._runs.closing:
            return
        after = 0
        while page := await self._store.ask(adoptable([*known], after)):
            after = page[-1][0]
            for _, identifier in page:
                if identifier not in self._runs.actors and identifier not in self._refused:
                    name = "a run is taken over"
                    self._floor.start_soon(self._take_over, identifier, known, name=name)

    @trio.lowlevel.enable_ki_protection
    async def _take_over(self, identifier: str, known: Mapping[str, Pipeline]) -> None:
        with trio.CancelScope(shield=True):
            try:
                stored = await self._store.ask(stored_run(identifier))
                if self._runs.closing:
                    return
                again = Again(pipeline=known[stored.pipeline], by_itself=True, joins=True)
                await self._runs.born(partial(self._admission.reopen, identifier, again, None))
            except AlreadyOpenError:
                return  # somebody was quicker, and may die as well: then it is looked at again
            except StagerunError as error:
                self._refused.add(identifier)
                log = logs.RunLog(now=self._env.now_us)
                log.warning("run %s is not taken over: %s", identifier, error)
