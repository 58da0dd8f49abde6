"""The body of a request: read within limits of size and time, parsed strictly, and checked.

Strictly, because what is accepted here is stored and shown again: so nothing that JSON does not
know (NaN), that two readers may read in two ways (a name given twice), or that no database takes
(half of a character). Nothing here recurses into what was sent deeper than it has checked.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import anyio
import anyio.to_thread
from attrs import frozen
from starlette.requests import ClientDisconnect, Request

from stagerun.store import codec
from stagerun.web.backend import Limits
from stagerun.web.problems import Problem
from stagerun.web.queries import refused

__all__ = ["Field", "read_body"]

_LARGE: Final = 2**16
"""Bytes from which on parsing is left to a thread: it takes milliseconds."""
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""Text, or the rest of a body whose text has no end: so it never looks at a byte twice."""
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_JSON: Final = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)


@frozen(kw_only=True)
class Field:
    """One name in a body: declared once, for checking and for the document."""

    name: str
    about: str
    schema: Mapping[str, Any]
    """What it may be, as JSON schema."""
    check: Callable[[Any], str | None]
    """Says what is wrong with a value, beginning with "must"; None: nothing."""
    required: bool = False


async def read_body(request: Request, fields: Sequence[Field], limits: Limits) -> dict[str, Any]:
    """Return what the body gives for each field; None for what is not there, or null.

    Raises:
        Problem: 408, 413 or 415 before all of it is read; 400 for what is not JSON; 422 for what is
            not meant.
    """
    _check_kind(request, optional=not any(field.required for field in fields))
    raw = await _received(request, limits)
    if not raw and not any(field.required for field in fields):
        given: Any = {}
    elif len(raw) < _LARGE:
        given = parse(raw, limits.depth)
    else:
        given = await anyio.to_thread.run_sync(parse, raw, limits.depth)
    if not isinstance(given, dict):
        raise Problem(422, "the body must be one JSON object, {...}", kind="body")
    known = {field.name: field for field in fields}
    for name in given:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "nothing is"
            raise refused(name, f"is not known here; {there}", "body")
    for name, field in known.items():
        value, problem = given.get(name), None
        if value is not None:
            problem = field.check(value)
        elif field.required:
            problem = "is needed"
        if problem is not None:
            raise refused(name, problem, "body")
    return {name: given.get(name) for name in known}


def parse(raw: bytes, depth: int) -> Any:
    """Return the one JSON value that *raw* holds.

    Raises:
        Problem: 400; says why it cannot be taken.
    """
    if _too_deep(raw, depth):
        raise _bad(f"is nested deeper than {depth} levels, or its brackets do not match")
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_real,
        )
        codec.encode(value)  # what cannot be stored is refused before anything is
    except UnicodeDecodeError as error:
        raise _bad(f"is not UTF-8 (byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise _bad("holds half of a character (a lone surrogate, \\ud800 to \\udfff)") from error
    except OverflowError as error:
        raise _bad("holds a whole number beyond 64 bits: send it as text") from error
    except json.JSONDecodeError as error:
        raise _bad(f"is not JSON: {error}") from error
    except ValueError as error:  # of the hooks below, and of a number with thousands of digits
        said = str(error) if isinstance(error, _RefusedError) else "holds a number that is too long"
        raise _bad(said) from error
    return value


def _check_kind(request: Request, *, optional: bool) -> None:
    headers = request.headers
    if "content-encoding" in headers:
        raise Problem(415, "send the body as it is, without Content-Encoding", kind="body")
    given = headers.getlist("content-type")
    if len(given) == 1 and _JSON.fullmatch(given[0].strip()):
        return
    # Without the header a foreign page's form could be what asks; one that shows a token is none.
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    if not given and optional and empty and "authorization" in headers:
        return
    raise Problem(415, "send JSON, with the header 'Content-Type: application/json'", kind="body")


async def _received(request: Request, limits: Limits) -> bytes:
    announced = request.headers.get("content-length", "0")
    if not (announced.isascii() and announced.isdigit()):
        raise Problem(400, "Content-Length is not a whole number", kind="body")
    if len(announced) > 15 or int(announced) > limits.body:
        raise _too_large(request, limits)
    parts, size = list[bytes](), 0
    with anyio.move_on_after(limits.body_seconds):
        try:
            async with aclosing(request.stream()) as stream:
                async for part in stream:
                    size += len(part)
                    if size > limits.body:
                        raise _too_large(request, limits)
                    parts.append(part)
        except ClientDisconnect as error:
            raise Problem(400, "the body has no end", kind="body") from error
        return b"".join(parts)
    raise Problem(
        408,
        f"the body did not come within {limits.body_seconds:g} s",
        kind="body",
        headers=_closing(request),
    )


def _too_large(request: Request, limits: Limits) -> Problem:
    return Problem(
        413,
        f"the body is larger than {limits.body} bytes: send less at once, or let the pipeline's own"
        " source give the items",
        kind="body",
        headers=_closing(request),
    )


def _closing(request: Request) -> dict[str, str]:
    """Let the server not wait for the rest of a body; HTTP/2 knows no such header, nor needs it."""
    first = request.scope.get("http_version", "1.1").startswith("1")
    return {"Connection": "close"} if first else {}


def _too_deep(raw: bytes, depth: int) -> bool:
    """Whether brackets stand deeper; each round removes the innermost level of them."""
    brackets = _STRING.sub(b"", raw).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


class _RefusedError(ValueError):
    """What JSON would take, and we do not."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # add() gives None: go on
        raise _RefusedError(f"gives the name {codec.words(twice, 40)!r} twice in one object")
    return found


def _no_number(name: str) -> Any:
    raise _RefusedError(f"holds {name}, which is no number of JSON's")


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _RefusedError("holds a number that is too large")
    return value


def _bad(problem: str) -> Problem:
    return Problem(400, f"the body {problem}", kind="body")
