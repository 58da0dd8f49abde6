"""Hearing that the program is told to end, as early as the server hears it.

A server asks its applications to shut down only when all answers have been given, and a stream of
events has no end of its own. So the handlers of the two signals are wrapped: the streams hear them
first, and the server then does what it does.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from attrs import frozen

__all__ = ["signals_heard"]


@contextmanager
def signals_heard(hear: Callable[[], None]) -> Iterator[None]:
    """Call *hear* when SIGTERM or SIGINT comes, before whoever handled it until now.

    Only in the main thread, the one that signals come to; elsewhere nothing is done. A handler
    that was installed otherwise than from Python is left as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        if (before := signal.getsignal(number)) is not None:
            ours[number] = _Heard(hear, before)
            signal.signal(number, ours[number])
    try:
        yield
    finally:
        for number, handler in ours.items():
            standing: object = signal.getsignal(number)
            if standing is handler:
                signal.signal(number, handler.then)


@frozen(eq=False)
class _Heard:
    """A handler around another one."""

    hear: Callable[[], None]
    then: Any
    """What handles the signal behind it; others look here for theirs."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.hear()
        if callable(self.then):
            self.then(number, frame)
        elif self.then != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
