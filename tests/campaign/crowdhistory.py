"""The history of a crowd: its processes as their parent saw them, and what they said."""

import copy
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from tests.campaign.told import Told

__all__ = ["History", "Process"]

_STEP: Final = 0.02
_OF_PROCESSES: Final = ("open", "quiet", "unsettled")
"""What is said of the one who says it."""


@define(eq=False)
class Process:
    """One process, as its parent saw it."""

    pid: int
    role: str
    """worker, command, observer, stranger or heir"""
    errors: Path
    """What it said on standard error."""
    said: Path = Path(os.devnull)
    """What it said on standard output."""
    target: str = ""
    limited: bool = False
    """Whether it may give up for want of descriptors."""
    has_begun: bool = False
    """Whether it has said that its runtime is open, or a stage of it was called."""
    opened_at: float | None = None
    is_quiet: bool = False
    """Whether its clients have had their time."""
    signals: list[tuple[signal.Signals, float, float]] = field(factory=list)
    """Which, and when: on the monotonic clock, and on the wall."""
    begun_at_signal: bool = False
    """Whether it had begun when it got the first one that ends it."""
    gone_at: float | None = None
    status: int | None = None

    def signalled(self, *numbers: signal.Signals) -> list[float]:
        return [at for number, at, _ in self.signals if number in numbers]

    @property
    def killed_at(self) -> float | None:
        return next(iter(self.signalled(signal.SIGKILL)), None)

    @property
    def is_killed(self) -> bool:
        return self.killed_at is not None

    @property
    def is_early(self) -> bool:
        """Whether it was signalled while it was about to begin."""
        return bool(self.signals) and not self.begun_at_signal

    @property
    def leaving(self) -> tuple[float, float] | None:
        """From when to when it left in an orderly way, as it was asked to."""
        asked = self.signalled(signal.SIGTERM, signal.SIGINT)
        if not asked or self.is_killed or self.gone_at is None:
            return None
        return asked[0], self.gone_at

    def may_be_dead_from(self) -> float:
        """Return the earliest wall time at which this process can have been dead."""
        if self.limited:
            return 0.0
        deadly = [wall for number, _, wall in self.signals if number is signal.SIGKILL]
        # A command leaves what does not stop behind, and is gone; early, no handler was there yet.
        if self.role == "command" or self.is_early:
            ends = (signal.SIGTERM, signal.SIGINT)
            deadly += [wall for number, _, wall in self.signals if number in ends]
        return min(deadly, default=float("inf"))

    def is_stopped(self, at: float) -> bool:
        """Whether it was stopped then, or had been a moment before."""
        stopped = False
        for number, when, _ in self.signals:
            if when > at:
                break
            if number in (signal.SIGSTOP, signal.SIGCONT):
                stopped = number is signal.SIGSTOP
        return stopped and not (self.killed_at is not None and self.killed_at <= at)

    def serves(self, at: float) -> bool:
        """Whether its runtime was open then, so that it looks after the others."""
        ending = self.signalled(signal.SIGKILL, signal.SIGTERM)
        gone = min([*ending, *([] if self.gone_at is None else [self.gone_at])], default=at + 1)
        opened = self.opened_at is not None and self.opened_at <= at
        return self.role in ("worker", "heir") and opened and gone > at


@define(eq=False)
class History:
    """All that was said, in the order in which it was heard."""

    processes: list[Process] = field(factory=list)
    told: Told = field(factory=Told)
    took: dict[str, list[tuple[float, float]]] = field(factory=dict)
    """Beginning and end of what somebody waited for, by its name."""
    counts: Counter[str] = field(factory=Counter)
    owners: dict[str, tuple[int, str | None, float]] = field(factory=dict)
    """Process, cause of its end, and when that was seen first; by identifier."""
    keys: dict[str, set[str]] = field(factory=dict)
    locks: list[tuple[float, float]] = field(factory=list)
    wrong: list[str] = field(factory=list)
    saved: dict[str, Told] = field(factory=dict)
    copies: list[str] = field(factory=list)

    def hear(self, words: list[Any]) -> None:
        """Take what one of the processes said."""
        kind, *rest = words
        if kind in _OF_PROCESSES:
            self._of_process(kind, self.process(rest[0]), rest[1:])
        elif kind in ("locked", "unlocked"):
            self.locks = [lock for lock in self.locks if lock[0] != rest[0]]
            self.locks.append((rest[0], [*rest, float("inf")][1]))
        elif kind == "took":
            self.took.setdefault(rest[0], []).append((rest[1], rest[2]))
        elif kind == "count":
            self.counts[rest[0]] += rest[1]
        elif kind == "key":
            self.keys.setdefault(rest[0], set()).add(rest[1])
        elif kind == "owner":
            self.owners[rest[0]] = (rest[1], rest[2], rest[3])
        elif kind == "too many":
            self.wrong.append(f"{rest[2]} runs of {rest[0]} at once, {rest[1]} may be")
        elif kind == "wrong":
            self.wrong.append(rest[0])
        elif kind == "copied":
            self.copies.append(rest[0])
        else:
            self.told.hear(words)

    def _of_process(self, kind: str, process: Process, rest: list[Any]) -> None:
        if kind == "open":
            began, now = rest
            process.has_begun, process.opened_at = True, now
            process.begun_at_signal = not process.signals
            self.told.opened = True
            self.took.setdefault(f"open ({process.role})", []).append((began, now))
        elif kind == "quiet":
            process.is_quiet = True
        elif kind == "unsettled" and rest[0]:
            self.wrong.append(f"the next start has left {rest[0]} runs of the dead")

    def process(self, pid: int) -> Process:
        return next(each for each in reversed(self.processes) if each.pid == pid)

    def told_before(self, copy_at: Path) -> None:
        """Keep what was told by now: it must stand in the copy that is about to be made."""
        self.saved[str(copy_at)] = copy.deepcopy(self.told)

    def unsettled(self) -> list[tuple[str, float]]:
        """Return owners that were killed and not seen settled, and how long ago that was."""
        dead = {each.pid: each.killed_at for each in self.processes if each.killed_at is not None}
        return [
            (owner, dead[pid])
            for owner, (pid, cause, _) in self.owners.items()
            if pid in dead and cause is None
        ]

    def core(self, since: float, until: float) -> float:
        """Return the seconds between in which somebody could commit, and look after others.

        A process that is stopped may hold the write lock; SQLite has no means against that.
        """
        return _measure(
            since, until, lambda at: self._is_free(at) and any(p.serves(at) for p in self.processes)
        )

    def free(self, since: float, until: float) -> float:
        """Return the seconds between in which nobody else may have held the write lock."""
        return _measure(since, until, self._is_free)

    def _is_free(self, at: float) -> bool:
        locked = any(since <= at <= until for since, until in self.locks)
        return not locked and not any(each.is_stopped(at) for each in self.processes)


def _measure(since: float, until: float, holds: Callable[[float], bool]) -> float:
    steps = max(1, round((until - since) / _STEP))
    step = (until - since) / steps
    return step * sum(holds(since + (each + 0.5) * step) for each in range(steps))
