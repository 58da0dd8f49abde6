"""Answers: documents as JSON, and what is wrong as ``application/problem+json`` (RFC 9457)."""

import http
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stagerun.errors import (
    PolicyError,
    RuntimeClosedError,
    StagerunError,
    StoreError,
    UsageError,
)
from stagerun.store.codec import words

__all__ = ["Problem", "answer", "place", "problem", "problem_of"]

_encode = msgspec.json.Encoder(decimal_format="number").encode
_WORDS = 1_000
"""Characters of a detail at most: it may repeat what was sent."""
_LATER = {"Retry-After": "2"}


class Problem(Exception):  # noqa: N818 - it is RFC 9457's word for it
    """A request cannot be answered as it was asked; says why and what to do next."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extras: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title or http.HTTPStatus(status).phrase
        self.detail = detail
        self.kind = kind
        self.headers = dict(headers or {})
        self.extras = extras

    def response(self) -> Response:
        """Return it as the answer to a request."""
        return problem(
            self.status,
            self.title,
            self.detail,
            kind=self.kind,
            headers=self.headers,
            **self.extras,
        )


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
    **extras: Any,
) -> Response:
    """Return a problem as an answer.

    Args:
        status: Of HTTP.
        title: What sort of problem it is; always the same words for the same sort.
        detail: One sentence or two for people: what, where, what to do next.
        kind: The sort's name for programs; it becomes ``urn:stagerun:KIND``.
        headers: Further ones.
        extras: Further members of the document.
    """
    document = {
        "type": "about:blank" if kind is None else f"urn:stagerun:{kind}",
        "title": title,
        "status": status,
        "detail": words(detail, _WORDS),
        **extras,
    }
    return Response(
        _encode(document), status, dict(headers or {}), media_type="application/problem+json"
    )


def problem_of(error: StagerunError) -> Problem:
    """Return what an error of stagerun's own means to whoever sent the request."""
    said = str(error)
    match error:
        case UsageError():
            return Problem(422, said, kind="usage")
        case StoreError():
            return Problem(503, said, title="Database unavailable", kind="store", headers=_LATER)
        case RuntimeClosedError():
            return Problem(
                503,
                f"{said}: ask again when the service has started anew",
                title="Service is leaving",
                kind="closed",
                headers=_LATER,
            )
        case PolicyError():
            return Problem(503, said, title="A setting of the service is wrong", kind="setting")
        case _:
            return Problem(503, said, kind="runtime")


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return *document* as JSON."""
    return Response(_encode(document), status, dict(headers or {}), media_type="application/json")


def place(request: Request, path: str) -> str:
    """Return a path of this app, as it is seen from outside: with what the app is mounted under.

    Never the whole address: the header ``Host`` is whatever the client has written there.
    """
    root = quote(request.scope.get("root_path", ""))
    return f"/{root.strip('/')}{path}" if root.strip("/") else path
