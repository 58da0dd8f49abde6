"""Four clocks, four verdicts; and patience that counts the reader's own waking time alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun.errors import SettingError
from stagerun.rules.liveness import Patience, Signs, Thresholds, judge, seconds_setting

FRESH: dict[str, Any] = {"status": "running", "owner": "alive", "age": 1.0, "unmoved": 1.0}


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("alive", {}),
        ("alive", {"pulse": 0.1, "tick": 0.1, "commit": 0.1}),
        ("ended", {"status": "succeeded", "owner": "dead"}),
        ("dead", {"owner": "dead", "unmoved": 9e9}),
        ("suspended", {"pulse": 1.5, "tick": 1.5}),
        ("blocked", {"pulse": 0.1, "tick": 1.5}),
        ("store_waits", {"pulse": 0.1, "tick": 0.1, "commit": 3.0}),
        ("unknown", {"owner": "unknown"}),
        ("queued", {"status": "queued", "unmoved": 400.0, "age": 400.0}),
        ("stalled", {"unmoved": 301.0, "age": 1000.0}),
        ("slow", {"age": 901.0}),
        ("slow", {"age": 31.0, "median": 10.0}),
        ("alive", {"age": 29.0, "median": 10.0}),
        ("alive", {"age": 0.5, "median": 0.001}),
    ],
)
def test_the_first_verdict_that_fits_wins(verdict: str, facts: dict[str, Any]) -> None:
    assert judge(Signs(**(FRESH | facts)), Thresholds()) == verdict


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_no_clock_alone_makes_a_run_dead(age: float, unmoved: float) -> None:
    assert judge(
        Signs(status="running", owner="alive", age=age, unmoved=unmoved), Thresholds()
    ) in {
        "alive",
        "slow",
        "stalled",
    }


def test_operators_move_the_thresholds() -> None:
    limits = Thresholds.of({"STAGERUN_STALLED_AFTER": "10", "STAGERUN_SLOW_AFTER": "20.5"})
    assert (limits.stalled_after, limits.slow_after) == (10.0, 20.5)
    for text in ("0", "-1", "soon", "inf", "nan"):
        with pytest.raises(SettingError, match="STAGERUN_SLOW_AFTER"):
            Thresholds.of({"STAGERUN_SLOW_AFTER": text})
    assert seconds_setting({"A": "  "}, "A", 3.0) == 3.0


def test_patience_is_over_when_nothing_has_changed_for_long_enough() -> None:
    patience = Patience(seconds=15, gap=12)
    assert [patience.over("it", 1, now) for now in (0, 5, 10, 15)] == [False, False, False, True]


def test_patience_begins_anew_with_every_change_and_after_every_gap() -> None:
    patience = Patience(seconds=15, gap=12)
    assert not any(patience.over("it", now // 10, now) for now in range(0, 200, 5))
    assert not any(patience.over("other", 1, now) for now in range(0, 200, 13))
    patience.forget_before(1_000)
    assert not patience.over("it", 19, 1_000)
