"""Policies: small frozen values, checked when built, with the option's name in the error."""

import math
from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, frozen

from stagerun.errors import PolicyError

__all__ = ["Batch", "Collect", "Restart", "Retry", "number", "share", "whole"]

_MOST = 10**12

_Validator = Callable[[Any, "Attribute[Any]", Any], None]


def number(*, zero: bool = False, none: bool = False) -> _Validator:
    """Check for a finite number (seconds, a factor, a weight): above 0, or from 0 with *zero*."""

    def check(owner: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if value is None and none:
            return
        if not _is_finite(value) or value < 0 or (value == 0 and not zero):
            least = "of at least 0" if zero else "above 0"
            switch = ", or None to switch it off" if none else ""
            _refuse(owner, attribute, f"must be a finite number {least}{switch}", value)

    return check


def whole(*, least: int = 1) -> _Validator:
    """Check for a whole number of at least *least*."""

    def check(owner: Any, attribute: "Attribute[Any]", value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            _refuse(owner, attribute, f"must be a whole number of at least {least}", value)
        if value > _MOST:  # far from what the database can hold, and from what makes sense
            _refuse(owner, attribute, f"must be a whole number of at most {_MOST}", value)

    return check


def share() -> _Validator:
    """Check for a share: a number from 0 to 1."""

    def check(owner: Any, attribute: "Attribute[Any]", value: Any) -> None:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not 0 <= value <= 1:  # nan fails the comparison
            _refuse(owner, attribute, "must be a share from 0 to 1", value)

    return check


def _is_finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float can hold
        return False


def _refuse(owner: Any, attribute: "Attribute[Any]", rule: str, value: Any) -> None:
    option = f"{type(owner).__name__}.{attribute.name}"
    raise PolicyError(option, f"{rule}, got {value!r}")


def _error_classes(owner: Any, attribute: "Attribute[Any]", value: Any) -> None:
    if callable(value) and not isinstance(value, type):
        return
    classes = value if isinstance(value, tuple) else (value,)
    if not classes or not all(isinstance(c, type) and issubclass(c, Exception) for c in classes):
        rule = "must be an exception class, a tuple of them, or a function from error to bool"
        _refuse(owner, attribute, rule, value)


@frozen(kw_only=True)
class Retry:
    """How often an item is attempted in a stage, and how long to wait in between.

    The pause before attempt n + 1 is drawn evenly from 0 to ``min(cap, base * factor ** (n - 1))``
    seconds ("full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    An error with a ``retry_after`` attribute (seconds) sets the least pause. No pause goes beyond
    the item's budget, the stage's ``deadline``: when it would, the item ends at once.
    """

    attempts: int = field(default=3, validator=whole())
    """Attempts in all, the first one included; 1 means no retry."""
    attempt_deadline: float | None = field(default=None, validator=number(none=True))
    """Seconds for one attempt; None: bounded by the item's budget alone."""
    base: float = field(default=0.5, validator=number(zero=True))
    """Seconds: the longest first pause."""
    factor: float = field(default=2.0, validator=number())
    """Growth of the longest pause from one attempt to the next."""
    cap: float = field(default=30.0, validator=number(zero=True))
    """Seconds: no drawn pause is longer. A ``retry_after`` may be."""
    on: Any = field(default=Exception, validator=_error_classes)
    """Which errors are tried again: a class, a tuple of classes, or a function error -> bool."""
    timeouts: bool = field(default=True)
    """Whether an attempt that overran ``attempt_deadline`` is tried again."""

    @timeouts.validator
    def _(self, attribute: "Attribute[bool]", value: Any) -> None:
        if not isinstance(value, bool):
            _refuse(self, attribute, "must be True or False", value)

    def wants(self, error: BaseException) -> bool:
        """Whether *error* is one of those that are tried again."""
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        return bool(self.on(error))


@frozen(kw_only=True)
class Restart:
    """How a stage's resource is opened again when opening it fails.

    After ``attempts`` failures in a row the run ends ``failed`` with cause ``resource``.
    """

    attempts: int = field(default=5, validator=whole())
    """Failures in a row that are borne."""
    base: float = field(default=0.5, validator=number(zero=True))
    """Seconds: the longest first pause; doubles with every failure."""
    cap: float = field(default=30.0, validator=number(zero=True))
    """Seconds: no pause is longer."""
    deadline: float = field(default=30.0, validator=number())
    """Seconds for one opening or one closing of the resource."""


@frozen(kw_only=True)
class Batch:
    """How many items a batch stage takes at once, and how long it waits for them."""

    size: int = field(default=100, validator=whole())
    """Items in a call at most."""
    wait: float = field(default=0.1, validator=number(zero=True))
    """Seconds from the first item's arrival until an incomplete batch is taken all the same."""


@frozen(kw_only=True)
class Collect:
    """How a collect stage groups the outcomes of the stage before it."""

    by: Callable[[Any], Any] | None = field(default=None)
    """The group of a value, as a value that can be stored; None: one group of everything."""

    @by.validator
    def _(self, attribute: "Attribute[Any]", value: Any) -> None:
        if value is not None and not callable(value):
            _refuse(self, attribute, "must be a function of one value, or None", value)
