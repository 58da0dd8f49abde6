"""What becomes of an item after an attempt: the one decision, pure and total.

Precedence when several things strike in the same tick, first match wins:

1. A result that was returned before the attempt's deadline counts, whatever else was asked for.
2. The item's budget is spent: ``timed_out``, cause ``deadline``.
3. The run's deadline has passed: ``timed_out``, cause ``run_deadline``.
4. The run is stopping and the attempt was cut, obeyed the token, or would have been tried again:
   ``cancelled``, with the stop's cause.
5. The attempt was cut for want of a sign of life: tried again, or ``timed_out``, cause ``stalled``.
6. The attempt's own deadline has passed: tried again, or ``timed_out``, cause ``attempt_deadline``.
7. The stage raised: tried again, or ``failed``, cause ``error``, or ``worker_died``.

The clock tells what happened, not how the code ended: a stage that swallows its cancellation and
returns a value after the deadline has timed out all the same.
"""

import math
from enum import Enum
from typing import Any

from attrs import frozen

from stagerun.errors import CancelRequested, RetryLater, WorkerDied
from stagerun.model.outcome import ItemCause, Outcome
from stagerun.model.stage import Stage

__all__ = ["Again", "Attempt", "Done", "Ended", "Stop", "Verdict", "decide", "pause"]


class Stop(Enum):
    """Why a run stops before its work is done, as its items see it."""

    REQUESTED = ItemCause.REQUESTED
    RUN_DEADLINE = ItemCause.RUN_DEADLINE
    SHUTDOWN = ItemCause.SHUTDOWN
    RUN_FAILED = ItemCause.RUN_FAILED


@frozen
class Attempt:
    """How one attempt went, in plain numbers of one monotonic clock, in seconds."""

    number: int
    """Attempts made so far, this one included."""
    first_started: float
    started: float
    ended: float
    deadline: float
    """When this attempt had to end; inf without one."""
    cut: bool
    """Whether its cancel scope was cancelled before it ended."""
    error: BaseException | None
    """What the stage raised; None when it returned, or was cut and raised nothing of its own."""
    returned: bool
    stalled: bool = False
    """Whether it was cut for want of a sign of life, before any deadline of its own."""


@frozen
class Done:
    """The attempt's result counts."""


@frozen
class Again:
    """The item is tried again at ``at``, a time of the attempt's clock."""

    at: float
    why: str


@frozen
class Ended:
    """The item ends here without a result."""

    outcome: Outcome
    cause: ItemCause
    message: str


Verdict = Done | Again | Ended


def decide(attempt: Attempt, stage: Stage, stop: Stop | None, jitter: float) -> Verdict:
    """Decide what becomes of an item. *jitter* is a fair draw from 0 to 1."""
    if attempt.returned and attempt.ended < attempt.deadline:
        return Done()
    budget_end = attempt.first_started + (stage.deadline or math.inf)
    if attempt.ended >= budget_end:
        return Ended(Outcome.TIMED_OUT, ItemCause.DEADLINE, _overrun("deadline", stage, attempt))
    if attempt.cut and stop is Stop.RUN_DEADLINE:
        message = "the run's deadline passed while the item was under way"
        return Ended(Outcome.TIMED_OUT, ItemCause.RUN_DEADLINE, message)
    verdict = _by_attempt(attempt, stage, budget_end, jitter)
    obeyed = isinstance(attempt.error, CancelRequested)
    if stop is not None and (attempt.cut or obeyed or isinstance(verdict, Again)):
        outcome = Outcome.TIMED_OUT if stop is Stop.RUN_DEADLINE else Outcome.CANCELLED
        return Ended(outcome, stop.value, _STOPPED[stop])
    return verdict


def _by_attempt(attempt: Attempt, stage: Stage, budget_end: float, jitter: float) -> Again | Ended:
    retry = stage.retry
    if attempt.stalled:
        message = (
            f"no sign of life for {stage.heartbeat_timeout or 0.0:g} s (heartbeat_timeout)"
            f" in attempt {attempt.number}"
        )
        ended = Ended(Outcome.TIMED_OUT, ItemCause.STALLED, message)
        wanted = retry.timeouts
    elif attempt.ended >= attempt.deadline or attempt.cut or attempt.error is None:
        message = _overrun("attempt_deadline", stage, attempt)
        ended = Ended(Outcome.TIMED_OUT, ItemCause.ATTEMPT_DEADLINE, message)
        wanted = retry.timeouts
    else:
        died = isinstance(attempt.error, WorkerDied)
        ended = Ended(Outcome.FAILED, ItemCause.WORKER_DIED if died else ItemCause.ERROR, "")
        wanted = isinstance(attempt.error, RetryLater) or retry.wants(attempt.error)
    if not wanted or attempt.number >= retry.attempts:
        return ended
    least = _retry_after(attempt.error)
    at = attempt.ended + max(least, pause(stage, attempt.number, jitter))
    return Again(at, ended.cause.value) if at < budget_end else ended


def pause(stage: Stage, attempts: int, jitter: float) -> float:
    """Return the seconds to wait after so many attempts: exponential with full jitter."""
    retry = stage.retry
    try:
        longest = min(retry.cap, retry.base * retry.factor ** (attempts - 1))
    except OverflowError:  # the factor to a great power: any cap is smaller
        longest = retry.cap
    return jitter * longest


def _retry_after(error: BaseException | None) -> float:
    """Seconds that an error asks to wait; odd values count as none. inf never fits a budget."""
    wanted: Any = getattr(error, "retry_after", None)
    if not isinstance(wanted, int | float) or isinstance(wanted, bool):
        return 0.0
    try:
        return 0.0 if math.isnan(wanted) else max(0.0, float(wanted))
    except OverflowError:  # a whole number beyond any float
        return math.inf


def _overrun(what: str, stage: Stage, attempt: Attempt) -> str:
    """Name the deadline, its limit and the time spent."""
    if what == "deadline":
        limit, spent = stage.deadline, attempt.ended - attempt.first_started
        tries = f" over {attempt.number} attempts" if attempt.number > 1 else ""
        return f"deadline of {limit:g} s passed: {spent:.3f} s spent{tries}"
    limit, spent = round(attempt.deadline - attempt.started, 2), attempt.ended - attempt.started
    return (
        f"attempt_deadline of {limit:g} s passed: {spent:.3f} s spent in attempt {attempt.number}"
    )


_STOPPED = {
    Stop.REQUESTED: "the run was cancelled while the item was under way",
    Stop.RUN_DEADLINE: "the run's deadline passed while the item was under way",
    Stop.SHUTDOWN: "the program shut down while the item was under way",
    Stop.RUN_FAILED: "the run failed while the item was under way",
}
