"""From facts to the one sentence that says what a run waits for and what will end the wait."""

from typing import Any

import pytest

from stagerun.rules.standing import (
    Blocked,
    Feeding,
    Pausing,
    Place,
    RunFacts,
    StageFacts,
    Stopping,
    StoreFacts,
    Working,
)
from stagerun.rules.story import summary
from stagerun.rules.why import conclusion, document, next_due, time_span

PLACE = Place(file="crawl.py", line=31, function="fetch", code="await x()", awaits="trio.sleep")


def working(item: int = 1, **options: Any) -> Working:
    given: dict[str, Any] = {
        "items": (item,),
        "key": None,
        "attempt": 1,
        "attempts": 1,
        "seconds": 4.0,
        "cut_in": 26.0,
        "cut_for": None,
        "stalls_in": None,
        "process": None,
        "mode": "async",
        "places": (PLACE,),
    }
    return Working(**(given | options))


def stage(name: str = "fetch", *under_way: Working, **options: Any) -> StageFacts:
    given: dict[str, Any] = {
        "waiting": 0,
        "limit": 100,
        "putters": 0,
        "pausing": (),
        "pausing_total": len(options.get("pausing", ())),
    }
    return StageFacts(
        name=name, working=under_way, working_total=len(under_way), **(given | options)
    )


def facts(*stages: StageFacts, **options: Any) -> RunFacts:
    given: dict[str, Any] = {
        "run": "3f2a",
        "pipeline": "crawl",
        "generation": 1,
        "status": "running",
        "as_of": "2026-01-01T00:00:00+00:00",
        "pid": 12,
        "seconds": 5.0,
        "deadline_in": 1795.0,
        "turn": None,
        "source": None,
        "store": StoreFacts(status="ok", rows=0, full=False, trouble=None),
    }
    return RunFacts(stages=stages, **(given | options))


def test_the_longest_attempt_is_named_with_its_line_and_its_deadline() -> None:
    said = conclusion(facts(stage("fetch", working(2, seconds=9.0), working(1))))
    assert "item 2 of fetch, for 9.0 s now at crawl.py:31 (fetch, in trio.sleep)" in said
    assert said.endswith("It is cut at its deadline, in 26.0 s.")


def test_a_full_mailbox_leads_to_the_stage_behind_it_and_not_to_those_that_wait() -> None:
    quick = stage("quick", working(9, seconds=50.0), waiting=100, putters=1)
    slow = stage("slow", working(1), waiting=100, putters=4)
    said = conclusion(facts(quick, slow))
    assert "item 1 of slow" in said
    assert "100 items wait in front of it, and it is full" in said


def test_a_pause_between_attempts_is_told_with_its_reason_and_its_end() -> None:
    pause = Pausing(item=7, next_attempt=2, resumes_in=12.0, why="error (refused)")
    said = conclusion(facts(stage(pausing=(pause,))))
    assert "item 7 of stage fetch to be tried again, after: error (refused)" in said
    assert "Attempt 2 begins in 12.0 s." in said


def test_what_blocks_the_loop_is_named_before_everything_else() -> None:
    place = Place(file="crawl.py", line=8, function="parse", code="time.sleep(60)")
    block = Blocked(seconds=3.0, run="3f2a", stage="parse", item=4, place=place)
    said = conclusion(facts(stage("fetch", working(seconds=100.0)), blocked=block))
    assert said.startswith(
        "Item 4 of stage parse blocks the event loop at crawl.py:8 (parse: time.sleep(60)),"
        " for 3.0 s now."
    )
    assert "Only that code itself can end it; the run's own deadline is in 29 min 55 s." in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"store": StoreFacts(status="degraded", rows=3, full=False, trouble="it is locked")},
         "3 rows wait for the database: it is locked"),
        ({"store": StoreFacts(status="ok", rows=5000, full=True, trouble=None)},
         "5000 rows wait for the database, and the stages for them"),
        ({"source": Feeding(gives_up_in=9.0, place=PLACE)},
         ("next item of its source, which stands at crawl.py:31 (fetch, in trio.sleep)."
         " The source is given up in 9.0 s.")),
        ({"deadline_in": None}, "No deadline is set that would end the wait."),
        ({}, ("Nothing holds it: its last outcomes are on their way to the disk."
             " The run's own deadline is in 29 min 55 s.")),
    ],
)  # fmt: skip
def test_each_other_wait_has_its_own_words(given: dict[str, Any], expected: str) -> None:
    assert expected in conclusion(facts(stage(), **given))


def test_a_run_that_stops_says_until_when_it_may_take() -> None:
    stopping = Stopping(status="cancelled", message="enough", seconds=1.0, ends_in=4.5)
    held = working(cut_for=0.5, cut_in=-0.5)
    given = facts(stage("fetch", held), stopping=stopping)
    assert "It was cut 0.5 s ago and is left behind after the grace" in conclusion(given)
    assert next_due(given) == (4.5, "the run ends cancelled")


def test_a_resource_that_does_not_open_is_named() -> None:
    said = conclusion(facts(stage(waiting=3, opening_gives_up_in=8.0)))
    assert said == "It waits for the resource of stage fetch. Opening is given up in 8.0 s."


def test_a_document_shows_few_items_and_tells_how_many_there_are() -> None:
    many = stage("fetch", *(working(n) for n in range(1, 101)))
    told = document(facts(many))
    assert (len(told["stages"][0]["working"]), told["stages"][0]["working_total"]) == (20, 100)
    assert told["next"] == {"what": "item 1 of fetch reaches its deadline", "in": 26.0}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (65, "1 min 05 s"),
     (7260, "2 h 01 min")],
)  # fmt: skip
def test_lengths_of_time_read_well(seconds: float, words: str) -> None:
    assert time_span(seconds) == words


def test_the_story_of_an_end_names_cause_and_commonest_failure() -> None:
    story = {
        "ended": True,
        "status": "timed_out",
        "cause": "run_deadline",
        "message": "the run's deadline of 5 s passed",
        "failures": [
            {"stage": "a", "outcome": "failed", "cause": "error", "message": "no", "count": 3},
            {"stage": "b", "outcome": "failed", "cause": "error", "message": "why", "count": 1},
        ],
    }
    assert summary(story) == (
        "It ended timed out (run_deadline): the run's deadline of 5 s passed. 4 items did not"
        " succeed, 3 of them in stage a (failed): no"
    )


def test_a_stage_that_must_beat_says_when_it_counts_as_stalled() -> None:
    said = conclusion(facts(stage("fetch", working(stalls_in=3.0))))
    assert said.endswith("It is cut as stalled in 3.0 s, unless it beats.")


def test_a_run_that_waits_in_line_names_the_key_it_waits_for() -> None:
    said = conclusion(facts(stage(), turn="customer-7", status="queued"))
    assert said == (
        "It is queued, and waits for a place of the key customer-7."
        " It begins when a run that holds one ends."
    )


def test_a_run_that_waits_for_anothers_suspect_says_so() -> None:
    told = conclusion(
        facts(stage(), behind_suspects=True, source=Feeding(gives_up_in=1, place=PLACE))
    )
    assert told.startswith("Items that were under way when a process died are tried one at a time")
    assert "waits for one of another run" in told
