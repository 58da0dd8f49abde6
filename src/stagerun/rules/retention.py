"""How long ended runs are kept: by number and by age, as operators say."""

import math
from collections.abc import Mapping

from attrs import frozen

from stagerun.errors import SettingError

__all__ = ["Keep", "keep_of"]

_DAY = 86_400_000_000


@frozen
class Keep:
    """What stays. Runs that have not ended are kept whatever it says; None: without a limit."""

    runs: int | None = 10_000
    """Ended runs, the newest ones."""
    days: float | None = 30.0
    """Days since a run's end."""

    def before(self, now: int) -> int | None:
        """Return the moment before which an end is too old; in microseconds, as *now* is."""
        return None if self.days is None else now - int(self.days * _DAY)


def keep_of(environ: Mapping[str, str]) -> Keep:
    """Return what operators want kept: ``STAGERUN_KEEP_RUNS`` and ``STAGERUN_KEEP_DAYS``.

    Raises:
        SettingError: One of them cannot be read or is out of its range.
    """
    runs = _limit("STAGERUN_KEEP_RUNS", environ, "a whole number of at least 1, or off", whole=True)
    days = _limit("STAGERUN_KEEP_DAYS", environ, "a finite number above 0, or off", whole=False)
    kept = Keep()
    return Keep(
        kept.runs if math.isnan(runs) else None if math.isinf(runs) else int(runs),
        kept.days if math.isnan(days) else None if math.isinf(days) else days,
    )


def _limit(variable: str, environ: Mapping[str, str], rule: str, *, whole: bool) -> float:
    """Return the number that *variable* holds; inf for off, nan when it is not set."""
    text = environ.get(variable)
    if text is None:
        return math.nan
    if text == "off":
        return math.inf
    plain = text.isascii() and len(text) <= 15 and (text if whole else text.replace(".", "", 1))
    if not plain or not plain.isdigit() or not float(text) >= (1 if whole else 1e-9):
        raise SettingError(variable, f"must be {rule}, got {text!r}")
    return float(text)
