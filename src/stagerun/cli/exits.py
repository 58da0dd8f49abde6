"""Exit statuses: what a shell learns from a command."""

from typing import Final

from stagerun.model.status import Status

__all__ = ["CANCELLED", "FAILED", "INTERRUPTED", "SUCCEEDED", "USAGE", "exit_status"]

SUCCEEDED: Final = 0
FAILED: Final = 1
USAGE: Final = 2
"""A wrong option, target, input line or database: nothing that a repetition would cure."""
INTERRUPTED: Final = 3
TIMED_OUT: Final = 124
"""As timeout(1) has it."""
CANCELLED: Final = 130
"""As a shell has it for a command ended by Ctrl-C."""

_STATUSES: Final = {
    Status.SUCCEEDED: SUCCEEDED,
    Status.FAILED: FAILED,
    Status.INTERRUPTED: INTERRUPTED,
    Status.TIMED_OUT: TIMED_OUT,
    Status.CANCELLED: CANCELLED,
}


def exit_status(status: str) -> int:
    """Return the exit status for a run's terminal *status*, for example ``timed_out``."""
    return _STATUSES[Status(status)]
