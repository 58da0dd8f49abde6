"""A blocking iterator in a thread of its own, from which the event loop takes what is out."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import trio

__all__ = ["CHUNK", "TURN", "Pump"]

CHUNK = 64
"""Items that are taken at once at most."""
TURN = 0.001
"""Seconds after which a source lets others run, however quickly it gives."""


class Pump:
    """Takes items out of an iterator in one thread; what is out can be had at once."""

    def __init__(self, iterator: Iterator[Any], host: trio.lowlevel.TrioToken) -> None:
        self.exhausted = False
        self.error: BaseException | None = None
        self.thread: int | None = None
        """The identity of the thread; `why` looks where it is."""
        self._iterator = iterator
        self._host = host
        self._out: deque[Any] = deque()
        self._closed = False
        self._told = False
        self._arrival = trio.Event()
        self._room = threading.Event()

    def run(self) -> None:
        """Iterate to the end, waiting whenever enough is out. In the thread."""
        self.thread = threading.get_ident()
        try:
            for value in self._iterator:
                self._out.append(value)
                self._tell()
                while len(self._out) >= CHUNK and not self._closed:
                    self._room.clear()
                    if len(self._out) >= CHUNK:  # looked at again: it may just have been taken
                        self._room.wait(1.0)
                if self._closed:
                    return
        except BaseException as error:  # noqa: BLE001 - raised once its items are accepted
            self.error = error
        finally:
            self.exhausted = True
            self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            with suppress(trio.RunFinishedError):  # nobody is left who could take anything
                self._host.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._arrival.set()

    async def some(self) -> list[Any]:
        """Wait until something is out, or the end, and return what there is."""
        await self._arrival.wait()
        self._arrival = trio.Event()
        self._told = False
        return self.take()

    def take(self) -> list[Any]:
        """Return what is out, once."""
        given = []
        while self._out:
            given.append(self._out.popleft())
        self._room.set()
        return given

    def close(self) -> None:
        """Let the thread end at its next item: nobody takes any more."""
        self._closed = True
        self._room.set()
