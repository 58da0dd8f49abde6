"""What may stand behind the ``?`` of an address: declared once, to be read and to be told."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import frozen
from starlette.requests import Request

from stagerun.store.codec import storable, words
from stagerun.web.problems import Problem

__all__ = ["Choices", "Labels", "Number", "Parameter", "Text", "read_query"]

_SHOWN: Final = 40
"""Characters of a wrong value that are repeated."""


class Parameter(Protocol):
    """One name in a query."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What it means, in a sentence."""

    def schema(self) -> dict[str, Any]:
        """Return what it may be, as JSON schema."""

    def read(self, given: Sequence[str]) -> Any:
        """Return what is meant; *given* is empty when it does not stand there."""


def read_query(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the value of each parameter.

    Raises:
        Problem: 422, for a name that is not known or a value that cannot be meant.
    """
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        given.setdefault(name, []).append(value)
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise refused(name, "is not known here" + _hint(name, known), "query")
    return {name: parameter.read(given.get(name, ())) for name, parameter in known.items()}


@frozen
class Number:
    """A whole number."""

    name: str
    about: str
    default: int
    least: int = 0
    most: int = 2**53

    def schema(self) -> dict[str, Any]:
        """See ``Parameter``."""
        bounds = {"minimum": self.least, "maximum": self.most}
        return {"type": "integer", **bounds, "default": self.default}

    def read(self, given: Sequence[str]) -> int:
        """See ``Parameter``."""
        value = _single(self.name, given)
        if value is None:
            return self.default
        digits = value.isascii() and value.isdigit() and len(value) <= 16
        if not digits or not self.least <= int(value) <= self.most:
            raise refused(
                self.name,
                f"must be a whole number from {self.least} to {self.most}, got {_short(value)}",
                "query",
            )
        return int(value)


@frozen
class Text:
    """Any text, up to a length."""

    name: str
    about: str
    most: int = 200

    def schema(self) -> dict[str, Any]:
        """See ``Parameter``."""
        return {"type": "string", "maxLength": self.most}

    def read(self, given: Sequence[str]) -> str | None:
        """See ``Parameter``."""
        value = _single(self.name, given)
        if value is not None and (len(value) > self.most or storable(value) != value):
            why = f"must be at most {self.most} characters that can be stored"
            raise refused(self.name, f"{why}, got {_short(value)}", "query")
        return value or None


@frozen
class Choices:
    """One word of a closed list, or several with commas between them."""

    name: str
    about: str
    options: tuple[str, ...]
    several: bool = False

    def schema(self) -> dict[str, Any]:
        """See ``Parameter``."""
        one = {"type": "string", "enum": list(self.options)}
        return {"type": "array", "items": one} if self.several else one

    def read(self, given: Sequence[str]) -> Any:
        """See ``Parameter``."""
        value = _single(self.name, given)
        chosen = value.split(",") if value and self.several else [value] if value else []
        for word in chosen:
            if word not in self.options:
                there = ", ".join(self.options)
                raise refused(self.name, f"must be of {there}, got {_short(word)}", "query")
        if self.several:
            return tuple(dict.fromkeys(chosen))
        return chosen[0] if chosen else None


@frozen
class Labels:
    """``name:value``, as often as wanted; a run must have them all."""

    name: str
    about: str
    most: int = 8

    def schema(self) -> dict[str, Any]:
        """See ``Parameter``."""
        return {"type": "array", "maxItems": self.most, "items": {"type": "string"}}

    def read(self, given: Sequence[str]) -> Mapping[str, str]:
        """See ``Parameter``."""
        if len(given) > self.most:
            raise refused(self.name, f"may stand there {self.most} times at most", "query")
        found: dict[str, str] = {}
        for pair in given:
            name, colon, value = pair.partition(":")
            if not name or not colon or storable(pair) != pair:
                raise refused(self.name, f"must be name:value, got {_short(pair)}", "query")
            if found.setdefault(name, value) != value:
                raise refused(self.name, f"gives {_short(name)} twice: no run has both", "query")
        return found


def refused(name: str, problem: str, where: str) -> Problem:
    """Return the problem of one name that stands somewhere in a request."""
    return Problem(422, f"{_short(name)} {problem}", kind=where, field=words(name, _SHOWN))


def _single(name: str, given: Sequence[str]) -> str | None:
    if len(given) > 1:
        raise refused(name, "stands there more than once: which one is meant?", "query")
    return given[0] if given else None


def _hint(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name[:_SHOWN], list(known), n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}" if known else "; nothing is"


def _short(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
