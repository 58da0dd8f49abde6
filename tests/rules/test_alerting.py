"""What is told, what is told once, and what is held back: for any sights, and any clock."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from stagerun.alerts import (
    Alerts,
    Log,
    Rule,
    ended,
    loop_blocked,
    older,
    running,
    stalled,
    store_degraded,
)
from stagerun.alerts.webhook import Webhook
from stagerun.errors import PolicyError, UsageError
from stagerun.model.alert import DEFAULT_RULES
from stagerun.model.sights import Blocked, Book, Degraded, RunSeen, Sights, Window
from stagerun.rules.alerting import look, pause_before
from stagerun.rules.notices import notices

START = 1_700_000_000_000_000
SECOND = 1_000_000


def alerts(*rules: Rule, **options: Any) -> Alerts:
    return Alerts([Log()], rules=rules or DEFAULT_RULES, **options)


def run(number: int = 1, **options: Any) -> RunSeen:
    given: dict[str, Any] = {
        "number": number,
        "generation": 1,
        "id": f"{number:032x}"[::-1],
        "pipeline": "crawl",
        "status": "running",
        "verdict": "alive",
    }
    return RunSeen(**(given | options))


def over(number: int = 1, status: str = "failed", **options: Any) -> RunSeen:
    return run(number, status=status, verdict="ended", cause="least_ok", **options)


def raised(sights: Sights, *rules: Rule) -> list[str]:
    return [notice.key for notice in look(Book(), sights, alerts(*rules)).raised]


# -- what rules ask for -----------------------------------------------------------------------


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "timed_out", "interrupted"])
def test_by_default_the_bad_endings_are_told(status: str) -> None:
    told = raised(Sights(now=START, ended=[over(1, status)]))
    assert bool(told) == (status in ("failed", "timed_out", "interrupted"))
    assert raised(Sights(now=START, ended=[over(1, status)]), ended())


def test_rules_look_at_the_pipeline_and_at_all_the_labels() -> None:
    seen = Sights(now=START, ended=[over(labels={"customer": "a", "tier": "gold"})])
    assert raised(seen, ended(pipeline="crawl", labels={"customer": "a"}))
    assert not raised(seen, ended(pipeline="other"))
    assert not raised(seen, ended(labels={"customer": "a", "tier": "tin"}))
    assert not raised(seen, ended(labels={"unknown": ""}))


def test_what_two_rules_ask_for_is_told_once_and_two_limits_twice() -> None:
    seen = Sights(now=START, ended=[over()], under_way=[run(2, age=4000.0)])
    told = raised(seen, ended("failed"), ended(pipeline="crawl"), older(900), older(3600))
    assert len(told) == 3
    assert len(set(told)) == 3


def test_five_runs_are_not_more_than_five() -> None:
    five = [run(number) for number in range(5)]
    assert not raised(Sights(now=START, under_way=five), running())
    (notice,) = look(
        Book(), Sights(now=START, under_way=[*five, run(9, pipeline="load")]), alerts(running())
    ).raised
    assert notice.summary == "6 runs are running, more than 5: 5 of crawl, 1 of load"


def test_a_run_is_told_of_in_words_that_lead_on() -> None:
    seen = Sights(
        now=START,
        ended=[over(message="no item was ok", generation=2)],
        under_way=[run(3, age=960.0, step="fetch"), run(4, verdict="stalled", unmoved=301.0)],
        blocked=[Blocked(owner=7, who="process 12 on host", seconds=2.0, by="stage fetch")],
        degraded=Degraded("degraded: the disk is full", 3.0),
    )
    assert [notice.summary for notice in notices(seen, alerts().rules)] == [
        "run 10000000 of pipeline crawl (generation 2) ended failed (least_ok): no item was ok",
        (
            "run 40000000 of pipeline crawl is stalled: no outcome, report or heartbeat for"
            " 5 min 01 s; `stagerun why 40000000` says what it waits for"
        ),
        (
            "run 30000000 of pipeline crawl has been running for 16 min 00 s, more than"
            " 15 min 00 s, at step fetch"
        ),
        "the database is in trouble: degraded: the disk is full",
        "the event loop of process 12 on host has been blocked for 2.0 s: stage fetch",
    ]


def test_what_has_not_lasted_for_long_enough_is_not_told() -> None:
    seen = Sights(
        now=START,
        blocked=[Blocked(owner=7, who="process 12", seconds=2.0)],
        degraded=Degraded("locked", 3.0),
        under_way=[run(age=899.0)],
    )
    assert not raised(seen, loop_blocked(longer_than=2.5), store_degraded(4), older(), stalled())
    assert len(raised(seen, loop_blocked(), store_degraded(), older(than=800))) == 3


# -- what is told once ------------------------------------------------------------------------


def looks(every: Sequence[tuple[int, bool]], quiet: float) -> list[int]:
    """Look at a run that is stalled or not, at each time; return when it was told."""
    book, told = Book(), []
    for at, stands in every:
        verdict = "stalled" if stands else "alive"
        seen = Sights(now=START + at * SECOND, under_way=[run(verdict=verdict)])
        found = look(book, seen, alerts(stalled(), quiet=quiet, per_minute=1000))
        told += [at] * len(found.raised)
        book = found.book
    return told


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=40))
def test_what_lasts_is_told_when_it_begins_and_only_after_a_quiet_time_again(
    steps: list[tuple[int, bool]],
) -> None:
    at, every = 0, []
    for pause, stands in steps:
        at += pause
        every.append((at, stands))
    told = looks(every, quiet=300)
    seen = [at for at, stands in every if stands]
    assert told[:1] == seen[:1]
    for before, after in pairwise(seen):
        if after in told:
            assert after - before > 200  # a third of the quiet time may not have been noted
        else:
            assert after - before <= 300
    assert looks([(each, True) for each in range(0, 4000, 7)], quiet=300) == [0]


def test_a_clock_that_was_set_back_neither_tells_twice_nor_silences_for_ever() -> None:
    assert looks([(10_000, True), (0, True), (200, True), (900, True)], quiet=300) == [10_000, 900]


def test_a_look_that_sees_nothing_new_leaves_the_book_as_it_is() -> None:
    seen = Sights(now=START, under_way=[run(age=1000.0)], degraded=Degraded("locked", 1.0))
    first = look(Book(), seen, alerts())
    again = look(first.book, evolve(seen, now=START + SECOND), alerts())
    assert again.book == first.book
    assert again.raised == ()
    assert look(Book(), Sights(now=START), alerts()).book == Book()


# -- how much is told -------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 40)), min_size=1, max_size=20),
    st.integers(1, 10),
)
def test_each_ending_is_told_or_counted_and_never_too_many_are_told(
    steps: list[tuple[int, int]], most: int
) -> None:
    book, now, number = Book(), START, 0
    told, counted, times = 0, 0, []
    rules = alerts(ended(), per_minute=most)
    for pause, count in [*steps, (61, 0)]:
        now += pause * SECOND
        runs = [over(number + each) for each in range(count)]
        number += count
        found = look(book, Sights(now=now, ended=runs, ending=number), rules)
        by_rule = Counter(notice.rule for notice in found.raised)
        told += by_rule["ended"]
        times += [now] * by_rule["ended"]
        counted += sum(notice.facts.get("held", 0) for notice in found.raised)
        book = found.book
    assert told + counted == number == book.ending
    assert not book.window.held
    for at in times:  # windows do not overlap: two of them may touch
        assert sum(at <= each < at + 60 * SECOND for each in times) <= 2 * most


def test_a_flood_of_one_kind_does_not_silence_another() -> None:
    many = Sights(now=START, ended=[over(number) for number in range(50)])
    first = look(Book(), many, alerts(per_minute=3))
    assert [notice.rule for notice in first.raised] == ["ended"] * 3
    trouble = Sights(now=START + SECOND, degraded=Degraded("locked", 1.0))
    assert [n.rule for n in look(first.book, trouble, alerts(per_minute=3)).raised] == [
        "store_degraded"
    ]


def test_the_digest_says_how_many_of_what_were_held_back() -> None:
    many = Sights(
        now=START,
        ended=[over(number) for number in range(5)] + [over(9, "timed_out", pipeline="load")],
    )
    held = look(Book(), many, alerts(ended(), per_minute=2)).book
    assert held.window == Window(
        START,
        {"ended": 2},
        {"pipeline crawl ended failed": 3, "pipeline load ended timed_out": 1},
    )
    assert not look(held, Sights(now=START + 59 * SECOND), alerts(ended(), per_minute=2)).raised
    (digest,) = look(held, Sights(now=START + 60 * SECOND), alerts(ended(), per_minute=2)).raised
    assert digest.summary == (
        "4 more alerts were held back, beyond 2 of a kind in a minute:"
        " 3 x pipeline crawl ended failed, 1 x pipeline load ended timed_out"
    )


@given(st.integers(1, 500))
def test_the_book_stays_small_however_many_sorts_are_held_back(count: int) -> None:
    many = [over(number, pipeline=f"pipeline_{number}") for number in range(count)]
    held = look(Book(), Sights(now=START, ended=many), alerts(ended(), per_minute=1)).book
    assert len(held.window.held) <= 21
    assert sum(held.window.held.values()) == count - 1


# -- trying again -----------------------------------------------------------------------------


@given(st.integers(1, 10_000), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_pauses_grow_to_a_bound_and_end(tries: int, jitter: float, wish: float | None) -> None:
    pause = pause_before(tries, 0.0, wish=wish, jitter=jitter, give_up_after=86_400)
    assert pause is not None
    assert 1.0 <= pause <= 3600
    assert pause >= min(wish or 0, 3600)
    assert pause_before(tries, 86_400, wish=wish, jitter=jitter, give_up_after=86_400) is None


def test_a_day_of_tries_is_bounded() -> None:
    waited, tries = 0.0, 0
    while (
        pause := pause_before(
            tries := tries + 1, waited, wish=None, jitter=0.5, give_up_after=86_400
        )
    ) is not None:
        waited += pause
    assert 86_400 - 750 <= waited <= 86_400
    assert tries < 200


# -- what can be given ------------------------------------------------------------------------


class Ready:
    name = "ready"

    def deliver(self, alert: Any) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Alerts([]), "no sink"),
        (lambda: Alerts(Log()), "takes a list of sinks"),
        (lambda: Alerts([Log]), r"made before it is used: Log\(...\)"),
        (lambda: Alerts([Log(), Log()]), "two sinks are named 'log'"),
        (lambda: Alerts([3]), "got int"),
        (lambda: Alerts([Log()], rules=["failed"]), "rules takes a list"),
        (lambda: Alerts([Log()], rules=[], name=""), "short text"),
        (lambda: ended("running"), "no run ends as running"),
        (lambda: ended("fialed"), "no run ends as fialed: there are cancelled, failed"),
        (lambda: ended(labels={"customer": 3}), "labels are texts"),  # type: ignore[dict-item]
        (lambda: Rule(kind="asleep"), "no rule 'asleep'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(wrong: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        wrong()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Alerts([Log()], per_minute=0),
        lambda: Alerts([Log()], quiet=-1),
        lambda: Alerts([Log()], deadline=61),
        lambda: Alerts([Log()], give_up_after=0),
        lambda: running(more_than=-1),
        lambda: older(than=float("nan")),
    ],
)
def test_options_have_their_range(wrong: Any) -> None:
    with pytest.raises(PolicyError):
        wrong()


def test_functions_are_sinks_and_a_rule_may_stand_alone() -> None:
    def tell_somebody(alert: Any) -> None: ...

    given = Alerts([tell_somebody, Ready()], rules=stalled())
    assert [sink.name for sink in given.sinks] == ["tell_somebody", "ready"]
    assert given.rules == (stalled(),)


@pytest.mark.parametrize(
    "options",
    [
        {"secret": ""},
        {"secret": b"TOPSECRETVAL"},
        {"headers": {"Authorization": "Bearer TOPSECRETVAL\n"}},
        {"headers": {"Authorization": "TOPSECRETVAL\u00e9"}},
        {"headers": {"X-Key": 5}},
        {"headers": {"X Key": "TOPSECRETVAL"}},
        {"headers": "TOPSECRETVAL"},
    ],
)
def test_what_a_webhook_cannot_send_is_refused_and_not_shown(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="webhook") as caught:
        Webhook("https://alerts.example", **options)
    assert "TOPSECRETVAL" not in str(caught.value)
