"""Bugs on purpose, by name: a harness that has never found one is not to be believed.

Each stands for a mistake that somebody could make, or once made, in one place of the engine. They
are put in from outside and taken out again: nothing of them is in the package.
"""

import math
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import trio
from attrs import evolve, frozen

from stagerun.engine import household, intake, overdue, requests
from stagerun.engine.desk import Desk
from stagerun.engine.emission import Emitter
from stagerun.engine.handle import Run
from stagerun.engine.ledger import Ledger
from stagerun.engine.recorder import Recorder
from stagerun.engine.reread import Reread
from stagerun.engine.runtime import Runtime
from stagerun.engine.stage import StageActor
from stagerun.rules import frontier as rules_frontier
from stagerun.rules import liveness, verdict
from stagerun.store import frontier, lateness, questions, starting, writes
from stagerun.store.owner import Liveness
from stagerun.store.transaction import Receipt, Statement, Unit
from stagerun.testing.store import SimulatedStore

__all__ = ["PLANTS"]


@frozen
class Plant:
    """A bug on purpose, and how it must come to light."""

    planted: Callable[[], AbstractContextManager[Any]]
    shows: str
    """A pattern: found is what violates this. Another violation might be there without the bug."""

    def is_found(self, violations: Sequence[str]) -> bool:
        """Whether one of the violations is what this bug does."""
        return any(re.search(self.shows, each) for each in violations)


PLANTS: Final[dict[str, Plant]] = {}
"""What is planted, by name. Each is found within a thousand seeds: the campaign sees to that."""


def plant(shows: str) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Know a plant by its function's name."""

    def decorate(make: Callable[[], Iterator[None]]) -> None:
        PLANTS[make.__name__.replace("_", "-")] = Plant(contextmanager(make), shows)

    return decorate


@contextmanager
def replaced(target: Any, name: str, by: Any) -> Iterator[None]:
    """Have something else stand in a place for a while."""
    with mock.patch.object(target, name, by):
        yield


@contextmanager
def everywhere(function: Callable[..., Any], by: Callable[..., Any]) -> Iterator[None]:
    """Have *by* stand wherever a module of the package has imported *function* to."""
    name = function.__name__
    with ExitStack() as stack:
        for path, module in [*sys.modules.items()]:
            if path.startswith("stagerun.") and getattr(module, name, None) is function:
                stack.enter_context(mock.patch.object(module, name, by))
        yield


# -- ownership and recovery ------------------------------------------------------------------------


@plant("has been dead for")
def nobody_recovers() -> Iterator[None]:
    """A dead process's runs are settled by nobody."""

    async def recover(*_args: Any) -> list[Any]:
        return []

    with replaced(household, "recover", recover):
        yield


@plant("has been dead for")
def recovered_at_start_alone() -> Iterator[None]:
    """They are settled when a process starts, and never while others live."""
    look = household.Household.look

    async def once(self: Any) -> None:
        if not getattr(self, "_looked", False):
            self._looked = True
            await look(self)

    with replaced(household.Household, "look", once):
        yield


@plant("whose process lives")
def the_silent_are_dead() -> Iterator[None]:
    """An owner is taken for dead by the age of its heartbeat, as most schedulers do it."""
    look = SimulatedStore.look

    def by_the_clock(self: Any, identifier: str, identity: Any) -> Liveness:
        (alive_at,) = self._connection.execute(
            "SELECT alive_at FROM owners WHERE id = ?", (identifier,)
        ).fetchone()
        silent = self._machine.wall() * 1e6 - alive_at > 15e6
        return Liveness.DEAD if silent else look(self, identifier, identity)

    with replaced(SimulatedStore, "look", by_the_clock):
        yield


@plant("ended by its deadline, after")
def patience_by_the_wall() -> Iterator[None]:
    """Whether a run is long past its deadline is told at one look, by the clock on the wall."""
    with replaced(liveness.Patience, "over", lambda *_args: True):
        yield


@plant("ended by its deadline, after")
def a_locked_database_counts() -> Iterator[None]:
    """Others' silence counts while nobody can write."""
    with replaced(overdue, "_STUCK", math.inf):
        yield


@plant("beyond its deadline and grace|ended by its deadline, after")
def stored_deadlines_stay() -> Iterator[None]:
    """A deadline stored by the wall is never put right after a sleep or a jump of the clock."""

    def keep(run: int, generation: int, at: int | None, grace: int) -> Unit:
        del at, grace
        return Unit(Statement("SELECT 1 WHERE ? AND ?", (run, generation)))

    with replaced(lateness, "keep_time", keep):
        yield


@plant("begun .* after its run was over|outcome was final")
def the_ended_go_on() -> Iterator[None]:
    """A process that others have ended does not stop its runs."""
    with replaced(Ledger, "publish", _publish_always):
        yield


def _publish_always(self: Ledger, snapshot: Any) -> None:
    if snapshot is not None:
        self.published = snapshot
    if self.listener is not None:
        self.listener()


# -- fences and commits ----------------------------------------------------------------------------


