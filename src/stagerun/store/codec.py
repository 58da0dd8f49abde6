"""Values to bytes and back: results strictly, words about failures totally (never raising)."""

import hashlib
import math
import traceback
from functools import cache, lru_cache
from itertools import islice
from types import CodeType
from typing import Any

import msgspec

from stagerun.redaction import redacted

__all__ = [
    "TEXT_LIMIT",
    "UNSTORABLE",
    "decode",
    "decoder",
    "detail",
    "encode",
    "error_name",
    "fingerprint",
    "finite",
    "storable",
    "too_large",
    "words",
]

TEXT_LIMIT = 4_000
"""Characters of a kept message; a traceback may have five times as many."""

_BEYOND = 500
"""Characters beyond the cut that are looked at: a secret must not be known by halves."""

encode = msgspec.msgpack.Encoder().encode
"""Encode a result. Raises TypeError, ValueError or OverflowError for what cannot be stored."""


def too_large(encoded: bytes, limit: int) -> ValueError:
    """Return what is said of a result that is larger than its stage allows."""
    return ValueError(f"{len(encoded)} bytes encoded, result_limit is {limit}")


UNSTORABLE = encode(msgspec.msgpack.Ext(1, b""))
"""Stands for an item that was accepted and could not be encoded: it can be given to no stage."""

decode = msgspec.msgpack.Decoder().decode
"""Decode to plain builtins."""


@cache
def decoder(wanted: Any) -> Any:
    """Return the function that decodes bytes to *wanted*, an annotation."""
    if wanted is Any or wanted is object or isinstance(wanted, str):
        return decode
    try:
        return msgspec.msgpack.Decoder(wanted).decode
    except TypeError:  # not a type that values can be checked against, a TypeVar for one
        return decode


def fingerprint(encoded: bytes) -> bytes:
    """Return eight bytes that tell two emitted values apart."""
    return hashlib.blake2b(encoded, digest_size=8).digest()


def words(value: object, limit: int = TEXT_LIMIT) -> str:
    """Return text about *value* that can be stored whatever it is; cut text is marked.

    Secrets are taken out of it.
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except BaseException as broken:  # noqa: BLE001 - a __str__ may raise anything; say so instead
        text = f"<{type(value).__name__} whose text raises {type(broken).__name__}>"
    length, text = len(text), redacted(text[: limit + _BEYOND])
    if length > limit:
        text = f"{text[:limit]}… [{length - limit} more characters cut]"
    return storable(text)


def storable(text: str) -> str:
    """Return *text* so that it can be stored; the same text when it can be as it is."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def error_name(error: BaseException) -> str:
    """Return the type of *error* as ``module.Name``, whatever its module claims to be."""
    kind = type(error)
    return words(f"{kind.__module__}.{kind.__qualname__}", 200)


def finite(number: object) -> float | None:
    """Return a number that can be stored and shown; None for what is none."""
    if not isinstance(number, int | float) or isinstance(number, bool):
        return None
    try:
        real = float(number)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def detail(error: BaseException) -> str:
    """Return the traceback of *error*, without the values of variables."""
    try:
        lines = _traceback(error) or traceback.format_exception(error)
    except BaseException as broken:  # noqa: BLE001 - see words()
        return f"<traceback of {type(error).__name__} raises {type(broken).__name__}>"
    return words("".join(lines), 5 * TEXT_LIMIT)


# Items of one stage fail in the same places, a thousand times. What Python says of a place costs it
# 30 µs, for it parses the line anew each time.

_SHALLOW = 50
"""Frames of a traceback up to which it is put together here."""


def _traceback(error: BaseException) -> list[str] | None:
    """Return the traceback's lines, as Python writes them; None: let Python write them."""
    if error.__context__ is not None or error.__cause__ is not None:
        return None
    if isinstance(error, BaseExceptionGroup):
        return None
    frames, entry = list[str](), error.__traceback__
    while entry is not None and len(frames) < _SHALLOW:
        frames.append(_frame(entry.tb_frame.f_code, entry.tb_lasti, entry.tb_lineno))
        entry = entry.tb_next
    if entry is not None or not frames or len({*frames}) < len(frames):  # it counts repetitions
        return None
    return [_HEADER, *frames, *traceback.format_exception_only(error)]


_HEADER = "Traceback (most recent call last):\n"


@lru_cache(maxsize=1_000)
def _frame(code: CodeType, last: int, line: int) -> str:
    """Return what Python says of a place in a traceback."""
    _, end_line, column, end_column = next(islice(code.co_positions(), last // 2, None))
    place = traceback.FrameSummary(
        code.co_filename,
        line,
        code.co_name,
        end_lineno=end_line,
        colno=column,
        end_colno=end_column,
    )
    return "".join(traceback.StackSummary.from_list([place]).format())
