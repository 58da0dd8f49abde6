"""When a pipeline is to be run by itself: a declaration, and the slots that follow from it.

A slot is a moment at which a run is due, in whole microseconds since 1970, UTC.
"""

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import Attribute, field, frozen

from stagerun.errors import PolicyError
from stagerun.model.pipeline import Pipeline
from stagerun.model.policy import number, whole
from stagerun.model.stage import name_validator

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = ["Overlap", "Schedule"]

Overlap = Literal["skip", "queue", "cancel_previous"]
"""What a slot does when ``active`` runs of its schedule have not ended yet: it is skipped; its run
waits in line; or the oldest of them is cancelled, and the new one begins when that has stopped."""

_LEAST, _MOST = 1.0, 3650 * 86400.0
"""Seconds between two slots."""


@frozen(eq=False)
class Schedule:
    """A pipeline that is run again and again, at the times of a clock on the wall.

    Several processes may serve the same schedule on one database: each slot is fired by one of
    them. Slots for which no process was there, because the machine slept or nothing ran, become a
    single run as soon as there is one, and are counted.

    Raises:
        PolicyError: An option is out of its range, or does not go with another one.
    """

    name: str = field(validator=name_validator)
    """What it is known by; unique in a database. Its runs carry it as their label ``schedule``."""
    pipeline: Pipeline = field()
    """What is run. It must have a deadline: a run that never ends would hold its place for ever."""
    cron: str | None = field(default=None, kw_only=True)
    """Five fields as in crontab(5), or six with seconds first. Needs ``stagerun[schedules]``."""
    every: float | None = field(default=None, kw_only=True, validator=number(none=True))
    """Seconds between two slots, at least 1, in place of ``cron``; counted from the first time
    that the schedule is served."""
    zone: str = field(default="UTC", kw_only=True)
    """The time zone that ``cron`` is meant in, as in ``Europe/Berlin``. Where clocks are put
    forward, a daily slot that does not exist comes right after; where they are put back, it comes
    once."""
    overlap: Overlap = field(default="skip", kw_only=True)
    active: int = field(default=1, kw_only=True, validator=whole())
    """How many of its runs may be under way at once, in all processes together."""
    items: Any = field(default=None, kw_only=True)
    """What each run is started with: a list or a function; None: the pipeline's own source."""
    params: Any = field(default=None, kw_only=True)
    labels: Mapping[str, str] = field(factory=dict, kw_only=True)

    @pipeline.validator
    def _(self, _attribute: "Attribute[Any]", value: Any) -> None:
        if not isinstance(value, Pipeline):
            raise self._refusal("pipeline", "must be a Pipeline", value)
        if value.deadline is None:
            raise self._refusal("pipeline", "must have a deadline: each run must end", value.name)

    @overlap.validator
    def _(self, _attribute: "Attribute[Any]", value: Any) -> None:
        if value not in ("skip", "queue", "cancel_previous"):
            raise self._refusal("overlap", "must be skip, queue or cancel_previous", value)

    @items.validator
    def _(self, _attribute: "Attribute[Any]", value: Any) -> None:
        if isinstance(value, Iterator):
            raise self._refusal("items", "must be a list or a function: it is used again", value)

    def __attrs_post_init__(self) -> None:
        """Check what concerns more than one field."""
        if (self.cron is None) == (self.every is None):
            raise PolicyError("Schedule", f"{self.name!r} needs either cron= or every=")
        if self.every is not None:
            if not _LEAST <= self.every <= _MOST:
                raise self._refusal("every", "must be from one second to ten years", self.every)
            if self.zone != "UTC":
                raise self._refusal("zone", "goes with cron only", self.zone)
            return
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
            problem = "must be a time zone that this machine knows, as Europe/Berlin"
            raise self._refusal("zone", problem, self.zone) from error
        self._first_of_cron()

    def after(self, moment: int) -> int:
        """Return the first slot after *moment*; for ``every`` as if *moment* were a slot."""
        return next(self.slots(moment))

    def slots(self, moment: int) -> Iterator[int]:
        """Return the slots after *moment*, in order; for ``every`` as if that were a slot."""
        if self.every is not None:
            step = round(self.every * 1e6)
            yield from itertools.count(moment + step, step)
        for slot in self._cron(moment):
            at = int(slot.timestamp()) * 1_000_000
            if at > moment:  # where clocks are put back, an hour of the wall comes twice
                moment = at
                yield at

    def _cron(self, moment: int) -> "CronSim":
        from cronsim import CronSim  # noqa: PLC0415 - an extra, for those who use cron

        at = datetime.fromtimestamp(moment // 1_000_000, UTC)
        zone = UTC if self.zone == "UTC" else ZoneInfo(self.zone)
        assert self.cron is not None  # noqa: S101 - else there is `every`
        return CronSim(self.cron, at.astimezone(zone))

    def _first_of_cron(self) -> None:
        """Check that there is one."""
        try:
            from cronsim import CronSimError  # noqa: PLC0415 - as above
        except ModuleNotFoundError as error:
            problem = "needs cronsim, which is not installed: pip install 'stagerun[schedules]'"
            raise self._refusal("cron", problem, self.cron) from error
        if not isinstance(self.cron, str):
            raise self._refusal("cron", "must be text as in a crontab: '30 2 * * *'", self.cron)
        try:
            self.after(0)
        except CronSimError as error:
            problem = f"must be five fields as in a crontab ({error}; try '30 2 * * *')"
            raise self._refusal("cron", problem, self.cron) from error
        except StopIteration as error:
            raise self._refusal("cron", "must come some day", self.cron) from error

    def _refusal(self, option: str, problem: str, value: Any) -> PolicyError:
        return PolicyError(f"Schedule.{option}", f"of {self.name!r} {problem}, got {value!r}")
