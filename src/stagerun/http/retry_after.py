"""Reading the Retry-After header."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["parse_retry_after"]


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Return the seconds from `now` that a Retry-After header asks for, 0 or more.

    Both forms are read, seconds and date; None stands for no header and for garbage.
    """
    text = (text or "").strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
