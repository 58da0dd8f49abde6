"""The live page: what a process has in hand, in its owner's file, readable without SQL.

It survives kill -9 and a locked database, and writing a slot costs less than a row of anything.
All numbers are little-endian words of eight bytes, each written at once, so that no reader sees
half of one. Times are seconds of ``time.monotonic()``, which the processes of one kernel share.
"""

import mmap
import os
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Protocol

from attrs import frozen

__all__ = ["SIZE", "InFlight", "Page", "PageView", "read_page", "suspects"]

_MAGIC = int.from_bytes(b"stagerun", "little")
_VERSION = 1
_SLOTS = 1_000
"""Items that are told at once; what is in flight beyond them is simply not told."""
_HEAD, _SLOT = 8, 5
"""Words of the header, and of a slot."""
_MAGIC_AT, _VERSION_AT, _SLOTS_AT, _PID_AT, _TICK_AT, _PULSE_AT, _COMMIT_AT, _EPOCH_AT = range(8)
_ITEM, _STARTED, _RUN, _GENERATION, _STAGE = range(_SLOT)
_WORDS = _HEAD + _SLOT * (_SLOTS + 1)
SIZE = 8 * _WORDS
"""Bytes of a page."""
_HEADER = Struct("<4q4d")
_IN_FLIGHT = Struct("<qd3q")


@frozen
class InFlight:
    """One item that a stage works on, or did a moment ago."""

    run: int
    generation: int
    stage: int
    item: int
    started: float
    """When its attempt began, monotonic seconds."""


@frozen
class PageView:
    """What a page says at one moment."""

    pid: int
    tick: float
    """The event loop's last sign of life."""
    pulse: float
    """The same of the store's thread; it goes on while the database is locked."""
    commit: float
    """When no commit was waiting last."""
    in_flight: tuple[InFlight, ...]


class Holder(Protocol):
    """Who holds slots; told when the page moves."""

    numbers: "memoryview[int]"
    starts: "memoryview[float]"
    """One word further on: a slot's number and start have the same index."""


