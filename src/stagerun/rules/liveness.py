"""How a run that does not move is to be called: pure verdicts, and the patience behind them.

Four clocks, four verdicts. *Dead* is told by a lock alone, never by a clock. *Blocked* and
*suspended* are told by the signs of life of two threads. *Stalled* and *slow* are told by the run's
own doing. None of them ends anything: only deadlines do.
"""

import math
from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from stagerun.errors import SettingError

__all__ = ["LEASE", "Patience", "Signs", "Thresholds", "judge", "seconds_setting"]

LEASE: Final = 15.0
"""Seconds of the reader's own waking time for which something must not have changed."""
_LATE: Final = 1.0
"""Seconds without a sign of life of a thread that gives one all the time."""
_STORE_LATE: Final = 2.5
"""Seconds for which a commit may wait unnoticed."""


@frozen(kw_only=True)
class Thresholds:
    """From when on a run is called stalled or slow; seconds."""

    stalled_after: float = 300.0
    slow_after: float = 900.0
    slow_factor: float = 3.0
    """So many times the median of the pipeline's succeeded runs is slow too."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Thresholds":
        """Read what operators have set.

        Raises:
            SettingError: A value is not a number of seconds above 0.
        """
        return cls(
            stalled_after=seconds_setting(environ, "STAGERUN_STALLED_AFTER", 300.0),
            slow_after=seconds_setting(environ, "STAGERUN_SLOW_AFTER", 900.0),
        )


@frozen(kw_only=True)
class Signs:
    """What is known of a run at one moment; ages in seconds, None where nothing is known."""

    status: str
    owner: str
    """``alive``, ``dead`` or ``unknown``: what the lock of its process tells."""
    age: float
    """Since its generation began, or was created."""
    unmoved: float
    """Since its last outcome, report or heartbeat, or its begin."""
    median: float | None = None
    """Of the pipeline's succeeded runs."""
    pulse: float | None = None
    """The store's thread's last sign of life."""
    tick: float | None = None
    """The event loop's, as of that."""
    commit: float | None = None
    """Since no commit was waiting, as of that."""


def judge(signs: Signs, limits: Thresholds) -> str:
    """Return the verdict on a run; the first one that fits wins."""
    usual = math.inf if signs.median is None else signs.median * limits.slow_factor
    verdicts = {
        "ended": signs.status not in ("queued", "running"),
        "dead": signs.owner == "dead",
        "suspended": (signs.pulse or 0.0) > _LATE,
        "blocked": (signs.tick or 0.0) > _LATE,
        "store_waits": (signs.commit or 0.0) > _STORE_LATE,
        "queued": signs.status == "queued",
        "unknown": signs.owner == "unknown",
        "stalled": signs.unmoved > limits.stalled_after,
        "slow": signs.age > min(limits.slow_after, max(usual, _LATE)),
    }
    return next((verdict for verdict, fits in verdicts.items() if fits), "alive")


@define
class Patience:
    """Tells whether something has not changed for long, by the reader's own waking time alone.

    A wall clock that jumps, and a machine that sleeps, do not count: after a gap in the looks it
    begins anew.
    """

    seconds: float = LEASE
    gap: float = field(default=12.0, kw_only=True)
    """Looks that are further apart do not belong together."""
    _seen: dict[object, tuple[object, float, float]] = field(init=False, factory=dict)

    def over(self, what: object, value: object, now: float) -> bool:
        """Look at *what*, which stands at *value*. *now*: seconds of a monotonic clock."""
        known = self._seen.get(what)
        since = now
        if known is not None and known[0] == value and now - known[2] <= self.gap:
            since = known[1]
        self._seen[what] = (value, since, now)
        return now - since >= self.seconds

    def forget_before(self, now: float) -> None:
        """Drop what was not looked at lately."""
        self._seen = {
            what: known for what, known in self._seen.items() if now - known[2] <= self.gap
        }


def seconds_setting(environ: Mapping[str, str], name: str, default: float) -> float:
    """Return a number of seconds that operators may set.

    Raises:
        SettingError: It is not a number above 0.
    """
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SettingError(name, f"must be a number of seconds above 0, got {text!r}")
    return value
