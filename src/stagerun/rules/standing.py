"""Where a run stands, as plain values: the facts from which ``rules/why.py`` makes its words.

Times are seconds from the moment that the facts are of.
"""

from attrs import frozen

__all__ = [
    "Blocked",
    "Feeding",
    "Pausing",
    "Place",
    "RunFacts",
    "StageFacts",
    "Stopping",
    "StoreFacts",
    "Working",
]


@frozen(kw_only=True)
class Place:
    """Where code stands: the innermost frame of the user's own, and what that waits in."""

    file: str
    line: int
    function: str
    own: bool = True
    """Whether it is the user's code; else there is none of theirs, and this is installed."""
    code: str = ""
    """The line's text, where its file can be read."""
    awaits: str | None = None
    """For example ``trio.Lock.acquire``; None when it waits for nothing, or nobody can tell."""

    def __str__(self) -> str:
        doing = f", in {self.awaits}" if self.awaits else f": {self.code}" if self.code else ""
        return f"{self.file}:{self.line} ({self.function}{doing})"


@frozen(kw_only=True)
class Working:
    """One attempt under way: of an item, or of a batch."""

    items: tuple[int, ...]
    key: str | None
    attempt: int
    attempts: int
    """How many attempts there may be."""
    seconds: float
    cut_in: float | None
    """Seconds until its deadline; None without one, or while its clock stands still."""
    cut_for: float | None
    """Seconds since it was cut; None: it was not."""
    stalls_in: float | None
    """Seconds until it counts as stalled unless it beats; None: its stage does not ask for it."""
    mode: str
    process: str | None
    """The worker process that it runs in, where it runs in one."""
    places: tuple[Place, ...]
    """Where it stands; more than one when it has tasks of its own."""


@frozen(kw_only=True)
class Pausing:
    """One item between two attempts."""

    item: int
    next_attempt: int
    resumes_in: float
    why: str


@frozen(kw_only=True)
class StageFacts:
    """One stage: who works, who waits, who pauses. The longest under way, the next due first."""

    name: str
    working: tuple[Working, ...]
    working_total: int
    waiting: int
    limit: int
    """Items that may wait in front of it."""
    putters: int
    """Tasks of the stage before (or the source) that wait for room in front of it."""
    pausing: tuple[Pausing, ...]
    pausing_total: int
    opening_gives_up_in: float | None = None
    """Seconds until its resource must have opened; None: none is being opened."""

    @property
    def full(self) -> bool:
        """Whether nobody may put one more item in front of it."""
        return self.waiting >= self.limit


@frozen(kw_only=True)
class Feeding:
    """The source, while it has not given all its items."""

    gives_up_in: float | None
    """Seconds until it must have given one; None: it waits for room itself."""
    place: Place | None


@frozen(kw_only=True)
class Blocked:
    """What keeps the event loop, and with it every run of the process, from going on."""

    seconds: float
    run: str | None
    """Whose code it is; None: of no run."""
    stage: str | None
    item: int | None
    place: Place | None


@frozen(kw_only=True)
class Stopping:
    """The run was asked to end."""

    status: str
    message: str
    seconds: float
    """Since it was asked."""
    ends_in: float
    """Until its ending is written, whatever still runs."""


@frozen(kw_only=True)
class StoreFacts:
    """What waits for the disk."""

    status: str
    """As ``runtime.health()`` has it: ok, degraded or failed."""
    rows: int
    full: bool
    """Whether so much waits that the stages have to."""
    trouble: str | None


@frozen(kw_only=True)
class RunFacts:
    """A run that has not ended, as its own process sees it."""

    run: str
    pipeline: str
    generation: int
    status: str
    as_of: str
    pid: int
    seconds: float
    """Since it began."""
    deadline_in: float | None
    turn: str | None
    """The key whose place it waits for, while it is queued."""
    stages: tuple[StageFacts, ...]
    source: Feeding | None
    store: StoreFacts
    behind_suspects: bool = False
    """Whether it waits until an item of another run has been tried alone, before one of its own."""
    survivors: tuple[str, ...] = ()
    blocked: Blocked | None = None
    stopping: Stopping | None = None
