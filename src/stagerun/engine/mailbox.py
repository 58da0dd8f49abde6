"""The items in front of a stage: bounded, in order, with a side room for those between attempts."""

import heapq
import math
from collections import deque
from collections.abc import Callable

import trio

from stagerun.engine.desk import Item

__all__ = ["Mailbox"]

_PROMISED = 10
"""Times the limit: that many items may wait for their commit."""


class Mailbox:
    """A channel's meaning at a deque's price: nobody parks unless it is empty or full.

    Putting never waits; whoever puts looks at ``full`` afterwards and waits for ``room()``. So it
    may hold as many items more than ``limit`` as there are putters.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._half = limit // 2
        """Those who wait for room come back when only so many items wait: not for each one."""
        self.promises = _PROMISED * limit
        """So many may wait and be promised together."""
        self.promised = 0
        """Items that will be put once their commit is on disk. Invariant: at most ``_PROMISED``
        times as many as may wait, for they come by the hundred with one commit."""
        self.shut = False
        """Set when a run stops: nothing is taken any more, and nobody waits."""
        self.waiting: deque[Item] = deque()
        """The items that may be taken, in order."""
        self.put: Callable[[Item], None] = self.waiting.append
        """Lets an item wait its turn."""
        self._parked: list[tuple[float, int, Item]] = []  # a heap, by the time of the next attempt
        # Made by the first who waits: a thousand small runs have many stages that never fill.
        self._room: trio.lowlevel.ParkingLot | None = None
        self._arrivals: trio.lowlevel.ParkingLot | None = None
        self.putters = 0
        """How many tasks wait for room. Invariant: not fewer than are parked; more only until one
        that was cancelled has run."""
        self.resting = 0
        """How many workers wait for an arrival. Like ``putters``, cheaper to ask than a lot."""

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def empty(self) -> bool:
        """Whether nothing waits, here or between two attempts."""
        return not self.waiting and not self._parked

    @property
    def ready(self) -> bool:
        """Whether there is something to take. Too many pausing items hold up new ones."""
        return bool(self.waiting) and not self.shut and len(self._parked) < self.limit

    @property
    def full(self) -> bool:
        """Whether to wait for ``room()`` before putting the next item."""
        waiting = len(self.waiting)
        return waiting >= self.limit or waiting + self.promised >= self.promises

    @property
    def wake_at(self) -> float:
        """When the next pausing item is due; inf when there is none."""
        return self._parked[0][0] if self._parked else math.inf

    @property
    def pausing(self) -> list[tuple[float, Item]]:
        """The items between two attempts, with the time of the next one, the earliest first."""
        return [(at, item) for at, _, item in sorted(self._parked, key=lambda entry: entry[:2])]

    def take(self) -> Item:
        """Take the first item. Only when ``ready``."""
        item = self.waiting.popleft()
        if self.putters:
            self.make_room()
        return item

    def make_room(self) -> None:
        """Wake those who wait for room, if there is."""
        waiting = len(self.waiting)
        if waiting <= self._half and waiting + self.promised < self.promises:
            self._let_in()

    def _let_in(self) -> None:
        self.putters = 0
        if self._room is not None:
            self._room.unpark_all()

    def next(self) -> tuple[Item] | None:
        """Take the first item, alone, if one is ready."""
        if not self.waiting or self.shut or len(self._parked) >= self.limit:
            return None
        item = self.waiting.popleft()
        if self.putters and len(self.waiting) <= self._half:
            self.make_room()
        return (item,)

    async def room(self) -> None:
        """Wait until fewer items wait than may wait."""
        while self.full and not self.shut:
            if (room := self._room) is None:  # an empty one is false, too
                room = self._room = trio.lowlevel.ParkingLot()
            self.putters = len(room) + 1
            try:
                await room.park()
            except BaseException:
                self.putters = len(room)  # nobody has made room for this one
                raise

    def call(self) -> bool:
        """Wake a worker that waits for an arrival; False when none does."""
        if not self.resting or self._arrivals is None:
            return False
        called = self._arrivals.unpark()
        self.resting = len(self._arrivals)
        return bool(called)  # not so when the last one was cancelled a moment ago

    async def arrival(self) -> None:
        """Wait until somebody calls."""
        if (arrivals := self._arrivals) is None:
            arrivals = self._arrivals = trio.lowlevel.ParkingLot()
        self.resting = len(arrivals) + 1
        try:
            await arrivals.park()
        except BaseException:
            self.resting = len(arrivals)  # nobody has called this one
            raise

    def release(self) -> None:
        """Wake every worker that waits for an arrival: none may come any more."""
        self.resting = 0
        if self._arrivals is not None:
            self._arrivals.unpark_all()

    def shut_down(self) -> list[Item]:
        """Take nothing more, let nobody wait; return the items that were between two attempts."""
        self.shut = True
        self._let_in()
        self.release()
        pausing = [item for _, _, item in self._parked]
        self._parked.clear()
        return pausing

    def park(self, item: Item, until: float) -> None:
        """Let an item pause until its next attempt, in nobody's way."""
        heapq.heappush(self._parked, (until, item.number, item))

    def unpark_due(self, now: float) -> int:
        """Put the items that have paused long enough back to the others; return how many."""
        count = 0
        while self._parked and self._parked[0][0] <= now:
            self.put(heapq.heappop(self._parked)[2])
            count += 1
        return count

    def remove(self, number: int) -> Item | None:
        """Take an item out wherever it waits; None when it is not here."""
        for item in self.waiting:
            if item.number == number:
                self.waiting.remove(item)
                self.make_room()
                return item
        for entry in self._parked:
            if entry[1] == number:
                self._parked.remove(entry)
                heapq.heapify(self._parked)
                return entry[2]
        return None
