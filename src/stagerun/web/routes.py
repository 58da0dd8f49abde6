"""One operation of the API as a value, and what serves it.

Everything that is told of an operation in the document of the API is what it is served by: its
query is read, its body is checked and its access is judged here, from the same declaration.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from stagerun.errors import StagerunError
from stagerun.web.backend import Limits
from stagerun.web.bodies import Field, read_body
from stagerun.web.guard import VISITOR, Visitor, unknown
from stagerun.web.incidents import incident
from stagerun.web.problems import Problem, problem_of
from stagerun.web.queries import Parameter, read_query

__all__ = ["Operation", "body_of", "query_of", "routes"]

Access = Literal["open", "read", "write"]
"""``open``: for everybody, since it tells nothing of any run."""

_QUERY: Final = "stagerun.query"
_BODY: Final = "stagerun.body"


@frozen(kw_only=True)
class Operation:
    """What one method does at one path."""

    method: Literal["GET", "POST"] = "GET"
    path: str
    """As Starlette writes it, ``/runs/{id}``."""
    handler: Callable[[Request], Awaitable[Response]]
    access: Access
    about: str
    """One sentence for people."""
    query: Sequence[Parameter] = ()
    body: Sequence[Field] = ()
    answers: Mapping[int, str]
    """By status: the name of the document's schema, or of its media type; empty: no body."""
    refusals: Sequence[int] = ()
    """Statuses of problems, beside those that follow from the declaration."""
    headers: Sequence[str] = ()
    """Headers of a request that are heard."""


def query_of(request: Request) -> dict[str, Any]:
    """Return what the query gives for each parameter of the operation."""
    found: dict[str, Any] = request.scope[_QUERY]
    return found


def body_of(request: Request) -> dict[str, Any]:
    """Return what the body gives for each field of the operation."""
    found: dict[str, Any] = request.scope[_BODY]
    return found


def routes(operations: Sequence[Operation], limits: Limits) -> list[Route]:
    """Return a route for each path, with all that can be done there."""
    paths: dict[str, list[Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, []).append(operation)
    return [Route(path, _Place(there, limits)) for path, there in paths.items()]


class _Place:
    """Serves one path, as an ASGI program."""

    def __init__(self, operations: Sequence[Operation], limits: Limits) -> None:
        self._by_method = {operation.method: operation for operation in operations}
        self._limits = limits
        methods = [*self._by_method, "OPTIONS"]
        if "GET" in self._by_method:
            methods.append("HEAD")
        self._allowed = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            if scope["method"] == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send_noted)
        except Exception as error:
            if begun:
                raise
            await _refusal(error, scope).response()(scope, receive, send_noted)

    async def _answer(self, request: Request) -> Response:
        if request.method not in self._allowed.split(", "):
            raise Problem(
                405,
                f"here there are {self._allowed}, not {request.method[:20]}",
                headers={"Allow": self._allowed},
            )
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": self._allowed})
        operation = self._by_method["GET" if request.method == "HEAD" else request.method]  # type: ignore[index]  # it is allowed
        visitor: Visitor = request.scope[VISITOR]
        if operation.access == "read" and not visitor.reads:
            raise unknown(request.headers.getlist("authorization"))
        if operation.access == "write" and not visitor.known:
            raise unknown(request.headers.getlist("authorization"))
        request.scope[_QUERY] = read_query(request, operation.query)
        if operation.method == "POST":
            request.scope[_BODY] = await read_body(request, operation.body, self._limits)
        return await operation.handler(request)


def _refusal(error: Exception, scope: Scope) -> Problem:
    match error:
        case Problem():
            return error
        case StagerunError():
            return problem_of(error)
        case _:
            return incident(error, scope)
