"""Where a run stands, as a picture of it needs it. Texts are as stages gave them."""

from attrs import frozen

from stagerun.model.status import Counts

__all__ = ["Failures", "Line", "Progress"]


@frozen(kw_only=True)
class Failures:
    """Items of a stage that ended alike, and not well."""

    stage: str
    outcome: str
    count: int
    message: str
    """Of one of them."""


@frozen(kw_only=True)
class Line:
    """A log line of the run."""

    time: str
    """ISO 8601."""
    level: str
    stage: str | None
    message: str


@frozen(kw_only=True)
class Progress:
    """One moment of a run."""

    pipeline: str
    id: str
    status: str
    verdict: str = "alive"
    percent: float | None
    source_length: int | None
    stages: tuple[Counts, ...]
    labels: tuple[str, ...] = ()
    deadline_in: float | None = None
    """Seconds until the run's deadline; None without one."""
    rate: float | None = None
    """Items in a second, where it is known better than by what was drawn before."""
    left: float | None = None
    """Seconds that it takes yet, likewise."""
    notice: str = ""
    """One line more, when there is something to say."""
    why: str = ""
    """What it waits for, when it does not move."""
    failures: tuple[Failures, ...] = ()
    """The most frequent sorts first."""
    log: tuple[Line, ...] = ()
    """The last lines, the newest last."""
    hint: str = ""
    """What the reader may do."""
