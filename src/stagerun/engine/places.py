"""Where code stands: the innermost line of the user's own, and what that line waits in.

Everything here only looks, and may do so from another thread while the code goes on. So what it
looks at may change under its eyes: then it tells less, and never raises.
"""

import linecache
import os
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import trio

from stagerun.engine.usercode import OURS, is_user_code, libraries
from stagerun.rules.standing import Place

__all__ = [
    "place_of",
    "place_of_coroutine",
    "place_of_task",
    "places_of_task",
    "stack_of_thread",
]

_TASKS = 3
"""Tasks of one attempt that are shown at most."""
_DEEPEST = 500
"""Frames that are looked at, at most: a recursion must not keep anybody busy."""


def places_of_task(task: trio.lowlevel.Task) -> tuple[Place, ...]:
    """Return where a task stands, and the tasks that its code has started and waits for."""
    found = dict.fromkeys(place_of_task(each) for each in _family(task))
    return tuple(sorted((p for p in found if p is not None), key=_telling)[:_TASKS])


def place_of_task(task: trio.lowlevel.Task) -> Place | None:
    """Return where a parked task stands."""
    try:
        frames = [frame for frame, _ in task.iter_await_frames()]
    except (AttributeError, RuntimeError, ValueError):  # it went on while it was looked at
        return None
    return place_of(frames)


def place_of_coroutine(coroutine: Any) -> Place | None:
    """Return where a coroutine of another event loop than trio's stands."""
    frames = list[types.FrameType]()
    while coroutine is not None and len(frames) < _DEEPEST:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None)
    return place_of(frames)


def stack_of_thread(identity: int) -> list[types.FrameType]:
    """Return the frames of a thread, the outermost first; none when it has ended."""
    frame = sys._current_frames().get(identity)  # noqa: SLF001 - the documented way to look
    frames = list[types.FrameType]()
    while frame is not None and len(frames) < _DEEPEST:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def place_of(frames: Sequence[types.FrameType]) -> Place | None:
    """Return the place of a stack given from the outermost frame on; None for an empty one."""
    users = [n for n, frame in enumerate(frames) if is_user_code(frame.f_code.co_filename)]
    at = users[-1] if users else _entry(frames)
    if at is None:
        return None
    frame = frames[at]
    code, line = frame.f_code, frame.f_lineno or 0
    own = bool(users)
    return Place(
        file=_short(code.co_filename),
        line=line,
        function=code.co_qualname.replace("<locals>.", ""),
        code=linecache.getline(code.co_filename, line).strip()[:200] if own else "",
        own=own,
        awaits=_awaited(frames[at + 1 :]),
    )


def _entry(frames: Sequence[types.FrameType]) -> int | None:
    """Find where an installed package stands: it may be the user's all the same.

    It is the one that stagerun has called, or that a task was begun with.
    """
    outside = [n for n, frame in enumerate(frames) if not frame.f_code.co_filename.startswith(OURS)]
    if not outside:
        return None
    package = _package(frames[outside[0]])
    of_it = [n for n in outside if _package(frames[n]) == package and _is_public(frames[n])]
    return of_it[-1] if of_it else outside[0]


def _awaited(frames: Sequence[types.FrameType]) -> str | None:
    """Name the call that the user's line is in, and the last public one below it in other code."""
    if not frames:
        return None
    # What `async with` and `async for` call tells less than what that calls.
    entry = next((n for n, frame in enumerate(frames) if not _is_dunder(frame)), 0)
    first = _name(frames[entry])
    home = frames[entry].f_code.co_filename
    for frame in reversed(frames[entry + 1 :]):
        code = frame.f_code
        if _is_public(frame) and code.co_filename != home:
            return f"{first} > {_name(frame)}"
    return first


def _is_dunder(frame: types.FrameType) -> bool:
    return frame.f_code.co_name.startswith("__")


def _is_public(frame: types.FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    if module.startswith("trio._core"):
        return False  # the machinery of waiting: every wait ends there
    parts = frame.f_code.co_qualname.split(".")
    return not any(part.startswith(("_", "<")) for part in parts)


def _name(frame: types.FrameType) -> str:
    name, code = frame.f_code.co_qualname, frame.f_code
    if "." in name and code.co_varnames[:1] == ("self",):
        # By the object's own class: `Lock.acquire`, wherever it is inherited from.
        name = f"{type(frame.f_locals.get('self')).__qualname__}.{code.co_name}"
    package = _package(frame)
    return f"{package}.{name}" if package else name


def _package(frame: types.FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _short(file: str) -> str:
    """Return a file relative to the current folder when it lies below it."""
    try:
        here = os.getcwd() + os.sep  # noqa: PTH109 - a prefix
    except OSError:
        return file
    for folder in (here, *libraries()):
        if file.startswith(folder):
            return file.removeprefix(folder)
    return file


def _family(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Yield a task and those in its nurseries, level by level."""
    waiting = [task]
    for _ in range(_DEEPEST):
        if not waiting:
            return
        yield (first := waiting.pop(0))
        for nursery in tuple(first.child_nurseries):
            waiting += tuple(nursery.child_tasks)


def _telling(place: Place) -> tuple[bool, bool]:
    """Put what tells most first: the user's lines, and those that wait for no children."""
    return not place.own, place.awaits is not None and "Nursery" in place.awaits
