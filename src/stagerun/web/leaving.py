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
from functools import partial
from types import FrameType
from typing import Any

__all__ = ["signals_heard"]


@contextmanager
def signals_heard(hear: Callable[[], None]) -> Iterator[None]:
    """Call *hear* when SIGTERM or SIGINT comes, before whoever handled it until now.

    Only in the main thread, the one that signals come to; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ours = {number: partial(_pass_on, hear, handler) for number, handler in before.items()}
    for number, handler in ours.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in ours.items():
            if signal.getsignal(number) is handler and before[number] is not None:
                signal.signal(number, before[number])


def _pass_on(hear: Callable[[], None], then: Any, number: int, frame: FrameType | None) -> None:
    hear()
    if callable(then):
        then(number, frame)
    elif then != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
