"""Seen with one process's own eyes: what only it knows, and without what a sleep pretends.

Whoever has slept (the machine, or the process that was stopped) wakes up among clocks that have
gone on: for a moment everything looks late, blocked and stalled. So what is stuck must be seen
twice, and the time slept is nobody's.
"""

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import evolve

from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.engine.watch import Watch
from stagerun.model.sights import Blocked, Degraded, RunSeen, Sights
from stagerun.rules.liveness import Patience, Thresholds

__all__ = ["Eyes"]

_BLOCKED: Final = 1.0
"""Seconds from which on an event loop is called blocked."""
_SURE_AFTER: Final = 0.4
"""Seconds between two looks that must both have seen it."""
_GAP: Final = 3.0
"""Looks further apart do not belong together: somebody has slept in between."""
_SLEEPS: Final = 1_000


class Eyes:
    """Corrects what is read from the database. It belongs to one event loop."""

    def __init__(
        self,
        watch: Watch,
        recorder: Recorder,
        env: Env,
        *,
        owner: Callable[[], int],
        limits: Thresholds,
    ) -> None:
        self._watch = watch
        self._recorder = recorder
        self._env = env
        self._owner = owner
        self._limits = limits
        self._seen = Patience(seconds=_SURE_AFTER, gap=_GAP)
        self._looked_at: int | None = None
        self._sleeps: deque[tuple[int, int]] = deque(maxlen=_SLEEPS)
        self.in_doubt = False
        """Whether something has been seen once, and should be looked at again soon."""

    def corrected(self, sights: Sights) -> Sights:
        """Return what was read at this moment, as it should be told."""
        self._note_sleep(sights.now)
        self.in_doubt = False
        own, degraded = self._own_block(), self._degraded(sights.now)
        blocked = [*sights.blocked, *([] if own is None else [own])]
        return evolve(
            sights,
            under_way=[self._awake(run, sights.now) for run in sights.under_way],
            blocked=[each for each in blocked if self._sure(each.owner)],
            degraded=degraded if degraded is not None and self._sure("store") else None,
        )

    def _sure(self, what: object) -> bool:
        """Whether something that is seen was seen before, and no sleep lies in between."""
        now = self._env.monotonic()
        self._seen.forget_before(now)
        sure = self._seen.over(what, True, now)
        self.in_doubt = self.in_doubt or not sure
        return sure

    # -- sleep ------------------------------------------------------------------------------------

    def _note_sleep(self, now: int) -> None:
        before, self._looked_at = self._looked_at, now
        if before is not None and now - before > _GAP * 1e6:
            self._sleeps.append((before, now))

    def _awake(self, run: RunSeen, now: int) -> RunSeen:
        """Take the time slept from a run's age, and from the time for which it has not moved."""
        if not self._sleeps:
            return run
        unmoved = run.unmoved - self._slept(now - int(run.unmoved * 1e6))
        stalled = run.verdict == "stalled" and unmoved > self._limits.stalled_after
        return evolve(
            run,
            age=run.age - self._slept(run.started_at or run.created_at),
            unmoved=unmoved,
            verdict="alive" if run.verdict == "stalled" and not stalled else run.verdict,
        )

    def _slept(self, since: int) -> float:
        return sum(max(0, end - max(begin, since)) for begin, end in self._sleeps) / 1e6

    # -- what only this process knows -------------------------------------------------------------

    def _own_block(self) -> Blocked | None:
        block = self._watch.current
        if block is None:
            return None
        seconds = self._env.monotonic() - block.since
        if seconds < _BLOCKED:
            return None
        where = block.culprit
        return Blocked(
            owner=self._owner(),
            who=f"process {os.getpid()} on {socket.gethostname()}",
            seconds=seconds,
            by=f"{where} at {where.place} in {where.function}",
        )

    def _degraded(self, now: int) -> Degraded | None:
        health = self._recorder.health()
        if health.status == "ok":
            return None
        since = now / 1e6 if health.since is None else health.since.timestamp()
        return Degraded(f"{health.status}: {health.why}", max(0.0, now / 1e6 - since))
