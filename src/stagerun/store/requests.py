"""Requests: what a process asks of the one that owns a run, as rows of the database.

A row speaks to one generation. Its owner takes it (``taken_at``, with a first answer), and it is
done when there is nothing more to say: a question is answered, a generation that was to be
cancelled has ended. An ending never changes, so whoever sees a request to a generation that has
ended may close it, with that ending; two who do so at once write the same.
"""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from stagerun.model.status import Cause, Ending, Status
from stagerun.store.codec import words
from stagerun.store.documents import find_run
from stagerun.store.driver import Question
from stagerun.store.transaction import Statement, Unit

__all__ = [
    "Reply",
    "Request",
    "Standing",
    "close",
    "file",
    "forget",
    "open_requests",
    "reply_to",
    "standing",
    "take",
]

_KEPT = 60_000_000
"""Microseconds after which the answer to a question that nobody has fetched is dropped."""


@frozen(kw_only=True)
class Request:
    """One open request, and where the generation that it speaks to stands."""

    number: int
    run: int
    generation: int
    kind: str
    body: Mapping[str, Any]
    taken: bool
    ending: Ending | None


@frozen
class Reply:
    """What has become of a request so far."""

    taken: bool
    done: bool
    answer: Mapping[str, Any] | None
    ending: Ending | None
    """How the generation that it speaks to has ended, if it has."""


@frozen
class Standing:
    """A run's current generation."""

    run: int
    generation: int
    status: Status
    ending: Ending | None


def file(at: Standing, kind: str, body: Mapping[str, Any], now: int) -> Unit:
    """Return the unit that files a request; refused when the generation has ended by now.

    Its guard returns the request's number. No secret in the texts of its body is stored.
    """
    told = {name: words(each) if isinstance(each, str) else each for name, each in body.items()}
    return Unit(
        Statement(
            "INSERT INTO requests (run, generation, kind, body, asked_at)"
            " SELECT run, generation, ?, ?, ? FROM generations"
            " WHERE run = ? AND generation = ? AND status IN ('queued', 'running')"
            " RETURNING request",
            (kind, json.dumps(told), now, at.run, at.generation),
        )
    )


def take(request: int, answer: Mapping[str, Any], now: int) -> Unit:
    """Return the unit by which the owner says that it has heard; the first time stays."""
    return Unit(
        Statement(
            "UPDATE requests SET taken_at = ?, answer = ?"
            " WHERE request = ? AND taken_at IS NULL AND done_at IS NULL",
            (now, json.dumps(dict(answer)), request),
        )
    )


def close(request: int, answer: Mapping[str, Any], now: int) -> Unit:
    """Return the unit that says the last word; forgotten answers to questions go with it."""
    return Unit(
        Statement(
            "UPDATE requests SET taken_at = coalesce(taken_at, ?), done_at = ?, answer = ?"
            " WHERE request = ? AND done_at IS NULL",
            (now, now, json.dumps(dict(answer)), request),
        ),
        (
            Statement(
                "DELETE FROM requests WHERE kind = 'why' AND request < ? AND done_at < ?",
                (request, now - _KEPT),
            ),
        ),
    )


def forget(request: int) -> Unit:
    """Return the unit that drops a question whose answer has been read, or is not waited for."""
    return Unit(Statement("DELETE FROM requests WHERE request = ? AND kind = 'why'", (request,)))


def standing(identifier: str) -> Question[Standing]:
    """Ask where a run stands.

    Raises:
        UsageError: There is no such run.
    """

    def ask(connection: sqlite3.Connection) -> Standing:
        run = find_run(connection, identifier)
        row = connection.execute(
            "SELECT r.generation, g.status, g.cause, g.message, g.error_code FROM runs r"
            " JOIN generations g ON g.run = r.run AND g.generation = r.generation WHERE r.run = ?",
            (run,),
        ).fetchone()
        generation, status, *rest = row
        return Standing(run, generation, Status(status), _ending(status, *rest))

    return ask


def open_requests() -> Question[list[Request]]:
    """Ask for everything that somebody still waits for, of any owner's runs."""

    def ask(connection: sqlite3.Connection) -> list[Request]:
        rows = connection.execute(
            "SELECT q.request, q.run, q.generation, q.kind, q.body, q.taken_at IS NOT NULL,"
            " g.status, g.cause, g.message, g.error_code FROM requests q"
            " JOIN generations g ON g.run = q.run AND g.generation = q.generation"
            " WHERE q.done_at IS NULL ORDER BY q.request"
        ).fetchall()
        return [
            Request(
                number=number,
                run=run,
                generation=generation,
                kind=kind,
                body=_told(body),
                taken=bool(taken),
                ending=_ending(status, *rest),
            )
            for number, run, generation, kind, body, taken, status, *rest in rows
        ]

    return ask


def reply_to(request: int) -> Question[Reply]:
    """Ask what has become of a request; one that is gone counts as done, without an answer."""

    def ask(connection: sqlite3.Connection) -> Reply:
        row = connection.execute(
            "SELECT q.taken_at, q.done_at, q.answer, g.status, g.cause, g.message, g.error_code"
            " FROM requests q JOIN generations g"
            " ON g.run = q.run AND g.generation = q.generation WHERE q.request = ?",
            (request,),
        ).fetchone()
        if row is None:
            return Reply(taken=True, done=True, answer=None, ending=None)
        taken, done, answer, *generation = row
        return Reply(
            taken is not None,
            done is not None,
            None if answer is None else _told(answer),
            _ending(*generation),
        )

    return ask


def _told(text: str) -> dict[str, Any]:
    """Read what a row says; nothing when somebody has written it by hand, and wrongly."""
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _ending(status: str, cause: str | None, message: str | None, code: str | None) -> Ending | None:
    if cause is None:
        return None
    return Ending(Status(status), Cause(cause), message or "", code)
