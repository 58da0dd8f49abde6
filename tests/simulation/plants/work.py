"""Bugs on purpose: deadlines, retries, and items that come twice or never."""

import math
from collections.abc import Iterator
from typing import Any

from attrs import evolve

from stagerun.engine.desk import Desk
from stagerun.engine.emission import Emitter
from stagerun.engine.reread import Reread
from stagerun.engine.stage import StageActor
from stagerun.rules import frontier as rules_frontier
from stagerun.rules import verdict
from stagerun.store import frontier
from tests.simulation.plants.plant import everywhere, plant, replaced


@plant("an attempt goes on")
def no_deadlines() -> Iterator[None]:
    """Nobody cuts an attempt whose time is over."""
    begin = Desk.begin

    def endless(self: Any, items: Any, now: float) -> None:
        begin(self, items, now)
        self.deadline = self.bound = self.scope.deadline = math.inf

    with replaced(Desk, "begin", endless):
        yield


@plant("is ok, and must be timed_out")
def late_results_count() -> Iterator[None]:
    """What comes after its deadline is a success, if it comes."""
    decide = verdict.decide

    def lenient(attempt: Any, *rest: Any) -> Any:
        if attempt.returned:
            return verdict.Done()
        return decide(attempt, *rest)

    with everywhere(decide, lenient):
        yield


@plant("outcome was final")
def final_items_again() -> Iterator[None]:
    """A source that is read again gives also what has a final outcome."""

    async def number(self: Any, position: int, value: Any) -> int:
        del self, value
        return position

    with replaced(Reread, "number", number):
        yield


@plant("had to make")
def children_twice() -> Iterator[None]:
    """A repeated parent does not know what it gave before."""

    async def forgetful(cls: type[Emitter], actor: Any, parent: Any) -> Emitter:
        return cls(actor, parent)

    with replaced(Emitter, "reopen", classmethod(forgetful)):
        yield


@plant("failed, internal|given were")
def the_first_waiting_is_lost() -> Iterator[None]:
    """A resume begins one item too far."""
    waiting = frontier.waiting

    def late(place: Any, below: int, after: int) -> Any:
        question = waiting(place, below, after)
        return lambda connection: question(connection)[0 if after else 1 :]

    with replaced(frontier, "waiting", late):
        yield


@plant("is crashed, and must be")
def one_death_is_enough() -> Iterator[None]:
    """An item with which a process died once is given up."""
    with everywhere(rules_frontier.condemned, lambda *_: True):
        yield


@plant("and must be ok")
def no_retries() -> Iterator[None]:
    """The first failure is the last."""
    by_attempt = verdict._by_attempt

    def final(attempt: Any, stage: Any, *rest: Any) -> Any:
        once = stage.with_options(retry=evolve(stage.retry, attempts=1))
        return by_attempt(attempt, once, *rest)

    with replaced(verdict, "_by_attempt", final):
        yield


@plant("more at once than")
def one_worker_more() -> Iterator[None]:
    """A stage has one worker more than it says."""
    init = StageActor.__init__

    def generous(self: Any, stage: Any, *rest: Any) -> None:
        init(self, stage.with_options(workers=stage.workers + 1), *rest)

    with replaced(StageActor, "__init__", generous):
        yield
