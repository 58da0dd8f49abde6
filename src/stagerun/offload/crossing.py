"""How results and errors cross from a worker process: the child describes, the parent restores."""

import sys
import traceback
from typing import Any

from stagerun.errors import RemoteError
from stagerun.model.outcome import DROP
from stagerun.offload.place import MAIN
from stagerun.store import codec

__all__ = ["describe", "describe_error", "restore", "restore_error"]


def describe(value: Any, limit: int) -> list[Any]:
    """Put a result into plain values; what cannot be stored, or is too large, is named instead."""
    if value is DROP:
        return ["drop"]
    if isinstance(value, BaseException):
        return ["error", *describe_error(value)]
    kind = type(value).__qualname__
    try:
        encoded = codec.encode(value)
    except Exception:  # noqa: BLE001 - whatever the codec, or a strange value, raises
        return ["odd", codec.words(kind, 200)]
    if len(encoded) > limit:
        return ["odd", codec.words(f"{kind} of {len(encoded)} bytes", 200)]
    return ["value", encoded]


def restore(described: list[Any]) -> Any:
    """Return what was described; an error is returned, not raised."""
    match described:
        case ["drop"]:
            return DROP
        case ["value", bytes(encoded)]:
            return codec.decode(encoded)
        case ["odd", str(kind)]:
            # Of the same name as the value's type, and to be stored as little as the value.
            return type(kind, (), {})()
        case ["error", *parts]:
            return restore_error(*parts)
    raise AssertionError(f"no description of a result: {described[:1]}")


def describe_error(error: BaseException) -> tuple[list[str], str, str, float | None]:
    """Return an error's classes (the nearest first), its text, its traceback, its retry_after."""
    classes = [
        f"{'__main__' if kind.__module__ == MAIN else kind.__module__}:{kind.__qualname__}"
        for kind in type(error).__mro__
        if issubclass(kind, BaseException)
    ]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != _SELF]
    lines = ["Traceback in the worker process:\n", *traceback.format_list(own)]
    wish = codec.finite(getattr(error, "retry_after", None))
    return classes, codec.words(error), codec.words("".join(lines), 5 * codec.TEXT_LIMIT), wish


_SELF = __file__.replace("crossing.py", "child.py")


def restore_error(
    classes: list[str], text: str, trace: str, retry_after: float | None
) -> BaseException:
    """Return an error that is caught as the one in the child would be.

    Its class is looked for in the modules that are imported here, and nowhere else: nothing that a
    child says makes this process import anything. When it is not there the nearest of its bases
    is no substitute, it is a ``RemoteError``. Of attributes only ``retry_after`` comes along.
    """
    name = classes[0].replace(":", ".")
    kind = _class_at(classes[0])
    error: BaseException
    try:
        error = RemoteError(name, text) if kind is None else _as(kind)(text)
    except Exception:  # noqa: BLE001 - a class that cannot be made without its own arguments
        error = RemoteError(name, text)
    if retry_after is not None:
        error.__dict__["retry_after"] = retry_after
    error.__cause__ = _RemoteTraceback(trace)
    return error


def _class_at(place: str) -> type[BaseException] | None:
    module, _, qualname = place.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _as(kind: type[BaseException]) -> type[BaseException]:
    """Return a subclass of *kind* that looks like it, and is made of its text alone."""

    def new(cls: type[BaseException], text: str) -> BaseException:
        return kind.__new__(cls, text)

    def init(self: BaseException, text: str) -> None:
        self.args = (text,)
        self.__dict__["text"] = text

    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__new__": new,
            "__init__": init,
            "__str__": lambda self: self.__dict__["text"],
        },
    )


class _RemoteTraceback(Exception):  # noqa: N818 - it is no error, it tells where one came from
    """Where an error was raised in a worker process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
