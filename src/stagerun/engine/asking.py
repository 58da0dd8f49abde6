"""What is said to another process that owns a run: dialogues without an event loop of their own.

A dialogue is a generator. It yields what it wants done, a question, a unit to be written or a
pause, and is sent what came of it. So a command (which has a connection and may block) and a
runtime (which has a store and may not) hold the very same ones.

Nobody here ends a run that another process works on: its owner does, or whoever recovers it when
that owner is dead. Therefore the request is filed for a dead owner's run too, so that whoever
would resume it by itself finds that somebody wanted it to stop; but nobody waits for an answer.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from attrs import frozen

from stagerun.model.status import Cause, Ending, Status
from stagerun.rules.story import summary
from stagerun.store import requests, starting
from stagerun.store.codec import words
from stagerun.store.documents import run_document
from stagerun.store.driver import Question
from stagerun.store.story import blocks, story
from stagerun.store.transaction import Unit

__all__ = [
    "Dialogue",
    "Pause",
    "Step",
    "ask_to_cancel",
    "ask_why",
    "ended",
    "in_words",
    "tell_story",
]

T = TypeVar("T")

_EVERY = 0.05
"""Seconds between two looks for an answer."""
_HEARD_WITHIN = 5.0
"""Seconds within which a living owner takes a request; it looks four times a second."""
_MARGIN = 5.0
"""Seconds beyond the run's grace that are waited for its ending."""


@frozen
class Pause:
    """Nothing is to be done for so many seconds."""

    seconds: float


Step = Question[Any] | Unit | Pause
Dialogue = Generator[Step, Any, T]


def ask_to_cancel(
    identifier: str, body: Mapping[str, Any], now: Callable[[], int], *, wait: bool
) -> Dialogue[dict[str, Any]]:
    """Cancel a run of any process; return what has become of it.

    The answer's ``became`` is ``ended`` (``status``, ``cause`` and ``message`` are those of the
    run's row), ``cancelling`` (its owner has told the work to stop) or ``asked`` (the owner has not
    answered yet; the request stays).

    Args:
        identifier: The run's, whole.
        body: ``reason`` and ``by``.
        now: Wall time in microseconds.
        wait: Whether to wait for the ending, for the run's grace and 5 s at most.
    """
    while True:
        at = yield requests.standing(identifier)
        if at.ending is not None:
            return _ended(identifier, at.ending)
        if at.status is Status.QUEUED:
            ending = Ending(Status.CANCELLED, Cause.REQUESTED, in_words(body))
            if (yield starting.end_queued(at.run, at.generation, ending, now())) is not None:
                return _ended(identifier, ending)
            continue  # it has begun, or ended, in the meantime
        filed = yield requests.file(at, "cancel", body, now())
        if filed is not None:
            break
    (number,) = filed
    document = yield run_document(identifier)
    if document["verdict"] == "dead":
        ending = Ending(Status.INTERRUPTED, Cause.OWNER_DIED, document["message"])
        return _ended(identifier, ending)
    answer = yield from _answer(number, _HEARD_WITHIN, now, done=False)
    if answer is not None and answer.get("became") != "ended" and wait:
        patience = float(answer.get("grace", 0.0)) + _MARGIN
        answer = (yield from _answer(number, patience, now, done=True)) or answer
    if answer is None:
        message = "its owner has not answered yet; the request stays until it does"
        return {"run": identifier, "became": "asked", "status": "running", "message": message}
    return {"run": identifier, **answer}


def ask_why(
    identifier: str, body: Mapping[str, Any], now: Callable[[], int]
) -> Dialogue[dict[str, Any]]:
    """Ask why a run of any process stands where it does, or how it ended; return the document.

    Its living owner answers, within 0.3 s even when its event loop is blocked; where nobody does,
    the database tells what it knows.
    """
    document = yield run_document(identifier)
    if document["finished_at"] is None and document["verdict"] != "dead":
        answer = yield from _ask_owner(identifier, body, now)
        if answer is not None:
            return {**answer, "blocks": (yield blocks(identifier))}
    return (yield from tell_story(identifier))


def tell_story(identifier: str) -> Dialogue[dict[str, Any]]:
    """Return what the database knows of a run, with a summary."""
    told = yield story(identifier)
    return {"told_by": "database", **told, "summary": summary(told)}


def _ask_owner(
    identifier: str, body: Mapping[str, Any], now: Callable[[], int]
) -> Dialogue[dict[str, Any] | None]:
    at = yield requests.standing(identifier)
    filed = yield requests.file(at, "why", body, now())
    if filed is None:
        return None
    (number,) = filed
    answer = yield from _answer(number, _HEARD_WITHIN, now, done=True)
    yield requests.forget(number)
    return None if answer is None or answer.get("became") == "ended" else answer


def in_words(body: Mapping[str, Any]) -> str:
    """Return the reason of a request and who gave it, as one sentence without secrets."""
    reason = body.get("reason") or "cancelled by request"
    by = body.get("by")
    return words(f"{reason} (asked by {by})" if by else reason)


def _answer(
    number: int, patience: float, now: Callable[[], int], *, done: bool
) -> Dialogue[dict[str, Any] | None]:
    """Wait until a request is taken, or done; None when neither happens in time.

    An ending is the answer to everything. Its owner may be gone by then: so it is noted here.
    """
    for _ in range(round(patience / _EVERY)):
        reply = yield requests.reply_to(number)
        if reply.ending is not None:
            answer = ended(reply.ending)
            yield requests.close(number, answer, now())
            return answer
        if reply.done or (reply.taken and not done):
            return None if reply.answer is None else dict(reply.answer)
        yield Pause(_EVERY)
    return None


def _ended(identifier: str, ending: Ending) -> dict[str, Any]:
    return {"run": identifier, **ended(ending)}


def ended(ending: Ending) -> dict[str, Any]:
    """Return the answer to whoever asks something of a generation that has ended."""
    return {
        "became": "ended",
        "status": ending.status.value,
        "cause": ending.cause.value,
        "message": ending.message,
    }
