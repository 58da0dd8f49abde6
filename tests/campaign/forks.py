"""One life of a process: forked from a warm parent that has opened nothing, and killed like any.

What a process has imported costs nothing when it is forked, so a life begins within milliseconds.
The parent must have one thread only: another one's locks would be copied in whichever state.
"""

import faulthandler
import gc
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from tests.campaign.told import Say

__all__ = ["Blow", "Life", "live"]

_LONGEST: Final = 60.0
"""Seconds after which a life hangs, for all that we know; it takes one or two of them."""
_PIECE: Final = 2**16
_KILLS: Final = (signal.SIGKILL, signal.SIGTERM)
"""SIGTERM ends whoever does not listen yet, as SIGKILL does."""


@frozen
class Blow:
    """A signal that the parent sends."""

    after: float
    """Seconds since the life began."""
    number: signal.Signals


@frozen
class Life:
    """What was seen of it from outside."""

    told: tuple[list[Any], ...]
    """What it said, a list each. What it said last may be what killed it."""
    killed: bool
    seconds: float
    wrong: str = ""
    """How it ended, if that is neither a kill nor the end of its work."""


def live(
    work: Callable[[Say], object],
    errors: Path,
    blows: Sequence[Blow] = (),
    *,
    longest: float = _LONGEST,
) -> Life:
    """Fork, have the child do *work*, and hear what it says until it is no more.

    Args:
        work: Gets what takes its words; each goes to the parent at once, from any thread.
        errors: Where its standard error goes.
        blows: Signals, in order. They come when they come: it may have ended by then.
        longest: Seconds after which it is stopped, with its stacks in *errors*.
    """
    if threading.active_count() > 1:
        raise RuntimeError(f"a process with other threads cannot fork: {threading.enumerate()}")
    sys.stdout.flush()
    sys.stderr.flush()
    hears, says = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(hears)
        _be_the_child(work, errors, says)
    os.close(says)
    try:
        heard, late = _hear(child, hears, began, blows, longest)
    finally:
        os.close(hears)
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - began
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in _KILLS and not late
    wrong = ""
    if late:
        wrong = f"it had not ended after {longest:g} s"
    elif status and not killed:
        wrong = f"it ended with {os.waitstatus_to_exitcode(status)}"
    if wrong:
        wrong += f":\n{errors.read_text(errors='replace')}"
    whole, _, _ = heard.rpartition(b"\n")
    told = tuple(json.loads(line) for line in whole.splitlines())
    return Life(told, killed, seconds, wrong)


def _be_the_child(work: Callable[[Say], object], errors: Path, says: int) -> None:
    """Do the work and end, whatever comes; nothing of the parent's is cleaned up here."""
    code = 70
    gc.disable()  # it does not live for long, and whatever is looked at would be copied
    try:
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 2)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

        def say(words: list[Any]) -> None:
            line = json.dumps(words).encode() + b"\n"
            if len(line) > select.PIPE_BUF:
                raise ValueError(f"not written at once, and may be cut in two: {words}")
            os.write(says, line)

        work(say)
        code = 0
    except BaseException:  # noqa: BLE001 - the parent has it in the text
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _hear(
    child: int, pipe: int, began: float, blows: Sequence[Blow], longest: float
) -> tuple[bytes, bool]:
    """Return what it said until its end, and whether that was forced."""
    heard, left, late = b"", list(blows), False
    while True:
        due = began + (left[0].after if left else longest)
        ready, _, _ = select.select([pipe], [], [], max(0.0, due - time.monotonic()))
        if ready:
            piece = os.read(pipe, _PIECE)
            if not piece:
                return heard, late
            heard += piece
        elif left:
            os.kill(child, left.pop(0).number)  # not waited for yet: the number is its own
        elif not late:
            late = True
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.2)  # for its stacks to be written
            os.kill(child, signal.SIGKILL)
            longest += 5.0
        else:
            raise RuntimeError(f"process {child} was killed and has not ended")
