"""The life of a run in words: its statuses, the closed list of causes, counts and the result."""

from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import Any

from attrs import field, frozen

from stagerun.errors import RunCancelled, RunError, RunFailed, RunInterrupted, RunTimedOut

__all__ = ["Cause", "Counts", "Ending", "Result", "Status"]


class Status(Enum):
    """Where a generation of a run stands. The last five are terminal and final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"

    @property
    def terminal(self) -> bool:
        """Whether the generation has ended."""
        return self not in (Status.QUEUED, Status.RUNNING)


class Cause(Enum):
    """Why a generation ended. A closed list; docs/reference.md explains each."""

    COMPLETED = "completed"
    LEAST_OK = "least_ok"
    SOURCE_ERROR = "source_error"
    SOURCE_TIMEOUT = "source_timeout"
    SOURCE_GONE = "source_gone"
    RESOURCE = "resource"
    SURVIVORS = "survivors"
    SETTINGS = "settings"
    INTERNAL = "internal"
    REQUESTED = "requested"
    SIGNAL = "signal"
    TOKEN = "token"  # noqa: S105 - the host's own cancellation token, not a secret
    RUN_DEADLINE = "run_deadline"
    SHUTDOWN = "shutdown"
    OWNER_DIED = "owner_died"


@frozen
class Ending:
    """How a generation ends: the status, its cause, and one sentence for people."""

    status: Status
    cause: Cause
    message: str
    code: str | None = None
    """The error's type where an error caused it, for example ``builtins.OSError``."""


@frozen(kw_only=True)
class Counts:
    """The sums of one stage. Invariant: accepted = the six outcomes + in_flight + waiting."""

    name: str
    accepted: int = 0
    ok: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    skipped: int = 0
    crashed: int = 0
    in_flight: int = 0

    @property
    def settled(self) -> int:
        """Items with a recorded outcome."""
        return self.ok + self.failed + self.timed_out + self.cancelled + self.skipped + self.crashed

    @property
    def waiting(self) -> int:
        """Accepted items that nobody works on yet."""
        return self.accepted - self.settled - self.in_flight


@frozen(kw_only=True)
class Result:
    """What ``wait()`` returns: how one generation of a run ended. Everything here is committed."""

    id: str
    pipeline: str
    generation: int
    ending: Ending
    stages: tuple[Counts, ...]
    seconds: float
    _read: Callable[[], AsyncIterator[Any]] = field(repr=False, eq=False)

    @property
    def status(self) -> str:
        """The terminal status in the words of the documents, for example ``succeeded``."""
        return self.ending.status.value

    @property
    def cause(self) -> str:
        """Why it ended, from the closed list of causes."""
        return self.ending.cause.value

    @property
    def message(self) -> str:
        """One sentence for people."""
        return self.ending.message

    def results(self) -> AsyncIterator[Any]:
        """Iterate over the last stage's stored results, in item order, read page by page."""
        return self._read()

    def raise_for_status(self) -> "Result":
        """Return the result when the run succeeded.

        Raises:
            RunFailed, RunCancelled, RunTimedOut, RunInterrupted: by its status.
        """
        if self.ending.status is Status.SUCCEEDED:
            return self
        raise _ERRORS[self.ending.status](
            f"run {self.id} of pipeline {self.pipeline!r} {self.status}: {self.message}", self
        )


_ERRORS: dict[Status, type[RunError]] = {
    Status.FAILED: RunFailed,
    Status.CANCELLED: RunCancelled,
    Status.TIMED_OUT: RunTimedOut,
    Status.INTERRUPTED: RunInterrupted,
}
