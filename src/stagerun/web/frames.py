"""Events as a stream of server-sent events carries them: one frame each, whatever they say."""

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from attrs import frozen

from stagerun.store.feed import FeedEvent

__all__ = ["PING", "RETRY", "Chunk", "Frame", "chunk_of", "frame", "reset"]

PING = b": ping\n\n"
RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser that lost the stream asks again."""

_CHUNK = 2**16
"""Bytes that are sent at once, unless one frame alone has more."""
_SUMS = ("accepted", "ok", "failed", "timed_out", "cancelled", "skipped", "crashed")
"""What a progress event keeps of each stage, in this order."""
_JSON = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


@frozen
class Frame:
    """One event, as it is sent."""

    seq: int
    data: bytes


@frozen
class Chunk:
    """Some frames in a row, and the number of the last event that they stand for."""

    data: bytes
    seq: int


def frame(event: FeedEvent) -> Frame:
    """Return an event as it is sent: its number, its kind, and one line of JSON in ASCII.

    ASCII, for then no text can end a line or a frame, neither by CR, LF and NUL nor by what only
    some readers take for the end of a line; and lone surrogates can be sent as well.
    """
    data = _said(event) | {
        "seq": event.seq,
        "at": _iso(event.at),
        "generation": event.generation,
        "kind": event.kind,
    }
    for name in ("level", "stage", "item"):
        if (value := getattr(event, name)) is not None:
            data[name] = value
    return Frame(event.seq, _frame(event.seq, event.kind, data))


def reset(seq: int, document: dict[str, Any]) -> bytes:
    """Return the frame that tells a client to begin anew with *document*, and go on after *seq*."""
    return _frame(seq, "reset", document)


def chunk_of(frames: Iterable[Frame], *, after: int) -> Chunk:
    """Return as many of *frames* as are sent at once; they follow the event *after*."""
    parts, size, seq = list[bytes](), 0, after
    for each in frames:
        if parts and size + len(each.data) > _CHUNK:
            break
        parts.append(each.data)
        size += len(each.data)
        seq = each.seq
    return Chunk(b"".join(parts), seq)


def _frame(seq: int, kind: str, data: dict[str, Any]) -> bytes:
    name = kind if kind.isascii() and kind.isidentifier() else "message"
    return f"id: {seq:d}\nevent: {name}\ndata: {_line(data)}\n\n".encode("ascii")


def _line(data: dict[str, Any]) -> str:
    try:
        return _JSON(data)
    except ValueError:  # infinity and NaN, which JSON does not know
        return _JSON(_finite(data))


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _said(event: FeedEvent) -> dict[str, Any]:
    """Return what an event of its kind has to say."""
    match event.kind:
        case "run" | "stage":
            return {"status": event.body}
        case "log":
            return {"message": event.body}
    try:
        facts = msgspec.json.decode(event.body)
    except (ValueError, RecursionError):  # not JSON, or no JSON that everybody can read
        return {"message": event.body}
    if not isinstance(facts, dict):
        return {"message": event.body}
    if event.kind == "progress" and isinstance(facts.get("stages"), dict):
        facts["stages"] = {name: _sums(sums) for name, sums in facts["stages"].items()}
    return facts


def _sums(sums: Any) -> Any:
    return dict(zip(_SUMS, sums, strict=False)) if isinstance(sums, list) else sums


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")
