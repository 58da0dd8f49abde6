"""Every error that stagerun raises, drawn as a tree. This module knows no other.

StagerunError
├── PolicyError            an option is out of its range (also a ValueError)
│   └── SettingError       … and it came from an environment variable, which it names
├── UsageError             a wrong target, input or identifier was given (also a ValueError)
│   ├── TargetError        ``module:name`` or ``file.py:name`` does not lead to a pipeline
│   └── InputError         a line of input is not one JSON value; names the line
├── StoreError             the database cannot be used; says why and what to do
├── RuntimeClosedError     the runtime has been left, or is leaving
├── DeliveryError          an alert did not reach its sink; it is tried again
├── CancelRequested        raised by ``token.raise_if_cancelled()`` inside a stage
├── RetryLater             raise it in a stage: "not now, try again in so many seconds"
├── WorkerDied             the process that a ``mode="process"`` stage ran in has ended
├── RemoteError            what it raised, when its class is not imported here
└── RunError               raised by ``raise_for_status()``: the run did not succeed
    ├── RunFailed
    ├── RunCancelled
    ├── RunTimedOut
    └── RunInterrupted
"""

__all__ = [
    "CancelRequested",
    "DeliveryError",
    "InputError",
    "PolicyError",
    "RemoteError",
    "RetryLater",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "RunInterrupted",
    "RunTimedOut",
    "RuntimeClosedError",
    "SettingError",
    "StagerunError",
    "StoreError",
    "TargetError",
    "UsageError",
    "WorkerDied",
]


class StagerunError(Exception):
    """The root of every error that stagerun raises."""


class PolicyError(StagerunError, ValueError):
    """An option is out of its range. ``option`` is its name, for example ``Retry.attempts``."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option} {problem}")
        self.option = option
        self.problem = problem


class SettingError(PolicyError):
    """An environment variable holds a bad value. ``option`` is the variable's name."""


class UsageError(StagerunError, ValueError):
    """What was asked for does not exist or cannot be read."""


class TargetError(UsageError):
    """A target of the command line does not lead to a pipeline."""


class InputError(UsageError):
    """The input cannot be read. ``line`` counts from 1; None when it is not about a line."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class StoreError(StagerunError):
    """The database cannot be opened, read or written, and waiting does not cure it."""


class RuntimeClosedError(StagerunError):
    """The runtime takes no new work: its ``async with`` block has been, or is being, left."""


class DeliveryError(StagerunError):
    """An alert did not reach its sink. It is tried again, after *retry_after* seconds at least."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CancelRequested(StagerunError):  # noqa: N818 - it is a request that is obeyed, not an error
    """The token was cancelled. Raised inside a stage it ends the item as ``cancelled``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cancelled: {reason}")
        self.reason = reason


class RetryLater(StagerunError):  # noqa: N818 - an answer to the engine, named for what it asks
    """Raise it in a stage to have the attempt repeated after a pause of your choosing.

    It takes one of the stage's attempts (``Retry.attempts``), whatever ``Retry.on`` says.

    Args:
        after: Seconds to wait at least. Beyond the item's budget the item fails at once.
        why: One sentence for people.
    """

    def __init__(self, after: float, why: str = "asked to come again later") -> None:
        super().__init__(why)
        self.retry_after = after


class WorkerDied(StagerunError):  # noqa: N818 - named for what happened
    """The worker process of a ``mode="process"`` stage ended before it answered; says how.

    It was killed, crashed, or called ``os._exit()``. ``Retry.on`` sees it like any other error.
    """


class RemoteError(StagerunError):
    """An error of a worker process whose class is not imported in the parent.

    ``name`` is the class, ``module.Name``.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class RunError(StagerunError):
    """A run ended otherwise than ``succeeded``. ``result`` tells how far it came."""

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class RunFailed(RunError):  # noqa: N818 - named for the status
    """The run ended ``failed``."""


class RunCancelled(RunError):  # noqa: N818 - named for the status
    """The run ended ``cancelled``."""


class RunTimedOut(RunError):  # noqa: N818 - named for the status
    """The run ended ``timed_out``: its own deadline passed."""


class RunInterrupted(RunError):  # noqa: N818 - named for the status
    """The run ended ``interrupted``: its process went away before it was done."""
