"""What other processes ask of this one's runs, and what this one asks of theirs.

Requests are rows (``store/requests.py``). The store's thread looks for them four times a second,
sets the token of a run that is to be cancelled and answers ``why``, all without the event loop: so
neither has to wait for a stage that blocks it.
"""

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from stagerun.engine.asking import (
    Dialogue,
    Pause,
    ask_to_cancel,
    ask_why,
    ended,
    in_words,
    tell_story,
)
from stagerun.engine.env import Env
from stagerun.engine.hub import Hub
from stagerun.engine.recorder import Recorder
from stagerun.engine.run import RunActor
from stagerun.engine.watch import Watch
from stagerun.logs import RunLog
from stagerun.model.status import Cause, Ending, Status
from stagerun.store import requests
from stagerun.store.codec import words
from stagerun.store.driver import Store
from stagerun.store.requests import Request
from stagerun.store.story import blocks
from stagerun.store.transaction import Unit

if TYPE_CHECKING:
    from stagerun.engine.why import Holdup

__all__ = ["Requests", "hold", "live"]

T = TypeVar("T")

_EVERY = 0.25
"""Seconds between two looks for requests."""
_ASKED_WITHIN = 10.0
"""Seconds for which another process is asked why, filing and waiting."""
_READ_WITHIN = 1.0
"""Seconds for which `why` waits for what the database adds to it."""


