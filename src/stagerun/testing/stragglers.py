"""Stages that shield themselves from their cancellation: a simulation would wait for them for ever.

Nothing can cancel them. But where they wait they can be woken, by an error: nobody else will.
"""

from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import outcome
import trio

from stagerun.errors import UsageError

__all__ = ["wake_stragglers"]

_PATIENCE: Final = 3600.0
"""Virtual seconds after which nobody is waited for."""
_OURS: Final = (str(Path(trio.__file__ or "").parent), str(Path(__file__).parents[1]))
"""Code that is never to blame."""


async def wake_stragglers(root: trio.lowlevel.Task, leaving: trio.Event, woken: list[str]) -> None:
    """Once *leaving* is set, give an hour to the user's code below *root*; then wake it by error.

    Where it was is added to *woken*. Runs until it is cancelled.
    """
    await leaving.wait()
    while True:
        await trio.sleep(_PATIENCE)
        await trio.testing.wait_all_tasks_blocked()
        for task in _leaves(root):
            frame = _users(task)
            if frame is not None:
                woken.append(words(frame))
                trio.lowlevel.reschedule(task, outcome.Error(UsageError(woken[-1])))


def words(frame: tuple[FrameType, int]) -> str:
    """Return what to say to somebody whose code waits there."""
    code, line = frame[0].f_code, frame[1]
    return (
        f"the simulated time is over, and {code.co_name}() in {code.co_filename}, line {line},"
        " waits on: it is shielded from its cancellation. Give the shield an end:"
        " trio.move_on_after(seconds, shield=True)"
    )


def _leaves(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Give the tasks that wait for no other task."""
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    if not children:
        yield task
    for child in children:
        yield from _leaves(child)


def _users(task: trio.lowlevel.Task) -> tuple[FrameType, int] | None:
    """Return where the user's code waits in this task, if it does; the innermost of it."""
    frames = [*task.iter_await_frames()]
    users = [each for each in frames if not each[0].f_code.co_filename.startswith(_OURS)]
    return users[-1] if users else None
