"""What is typed as the value of an option, read. What cannot be read is a UsageError."""

import json
import re
from typing import Any, Final

from stagerun.errors import UsageError

__all__ = ["json_or_text", "pairs", "positive", "seconds"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LENGTH: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_LONGEST: Final = 36_500 * 86_400


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """Read what was given as NAME=VALUE, maybe several times."""
    pairs = dict[str, str]()
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} {text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def json_or_text(text: str) -> Any:
    """Read a value as JSON, or else take it as text."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def seconds(option: str, text: str) -> float:
    """Read a length of time such as ``90s``, ``15m`` or ``1d12h``."""
    if not _LENGTH.fullmatch(text):
        raise UsageError(f"{option} {text!r} is not a length of time such as 90s, 15m, 24h or 7d")
    parts = re.findall(r"([\d.]+)([smhd])", text)
    return min(sum(float(amount) * _UNITS[unit] for amount, unit in parts), _LONGEST)


def positive(option: str, number: int) -> int:
    """Check a number of things to list or to keep."""
    if not 0 < number <= 1_000_000:
        raise UsageError(f"{option} must be from 1 to 1000000, got {number}")
    return number
