"""What a simulation can be asked for; whatever else is asked is refused before it begins."""

from collections.abc import Iterable
from typing import Any, Final

from stagerun.errors import UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.testing.faults import FaultPlan

__all__ = ["check_time", "check_world", "subject"]

_LONGEST: Final = 100_000
"""Hours, eleven years."""
_LATEST: Final = 32_503_680_000.0
"""The year 3000: the clock on the wall has to stay within what calendars know."""


def subject(what: Any) -> Pipeline | Schedule | list[Schedule]:
    """Return what is simulated: a pipeline, or schedules, in a list if there are several."""
    if isinstance(what, Pipeline | Schedule):
        return what
    if not isinstance(what, Iterable):
        raise UsageError(f"a Pipeline is simulated, or a Schedule, or several, not {what!r}")
    several = [*what]
    for each in several:
        if not isinstance(each, Schedule):
            raise UsageError(f"of several things, only Schedules can be simulated, not {each!r}")
    return several


def check_time(hours: Any, begin: Any) -> None:
    """Refuse a time that cannot be lived through."""
    if not isinstance(hours, int | float) or not 0 < hours <= _LONGEST:
        raise UsageError(f"hours must be more than 0, and at most {_LONGEST:,}, got {hours!r}")
    if not isinstance(begin, int | float) or not 0 <= begin <= _LATEST:
        raise UsageError(f"begin must be seconds since 1970, before the year 3000, got {begin!r}")


def check_world(seed: Any, processes: Any, faults: Any) -> None:
    """Refuse a seed, processes or faults that cannot be."""
    if not isinstance(seed, int):
        raise UsageError(f"seed must be a whole number, got {seed!r}")
    if not isinstance(processes, int) or processes < 1:
        raise UsageError(f"processes must be a whole number from 1, got {processes!r}")
    if not isinstance(faults, FaultPlan):
        raise UsageError(f"faults must be a FaultPlan, got {faults!r}")
    for fault in faults.faults:
        if getattr(fault, "process", 0) not in range(processes):
            raise UsageError(
                f"{fault} is for a process that there is not: there are {processes}, counted from"
                " 0 (processes=)"
            )