class Page:
    """The page of one process. In memory until the owner's file is there.

    Words are written by one thread each: the slots and the tick by the event loop's, pulse and
    commit by the store's.
    """

    def __init__(self) -> None:
        self._free = list(range(_SLOTS, 0, -1))
        self._holders: dict[Holder, tuple[int, ...]] = {}
        self._mapped: mmap.mmap | None = None
        self.numbers, self.times, self._starts = _views(memoryview(bytearray(SIZE)))
        self._head()

    def _head(self) -> None:
        self.numbers[_VERSION_AT], self.numbers[_SLOTS_AT] = _VERSION, _SLOTS
        self.numbers[_PID_AT] = os.getpid()
        self.numbers[_MAGIC_AT] = _MAGIC  # last: before it nobody believes the rest

    def move(self, path: Path) -> None:
        """Move into the file at *path*, which has ``SIZE`` bytes; what it says stays.

        Mapped through a descriptor of its own: one that shared the lock's would keep the lock in a
        forked child, for a mapping outlives the closing of its descriptor.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mapped = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        before, self._mapped = self._mapped, mapped
        mapped[:] = bytes(self.numbers)
        self.numbers, self.times, self._starts = _views(memoryview(mapped))
        for holder in [*self._holders]:
            holder.numbers, holder.starts = self.numbers, self._starts
        self._head()
        del before  # unmapped with the last view of it

    def let_go(self) -> None:
        """Speak to nobody from now on: in a forked child, or when the owner has ended."""
        numbers, times, starts = _views(memoryview(bytearray(SIZE)))
        self.numbers, self.times, self._starts = numbers, times, starts
        for holder in [*self._holders]:
            holder.numbers, holder.starts = numbers, starts
        self._mapped = None

    # -- slots: the event loop's thread ---------------------------------------------------------

    def occupy(self, holder: Holder, count: int, run: int, generation: int, stage: int) -> int:
        """Give *holder* up to *count* slots in a row of its own; return the first one's word.

        Where none is free it is that of a slot which nobody reads.
        """
        slots = tuple(self._free.pop() for _ in range(min(count, len(self._free))))
        self._holders[holder] = slots
        holder.numbers, holder.starts = self.numbers, self._starts
        for slot in slots:
            word = _word(slot)
            self.numbers[word + _GENERATION], self.numbers[word + _STAGE] = generation, stage
            self.numbers[word + _ITEM] = 0
            self.numbers[word + _RUN] = run  # last: it makes the slot a taken one
        return _word(slots[0] if slots else 0)

    def show(self, holder: Holder, items: list[int], started: float) -> None:
        """Tell the items of a batch; *started* on trio's clock, like all that slots are told."""
        slots = self._holders[holder]
        for slot, item in zip(slots, items + [0] * len(slots), strict=False):
            word = _word(slot)
            self.numbers[word], self.times[word + _STARTED] = item, started

    def leave(self, holder: Holder) -> None:
        """Take the slots back."""
        for slot in self._holders.pop(holder, ()):
            self.numbers[_word(slot) + _RUN] = self.numbers[_word(slot)] = 0
            self._free.append(slot)

    def blame_nobody(self) -> None:
        """Tell no items from now on: the program leaves, and may be killed before it is done."""
        self.numbers[_SLOTS_AT] = 0

    def synchronize(self, trio_time: float) -> None:
        """Note how trio's clock and the monotonic one differ: slots are told the former."""
        self.times[_EPOCH_AT] = time.monotonic() - trio_time

    # -- signs of life --------------------------------------------------------------------------

    def tick(self) -> None:
        """Note that the event loop lives."""
        self.times[_TICK_AT] = time.monotonic()

    def pulse(self) -> None:
        """Note that the store's thread lives."""
        self.times[_PULSE_AT] = time.monotonic()

    def committed(self) -> None:
        """Note that no commit waits."""
        self.times[_COMMIT_AT] = time.monotonic()

    def suspects(self) -> list[tuple[int, int, int, int]]:
        """Return what would be found in hand if the process died now: see ``suspects``."""
        return _suspects(_view(bytes(self.numbers)))

    @property
    def last_tick(self) -> float:
        """The event loop's last sign of life."""
        return self.times[_TICK_AT]


def read_page(path: Path) -> PageView | None:
    """Read the page in an owner's file, of a living or a dead one; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _view(os.read(descriptor, SIZE))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _view(content: bytes) -> PageView | None:
    if len(content) < 8 * _HEAD:
        return None
    magic, version, slots, pid, tick, pulse, commit, epoch = _HEADER.unpack_from(content)
    if magic != _MAGIC or version != _VERSION:
        return None
    there = (len(content) - 8 * _HEAD) // (8 * _SLOT) - 1
    in_flight = []
    for slot in range(1, min(slots, there) + 1):
        place = _IN_FLIGHT.unpack_from(content, 8 * _word(slot))
        item, started, run, generation, stage = place
        if run > 0 and item > 0 and generation > 0 and stage >= 0:
            in_flight.append(InFlight(run, generation, stage, item, started + epoch))
    return PageView(pid, tick, pulse, commit, tuple(in_flight))


def suspects(path: Path) -> list[tuple[int, int, int, int]]:
    """Return run, generation, stage and item of all that a dead process had in hand.

    An item that was settled a moment before its death may be among them: whoever asks leaves out
    what has an outcome. A file that is short, strange or gone names nothing.
    """
    return _suspects(read_page(path))


def _suspects(view: PageView | None) -> list[tuple[int, int, int, int]]:
    if view is None:
        return []
    return sorted({(each.run, each.generation, each.stage, each.item) for each in view.in_flight})


def _word(slot: int) -> int:
    """Return the first word of a slot; slot 0 is the one that nobody reads."""
    return _HEAD + _SLOT * slot


def _views(
    buffer: memoryview,
) -> "tuple[memoryview[int], memoryview[float], memoryview[float]]":
    if sys.byteorder != "little":
        raise NotImplementedError("the live page needs a little-endian machine")
    flat = buffer.cast("B")
    return flat.cast("q"), flat.cast("d"), flat[8 * _STARTED :].cast("d")
