"""Whether the database takes commits, and since when it does not."""

import math
from datetime import UTC, datetime
from typing import Literal

from attrs import define, field, frozen

__all__ = ["Condition", "Health", "Lateness"]

_WINDOW = 30.0
"""Seconds for which a delay is remembered, and for as long again at most."""
_SILENCE = 5_000_000
"""Microseconds without a commit, where each second has one, after which something is wrong."""


@frozen
class Health:
    """How the database of a runtime does at this moment."""

    status: Literal["ok", "degraded", "failed"]
    """``degraded``: runs wait, or soon will, and nothing is lost. ``failed``: nothing will be
    committed any more; the runtime has to be left."""
    why: str | None = None
    since: datetime | None = None
    """When that was first noticed, UTC."""
    waiting: int = 0
    """Records that are not on disk yet."""
    commit_lag: float = field(default=0.0, eq=False, repr=False)
    """Seconds that the commit under way has taken by now; 0 when there is none."""


@define(eq=False)
class Condition:
    """What the persistence actor has said. Written by: the engine's thread. Times: microseconds."""

    failure: str | None = None
    trouble: str | None = None
    notice: str | None = None
    since: int | None = None

    def note(
        self,
        now: int,
        *,
        failure: str | None = None,
        trouble: str | None = None,
        notice: str | None = None,
    ) -> None:
        """Take what holds from now on. What began earlier keeps its beginning."""
        if self.well:
            self.since = now
        self.failure, self.trouble, self.notice = failure or self.failure, trouble, notice
        if self.well:
            self.since = None

    @property
    def well(self) -> bool:
        """Whether there is nothing to be said."""
        return (self.failure or self.trouble or self.notice) is None

    def health(self, waiting: int, now: int, beat_at: int, lag: float = 0.0) -> Health:
        """Return the verdict. *beat_at*: when something was last composed; each second it is."""
        since = None if self.since is None else _moment(self.since)
        if self.failure is not None:
            return Health("failed", self.failure, since, waiting, lag)
        if self.trouble is not None:
            why = f"the database refuses a commit: {self.trouble}"
            return Health("degraded", why, since, waiting, lag)
        if beat_at and now - beat_at > _SILENCE:
            why = f"a commit has been under way for {(now - beat_at) / 1e6:.0f} s (a slow disk?)"
            return Health("degraded", why, _moment(beat_at), waiting, lag)
        if self.notice is not None:
            return Health("degraded", self.notice, since, waiting, lag)
        return Health("ok", waiting=waiting, commit_lag=lag)


@define
class Lateness:
    """The longest of the delays of the last half minute or so: whoever asks now and then sees it.

    Written by one thread, read by any.
    """

    _since: float = -math.inf
    _worst: float = 0.0
    _before: float = 0.0
    """The same of the window before."""

    def note(self, now: float, late: float) -> None:
        """Take a delay, in seconds, of which was learned at *now*."""
        if now - self._since > _WINDOW:
            self._before, self._worst, self._since = self._worst, 0.0, now
        self._worst = max(self._worst, late)

    @property
    def worst(self) -> float:
        """The longest one, in seconds."""
        return max(self._worst, self._before)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
