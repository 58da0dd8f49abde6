"""An event for the many that are made for each run, and that mostly nobody waits for."""

from collections.abc import Coroutine
from typing import Any

import trio

__all__ = ["Flag"]


class Flag:
    """A ``trio.Event`` that takes a fifth of its memory until somebody waits for it."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: trio.Event | None = None
        """Made by the first who waits. Invariant: set when the flag is."""

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    def set(self) -> None:
        """Set it for good, and wake everybody who waits for that."""
        self._set = True
        if self._event is not None:
            self._event.set()

    def wait(self) -> Coroutine[Any, Any, None]:
        """Wait until it is set. A checkpoint in any case."""
        if self._set:
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - whoever waits awaits it
        if self._event is None:
            self._event = trio.Event()
        return self._event.wait()  # not awaited here: that would be one more coroutine
