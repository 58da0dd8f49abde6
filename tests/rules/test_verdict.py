"""What becomes of an item after an attempt, over every way an attempt can go."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun import CancelRequested, Retry, RetryLater, Stage, WorkerDied, stage
from stagerun.model.outcome import ItemCause, Outcome
from stagerun.rules.verdict import Again, Attempt, Done, Ended, Stop, decide, pause


async def _work(item: object) -> object:
    return item


def a_stage(**options: object) -> Stage:
    return stage(name="work", **options)(_work)  # type: ignore[call-overload, no-any-return]


def an_attempt(**facts: object) -> Attempt:
    usual = {
        "number": 1,
        "first_started": 0.0,
        "started": 0.0,
        "ended": 1.0,
        "deadline": 10.0,
        "cut": False,
        "error": None,
        "returned": False,
    }
    return Attempt(**{**usual, **facts})  # type: ignore[arg-type]


seconds = st.floats(0, 1e6)
errors = st.sampled_from([ValueError("x"), OSError(), RetryLater(5), CancelRequested("r"), None])
retries = st.builds(
    Retry,
    attempts=st.integers(1, 5),
    attempt_deadline=st.none() | st.floats(0.01, 100),
    base=st.floats(0, 10),
    factor=st.floats(0.1, 10),
    cap=st.floats(0, 100),
    on=st.sampled_from([Exception, OSError, (OSError, ValueError), lambda error: False]),
    timeouts=st.booleans(),
)


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    first = draw(seconds)
    started = first + draw(seconds)
    error = draw(errors)
    returned = error is None and draw(st.booleans())
    return Attempt(
        number=draw(st.integers(1, 6)),
        first_started=first,
        started=started,
        ended=started + draw(seconds),
        deadline=started + draw(seconds | st.just(math.inf)),
        cut=draw(st.booleans()),
        error=error,
        returned=returned,
        stalled=draw(st.booleans()),
    )


@given(attempts(), retries, st.none() | st.sampled_from(Stop), st.floats(0, 1))
def test_a_verdict_keeps_every_promise_about_time(
    attempt: Attempt, retry: Retry, stop: Stop | None, jitter: float
) -> None:
    work = a_stage(retry=retry, deadline=50.0)
    verdict = decide(attempt, work, stop, jitter)
    budget_end = attempt.first_started + 50.0
    match verdict:
        case Done():
            assert attempt.returned
            assert attempt.ended < attempt.deadline
        case Again(at, _):
            assert stop is None, "a run that stops begins nothing again"
            assert attempt.number < retry.attempts
            assert attempt.ended <= at < budget_end, "no pause goes beyond the budget"
        case Ended(outcome, cause, message):
            assert outcome is not Outcome.OK
            assert (outcome is Outcome.CANCELLED) <= (stop is not None)
            assert message or cause is ItemCause.ERROR
    if attempt.returned and attempt.ended < attempt.deadline:
        assert verdict == Done(), "a result in time counts, whatever else was asked for"


@given(attempts(), retries, st.none() | st.sampled_from(Stop), st.floats(0, 1))
def test_a_spent_budget_is_told_by_the_clock_however_the_code_ended(
    attempt: Attempt, retry: Retry, stop: Stop | None, jitter: float
) -> None:
    work = a_stage(retry=retry, deadline=0.001)
    verdict = decide(attempt, work, stop, jitter)
    in_time = attempt.returned and attempt.ended < attempt.deadline
    if not in_time and attempt.ended >= attempt.first_started + 0.001:
        assert isinstance(verdict, Ended)
        assert (verdict.outcome, verdict.cause) == (Outcome.TIMED_OUT, ItemCause.DEADLINE)


@pytest.mark.parametrize(
    ("facts", "stop", "expected"),
    [
        # All at once: the result was there in time.
        ({"returned": True, "cut": True, "ended": 9.9}, Stop.REQUESTED, Done()),
        # The item's budget, the run's deadline and a cancellation in one tick: the budget.
        ({"cut": True, "ended": 300.0}, Stop.RUN_DEADLINE, (Outcome.TIMED_OUT, ItemCause.DEADLINE)),
        ({"cut": True, "ended": 300.0}, Stop.REQUESTED, (Outcome.TIMED_OUT, ItemCause.DEADLINE)),
        # The run's deadline and the attempt's own: the run's.
        ({"cut": True, "ended": 10.0}, Stop.RUN_DEADLINE,
         (Outcome.TIMED_OUT, ItemCause.RUN_DEADLINE)),
        # A cancellation and the attempt's own deadline: the cancellation.
        ({"cut": True, "ended": 10.0}, Stop.REQUESTED, (Outcome.CANCELLED, ItemCause.REQUESTED)),
        # A cancellation and an error that would have been tried again: the cancellation.
        ({"error": OSError()}, Stop.REQUESTED, (Outcome.CANCELLED, ItemCause.REQUESTED)),
        # A cancellation and an error for good: the error.
        ({"error": OSError(), "number": 3}, Stop.REQUESTED, (Outcome.FAILED, ItemCause.ERROR)),
        # The stage obeyed the token.
        ({"error": CancelRequested("r"), "number": 3}, Stop.SHUTDOWN,
         (Outcome.CANCELLED, ItemCause.SHUTDOWN)),
        # The attempt's deadline and an error: the clock.
        ({"error": OSError(), "ended": 10.5, "number": 3}, None,
         (Outcome.TIMED_OUT, ItemCause.ATTEMPT_DEADLINE)),
        # No sign of life, and then its deadline before it had stopped: what struck first.
        ({"cut": True, "stalled": True, "ended": 10.5, "number": 3}, None,
         (Outcome.TIMED_OUT, ItemCause.STALLED)),
        ({"cut": True, "stalled": True, "ended": 300.0}, None,
         (Outcome.TIMED_OUT, ItemCause.DEADLINE)),
        ({"cut": True, "stalled": True}, Stop.REQUESTED, (Outcome.CANCELLED, ItemCause.REQUESTED)),
        # Its worker process died.
        ({"error": WorkerDied(), "number": 3}, None, (Outcome.FAILED, ItemCause.WORKER_DIED)),
    ],
)  # fmt: skip
def test_precedence_when_several_strike_in_one_tick(
    facts: dict[str, object], stop: Stop | None, expected: object
) -> None:
    work = a_stage(retry=Retry(attempts=3, attempt_deadline=10), deadline=300.0)
    verdict = decide(an_attempt(**facts), work, stop, 0.5)
    got = (verdict.outcome, verdict.cause) if isinstance(verdict, Ended) else verdict
    assert got == expected


def test_a_retry_after_sets_the_least_pause() -> None:
    work = a_stage(retry=Retry(attempts=3, base=0.1))
    verdict = decide(an_attempt(error=RetryLater(7)), work, None, 1.0)
    assert isinstance(verdict, Again)
    assert verdict.at == 8.0


@pytest.mark.parametrize("odd", [float("nan"), -5, True, "soon", None, object()])
def test_an_odd_retry_after_counts_as_none(odd: object) -> None:
    error = OSError()
    error.retry_after = odd  # type: ignore[attr-defined]
    work = a_stage(retry=Retry(attempts=3, base=2.0))
    assert decide(an_attempt(error=error), work, None, 0.5) == Again(2.0, "error")


@pytest.mark.parametrize("after", [1e6, float("inf")])
def test_a_retry_after_beyond_the_budget_ends_the_item_at_once(after: float) -> None:
    work = a_stage(retry=Retry(attempts=3))
    verdict = decide(an_attempt(error=RetryLater(after)), work, None, 0.0)
    assert isinstance(verdict, Ended)
    assert verdict.outcome is Outcome.FAILED


@given(st.integers(1, 10_000), st.floats(0, 1), retries)
def test_a_pause_never_exceeds_its_cap(number: int, jitter: float, retry: Retry) -> None:
    assert 0 <= pause(a_stage(retry=retry), number, jitter) <= retry.cap


def test_a_timeout_names_its_deadline_its_limit_and_the_time_spent() -> None:
    work = a_stage(deadline=30.0, retry=Retry(attempts=2, attempt_deadline=10))
    cut = an_attempt(cut=True, number=2, started=15.0, ended=25.0, deadline=25.0)
    verdict = decide(cut, work, None, 0.5)
    assert isinstance(verdict, Ended)
    assert verdict.message == "attempt_deadline of 10 s passed: 10.000 s spent in attempt 2"
    late = decide(an_attempt(cut=True, number=2, ended=30.5), work, None, 0.5)
    assert isinstance(late, Ended)
    assert late.message == "deadline of 30 s passed: 30.500 s spent over 2 attempts"