@plant("had ended, as")
def no_fence() -> Iterator[None]:
    """Batches and endings are written whatever has become of the generation meanwhile."""
    unfenced = "run = ? AND generation = ?"
    with replaced(writes, "_RUNNING", unfenced):
        yield


@plant("told .* on disk")
def told_before_the_commit() -> Iterator[None]:
    """What is composed is told at once, before it is on disk."""
    compose = Recorder.compose

    def hasty(self: Any) -> Any:
        transaction = compose(self)
        if transaction is not None:
            for ledger_, snapshot, _ in self._composed[-1].units:
                if ledger_ is not None and snapshot is not None:
                    ledger_.publish(snapshot)
        return transaction

    with replaced(Recorder, "compose", hasty):
        yield


@plant("events are kept|started, and is not on disk|told .* on disk")
def a_refused_commit_is_dropped() -> Iterator[None]:
    """What the database refuses once is not tried again, and nobody hears of it."""
    execute = SimulatedStore._execute

    def once(self: Any, connection: sqlite3.Connection, transaction: Any) -> Any:
        try:
            return execute(self, connection, transaction)
        except sqlite3.OperationalError:
            return Receipt(tuple((0,) for _ in transaction.units))

    with replaced(SimulatedStore, "_execute", once):
        yield


@plant("events counted, the last is")
def gaps_in_the_events() -> Iterator[None]:
    """An event's number is taken twice as often as there are events."""
    event = Ledger._event

    def skipping(self: Any, at: int, kind: str, body: str, **more: Any) -> None:
        event(self, at, kind, body, **more)
        self.events += kind == "progress"

    with replaced(Ledger, "_event", skipping):
        yield


@plant("back to .* percent")
def progress_goes_back() -> Iterator[None]:
    """The percentage is told as it is estimated, also when the estimate falls."""
    take = Ledger._take_progress

    def forgetful(self: Any, now: int, counts: Any) -> None:
        self.highest = None
        take(self, now, counts)

    with replaced(Ledger, "_take_progress", forgetful):
        yield


# -- items -----------------------------------------------------------------------------------------


@plant("an attempt goes on")
def no_deadlines() -> Iterator[None]:
    """Nobody cuts an attempt whose time is over."""
    begin = Desk.begin

    def endless(self: Any, items: Any) -> None:
        begin(self, items)
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


# -- what customers ask ----------------------------------------------------------------------------


@plant("heard of the cancellation|was cancelled .* ago, and runs")
def cancel_is_not_passed_on() -> Iterator[None]:
    """A cancellation is heard and answered, and the run goes on."""
    cancel = requests.Requests._cancel

    def deaf(self: Any, actor: Any, reason: str) -> Any:
        class _Nobody:
            asked = None
            hub = actor.hub

            def stop(self, *_: Any) -> None: ...

        with mock.patch.object(self, "_call_back"):
            return cancel(self, _Nobody(), reason)  # type: ignore[arg-type] # so it is

    with replaced(requests.Requests, "_cancel", deaf):
        yield


@plant("nobody has asked for that")
def one_is_cancelled_and_all_are() -> Iterator[None]:
    """Whoever cancels a run cancels all that the process has."""
    cancel = requests.Requests._cancel

    def sweeping(self: Any, actor: Any, reason: str) -> Any:
        for other in [*self._runs.values()]:
            cancel(self, other, reason)
        return cancel(self, actor, reason)

    with replaced(requests.Requests, "_cancel", sweeping):
        yield


@plant("does not answer to cancel")
def no_answer_to_a_cancel() -> Iterator[None]:
    """What was asked is done, and whoever asked never hears of it."""
    with replaced(requests.Requests, "cancel", _forgotten(requests.Requests.cancel)):
        yield


@plant("does not answer to start")
def no_answer_to_a_start() -> Iterator[None]:
    """A run begins, and whoever started it never hears of it."""
    with replaced(Runtime, "start", _forgotten(Runtime.start)):
        yield


@plant("does not answer to wait")
def no_answer_to_a_wait() -> Iterator[None]:
    """A run ends, and whoever waits for that never hears of it."""
    with replaced(Run, "wait", _forgotten(Run.wait)):
        yield


def _forgotten(ask: Any) -> Any:
    async def forgotten(*args: Any, **more: Any) -> None:
        await ask(*args, **more)
        await trio.sleep_forever()

    return forgotten


@plant("no customer's key")
def keys_are_forgotten() -> Iterator[None]:
    """A start that is repeated with the same key is another start."""
    order_of = intake.order_of

    def keyless(*args: Any, key: str | None = None, **more: Any) -> Any:
        del key
        return order_of(*args, key=None, **more)

    with everywhere(order_of, keyless):
        yield


@plant("runs of key line are under way")
def the_line_is_not_kept() -> Iterator[None]:
    """Runs that share a place do not wait for each other."""
    take_turn, turn_of = starting.take_turn, questions.turn_of

    def pushing(*args: Any, places: int, **more: Any) -> Unit:
        return take_turn(*args, places=places + 5, **more)

    def hoping(run: int, generation: int, key: str, places: int) -> Any:
        return turn_of(run, generation, key, places + 5)

    with everywhere(take_turn, pushing), everywhere(turn_of, hoping):
        yield
