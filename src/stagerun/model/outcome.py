"""What became of an item in a stage: a closed set, and the failure that goes with it."""

from enum import Enum, IntEnum
from typing import Any, Final

from attrs import frozen

__all__ = ["DROP", "Drop", "Failure", "ItemCause", "Outcome", "StageOutcome"]


class Outcome(IntEnum):
    """The recorded outcome of one item in one stage and generation. The numbers are on disk."""

    OK = 0
    FAILED = 1
    TIMED_OUT = 2
    CANCELLED = 3
    SKIPPED = 4
    CRASHED = 5

    @property
    def label(self) -> str:
        """The name that people and documents see, for example ``timed_out``."""
        return self.name.lower()


class ItemCause(Enum):
    """Why an item's outcome is not ``ok``. A closed list; docs/reference.md explains each."""

    ERROR = "error"
    INPUT = "input"
    RESULT = "result"
    KEY = "key"
    LEAST_OK = "least_ok"
    DEADLINE = "deadline"
    ATTEMPT_DEADLINE = "attempt_deadline"
    STALLED = "stalled"
    RUN_DEADLINE = "run_deadline"
    REQUESTED = "requested"
    SHUTDOWN = "shutdown"
    RUN_FAILED = "run_failed"
    DROPPED = "dropped"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    WORKER_DIED = "worker_died"
    CRASHED = "crashed"


@frozen
class Failure:
    """Why an item did not end ``ok``, in words for people and with the error for engineers."""

    cause: ItemCause
    message: str
    error: str | None = None
    """The exception's type, ``module.Name``; None when there was none."""
    detail: str | None = None
    """The traceback, without local variables."""


@frozen
class StageOutcome:
    """One stored upstream outcome, as a collect stage sees it."""

    item: int
    outcome: Outcome
    value: Any = None
    """The result of the stage before; None unless ``outcome`` is ``OK``."""
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.outcome is Outcome.OK


class Drop(Enum):
    """The type of ``DROP``, for annotations: ``-> Page | Drop``."""

    DROP = "DROP"

    def __repr__(self) -> str:
        return "DROP"


DROP: Final = Drop.DROP
"""Return it from a stage: the item ends here as ``skipped``, by decision and without a fault."""