class Requests:
    """Hears what is asked of the runs of one runtime. Made in the event loop's thread."""

    def __init__(
        self,
        runs: Mapping[str, RunActor],
        store: Store,
        recorder: Recorder,
        env: Env,
        watch: Watch,
    ) -> None:
        self._runs = runs
        self._store = store
        self._watch = watch
        self._recorder = recorder
        self._env = env
        self._host = trio.lowlevel.current_trio_token()
        self._loop_thread = threading.get_ident()
        self._heard: set[tuple[int, bool]] = set()
        """Requests whose answer is on its way to the disk, and whether it is the last one."""
        self._failed: set[int] = set()
        """Requests that could not be answered, so that it is said once."""

    # -- asking, in the event loop's thread ---------------------------------------------------

    async def why(self, run: str) -> dict[str, Any]:
        """See ``Runtime.why``."""
        actor = self._runs.get(run)
        if actor is not None and not actor.done.is_set():
            return await live(actor)
        with trio.move_on_after(_ASKED_WITHIN):  # a database that takes no requests can be read
            return await self.hold(ask_why(run, {"by": _me()}, self._env.now_us))
        return await self.hold(tell_story(run))

    async def cancel(self, run: str, reason: str) -> dict[str, Any]:
        """See ``Runtime.cancel``. A run of this runtime is asked in the same way as any other."""
        body = {"by": _me(), "reason": reason}
        return await self.hold(ask_to_cancel(run, body, self._env.now_us, wait=False))

    async def hold(self, dialogue: Dialogue[T]) -> T:
        """Hold a dialogue of ``asking.py`` or ``triggering.py``."""
        return await hold(dialogue, self._store, self._recorder)

    # -- answering, in the store's thread -----------------------------------------------------

    def listen(self) -> None:
        """Look for requests from now on, as long as the store runs."""
        self._store.poll(requests.open_requests(), self.hear, _EVERY)

    def hear(self, given: Sequence[Request]) -> None:
        """Answer what can be answered here. The store's thread; it neither waits nor raises."""
        # Loaded at the first look: not while a program begins, and not only when somebody asks, for
        # a program in trouble may have no file descriptor left to load it by.
        from stagerun.engine import why  # noqa: F401, PLC0415

        still_open = {request.number for request in given}
        self._heard = {heard for heard in self._heard if heard[0] in still_open}
        for request in given:
            try:
                self._answer(request)
            except Exception as error:  # noqa: BLE001 - one bad request must not keep the others
                if request.number not in self._failed:
                    self._failed.add(request.number)
                    voice = RunLog(now=self._env.now_us)
                    voice.warning("request %d cannot be answered", request.number, exc_info=error)

    def _answer(self, request: Request) -> None:
        heard = (request.number, request.ending is not None)
        if heard in self._heard:
            return
        if request.ending is not None:
            answer = ended(request.ending)
            self._write(requests.close(request.number, answer, self._env.now_us()), heard)
            return
        actor = self._actor_of(request)
        if actor is None:
            return
        if request.kind == "why":
            answer = _explain(actor, self._holdup())
            self._write(requests.close(request.number, answer, self._env.now_us()), heard)
        elif request.kind == "cancel" and not request.taken:
            answer = self._cancel(actor, in_words(request.body))
            self._write(requests.take(request.number, answer, self._env.now_us()), heard)

    def _actor_of(self, request: Request) -> RunActor | None:
        for actor in tuple(self._runs.values()):
            ledger = actor.hub.ledger
            if (ledger.run, ledger.generation) == (request.run, request.generation):
                return actor
        return None

    def _cancel(self, actor: RunActor, reason: str) -> dict[str, Any]:
        """Tell the work to stop, at once and from this thread; return the first answer.

        A run that is stopping already goes on stopping as it does, and the answer says so.
        """
        hub, reason = actor.hub, words(reason)
        stopping = actor.asked
        if stopping is None:
            # Queued before the token's own callback: the run stops for this, not for its token.
            with suppress(trio.RunFinishedError):
                self._host.run_sync_soon(
                    actor.stop, Ending(Status.CANCELLED, Cause.REQUESTED, reason)
                )
            self._call_back(hub, reason)
            message = "its work is told to stop"
        else:
            message = f"it is stopping already ({stopping[0].status.value}: {stopping[0].message})"
        held_by = self._holdup()
        if held_by is not None:
            place = held_by.facts.place
            message += f"; the event loop is blocked{'' if place is None else f' at {place}'}"
        return {
            "became": "cancelling",
            "status": "running",
            "message": message,
            "grace": hub.pipeline.grace,
        }

    def _call_back(self, hub: Hub, reason: str) -> None:
        """Cancel the token; its callbacks are the user's, and must not hold the store's thread."""
        if threading.get_ident() == self._loop_thread:
            hub.cancel(hub.token, reason)  # in virtual time there is one thread
        else:
            work = (hub.token, reason)
            threading.Thread(
                target=hub.cancel, args=work, name="stagerun-cancel", daemon=True
            ).start()

    def _holdup(self) -> "Holdup | None":
        from stagerun.engine.why import holdup  # noqa: PLC0415 - see `hear`

        if threading.get_ident() == self._loop_thread:
            return None  # in virtual time; and whoever looks there is proof that the loop goes on
        return holdup(self._watch, self._env, self._loop_thread)

    def _write(self, unit: Unit, heard: tuple[int, bool]) -> None:
        self._heard.add(heard)
        self._recorder.write_soon(unit)


def _me() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def _explain(actor: RunActor, held_by: "Holdup | None" = None) -> dict[str, Any]:
    from stagerun.engine.why import explain  # noqa: PLC0415 - see `Requests.hear`

    return explain(actor, held_by)


async def live(actor: RunActor) -> dict[str, Any]:
    """Say why a run of this process stands where it does. In the event loop's thread."""
    document = _explain(actor)
    with trio.move_on_after(_READ_WITHIN):  # it may be just the disk that holds everything
        document["blocks"] = await actor.hub.store.ask(blocks(actor.hub.id))
    return document


async def hold(dialogue: Dialogue[T], store: Store, recorder: Recorder) -> T:
    """Hold a dialogue with another process through this runtime's store."""
    result: Any = None
    while True:
        try:
            step = dialogue.send(result)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        if isinstance(step, Pause):
            await trio.sleep(step.seconds)
            result = None
        elif isinstance(step, Unit):
            result = await recorder.write(step)
        else:
            result = await store.ask(step)
