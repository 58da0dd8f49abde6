"""Bugs on purpose: what customers ask, and hear."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import trio

from stagerun.engine import intake, requests
from stagerun.engine.handle import Run
from stagerun.engine.runtime import Runtime
from stagerun.store import questions, starting
from stagerun.store.transaction import Unit
from tests.simulation.plants.plant import everywhere, plant, replaced


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
