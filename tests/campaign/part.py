"""What one part of the campaign came to."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

__all__ = ["Part"]


@frozen(kw_only=True)
class Part:
    """The figures of one part, as RELIABILITY.md shows them."""

    name: str
    what: str
    """For people: what was done, how one trial differs from another, and what was checked."""
    command: str
    """The command line that does exactly this again."""
    trials: int
    violations: tuple[str, ...] = ()
    """Each begins with the command line that replays just this trial."""
    skipped: str = ""
    """Why it, or some of it, could not be done here; empty: all was done."""
    seconds: float
    counts: Mapping[str, Any] = field(factory=dict)
    """What else was counted, by a name for people. Whole numbers add up when a part is done several
    times; other numbers, and texts, are of one time."""
