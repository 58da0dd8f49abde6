"""What alerts are made of: what is seen at one moment, and what was told before."""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

__all__ = ["Blocked", "Book", "Degraded", "RunSeen", "Sights", "Window"]


@frozen(kw_only=True)
class RunSeen:
    """A run as it stands, or as one of its generations has ended. Times in microseconds."""

    number: int
    generation: int
    id: str
    pipeline: str
    status: str
    verdict: str
    cause: str | None = None
    message: str | None = None
    code: str | None = None
    step: str | None = None
    percent: float | None = None
    labels: Mapping[str, str] = field(factory=dict)
    created_at: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    age: float = 0.0
    """Seconds since it began, as of its process's last sign of life."""
    unmoved: float = 0.0
    """The same since its last outcome, report or heartbeat."""


@frozen(kw_only=True)
class Blocked:
    """A process whose event loop does not get on."""

    owner: int
    who: str
    seconds: float
    by: str | None = None
    """What blocks it; None: only that process itself could tell."""


@frozen
class Degraded:
    """The database takes no commits, or soon will not."""

    why: str
    seconds: float


@frozen(kw_only=True)
class Sights:
    """What is seen at one moment."""

    now: int
    ended: Sequence[RunSeen] = ()
    """Generations that have ended since the last look, in order."""
    ending: int | None = None
    """The number of the last of them; None: there was none."""
    under_way: Sequence[RunSeen] = ()
    blocked: Sequence[Blocked] = ()
    degraded: Degraded | None = None


@frozen
class Window:
    """The minute that is under way: what was told in it, and what was held back."""

    since: int = 0
    told: Mapping[str, int] = field(factory=dict)
    """By the kind of rule: so that a flood of one cannot silence another."""
    held: Mapping[str, int] = field(factory=dict)
    """By a few words."""


@frozen(kw_only=True)
class Book:
    """What is known of the past, as it is stored."""

    version: int = 0
    ending: int = 0
    window: Window = field(factory=Window)
    episodes: Mapping[str, int] = field(factory=dict)
    """When what lasts, and has been told, was last seen."""
