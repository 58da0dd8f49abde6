"""The rules: for what alerts are raised."""

from collections.abc import Mapping

from stagerun.model.alert import Rule

__all__ = ["ended", "loop_blocked", "older", "running", "stalled", "store_degraded"]


def ended(
    *statuses: str, pipeline: str | None = None, labels: Mapping[str, str] | None = None
) -> Rule:
    """Tell of runs that have ended so, in whichever way; without statuses of every ending.

    Args:
        statuses: ``succeeded``, ``failed``, ``cancelled``, ``timed_out``, ``interrupted``.
        pipeline: Only its runs.
        labels: Only runs that have all of them.
    """
    return Rule(kind="ended", statuses=statuses, pipeline=pipeline, labels=labels)


def stalled(*, pipeline: str | None = None, labels: Mapping[str, str] | None = None) -> Rule:
    """Tell of runs whose verdict is ``stalled``: nothing for ``STAGERUN_STALLED_AFTER`` seconds."""
    return Rule(kind="stalled", pipeline=pipeline, labels=labels)


def running(
    more_than: int = 5, *, pipeline: str | None = None, labels: Mapping[str, str] | None = None
) -> Rule:
    """Tell when more runs are running at once; those that are queued do not count."""
    return Rule(kind="running", limit=more_than, pipeline=pipeline, labels=labels)


def older(
    than: float = 900.0, *, pipeline: str | None = None, labels: Mapping[str, str] | None = None
) -> Rule:
    """Tell of runs that have been running for longer, in seconds."""
    return Rule(kind="older", limit=than, pipeline=pipeline, labels=labels)


def store_degraded(longer_than: float = 0.0) -> Rule:
    """Tell when ``runtime.health()`` is not ``ok``, for longer than so many seconds."""
    return Rule(kind="store_degraded", limit=longer_than)


def loop_blocked(longer_than: float = 1.0) -> Rule:
    """Tell when an event loop is blocked, this one's or another process's of the database.

    Args:
        longer_than: Seconds; below 1 it is not called blocked.
    """
    return Rule(kind="loop_blocked", limit=longer_than)
