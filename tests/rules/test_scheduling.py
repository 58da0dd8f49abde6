"""Slots and decisions about them, as pure functions."""

from datetime import UTC, datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagerun import Pipeline, PolicyError, Schedule, stage
from stagerun.model.schedule import Overlap
from stagerun.rules.scheduling import Fire, Open, Skip, decide, due, next_slot, put_right

DAY = 86_400_000_000
MOMENTS = st.integers(0, 80 * 365 * DAY)
CRONS = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */3 * * *", "15 4 * * 1-5", "0 0 1 * *",
     "0 12 29 2 *", "*/20 * * * * *", "30 1,2,3 * * *"]
)  # fmt: skip
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu",
                         "Australia/Lord_Howe", "America/Sao_Paulo"])  # fmt: skip


@stage
async def nothing(_item: int) -> None: ...


PIPELINE = Pipeline("p", [nothing], source=[1])


def cron(text: str, zone: str = "UTC") -> Schedule:
    return Schedule("s", PIPELINE, cron=text, zone=zone)


def us(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def utc(slot: int) -> str:
    return datetime.fromtimestamp(slot / 1e6, UTC).isoformat()[:16]


@settings(deadline=None)
@given(CRONS, ZONES, MOMENTS)
def test_slots_come_in_order_and_none_twice(text: str, zone: str, moment: int) -> None:
    last = moment
    for _, slot in zip(range(50), cron(text, zone).slots(moment), strict=False):
        assert slot > last
        last = slot


@settings(deadline=None, max_examples=50)
@given(CRONS, ZONES, MOMENTS, st.integers(0, DAY))
def test_each_slot_is_decided_or_counted_once(text: str, zone: str, moment: int, gap: int) -> None:
    schedule = cron(text, zone)
    first = schedule.after(moment)
    now = first + gap
    found = due(schedule, first, now)
    assert found is not None
    passed = [first, *takewhile(lambda slot: slot <= now, schedule.slots(first))]
    assert found.slot == passed[-1] <= now < found.next_at
    assert found.next_at == schedule.after(found.slot)
    assert found.missed == len(passed) - 1


@given(st.floats(1, 10**6), MOMENTS, st.integers(0, 400 * DAY))
def test_an_interval_keeps_its_rhythm(every: float, first: int, gap: int) -> None:
    schedule = Schedule("s", PIPELINE, every=every)
    found = due(schedule, first, first + gap)
    assert found is not None
    step = found.next_at - found.slot
    assert found.slot <= first + gap < found.next_at
    assert (found.slot - first) == found.missed * step
    assert schedule.after(first) == first + step


def test_a_slot_to_come_is_not_due() -> None:
    assert due(cron("* * * * *"), 60_000_000, 59_999_999) is None


def test_ten_thousand_missed_minutes_are_counted_and_more_are_told_as_that() -> None:
    schedule = cron("* * * * *")
    first = us("2026-01-01")
    found = due(schedule, first, first + 400 * DAY)
    assert found is not None
    assert (found.slot, found.missed) == (first + 400 * DAY, 10_000)
    assert found.next_at == found.slot + 60_000_000


@pytest.mark.parametrize(
    ("text", "zone", "begin", "expected"),
    [
        # Spring: 02:30 does not exist on 29 March 2026 in Berlin; the slot comes right after.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00",
         ["2026-03-29T01:00", "2026-03-30T00:30"]),
        # Autumn: 02:30 comes twice on 25 October 2026; the slot comes once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00",
         ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("0 9 * * 1", "America/New_York", "2026-11-01T00:00",
         ["2026-11-02T14:00", "2026-11-09T14:00"]),
    ],
)  # fmt: skip
def test_slots_around_a_change_of_the_clocks(
    text: str, zone: str, begin: str, expected: list[str]
) -> None:
    slots = cron(text, zone).slots(us(begin, zone))
    assert [utc(next(slots)) for _ in expected] == expected


@settings(deadline=None)
@given(CRONS, MOMENTS, st.sets(st.integers(0, 8)))
def test_after_a_pause_no_slot_comes_twice(text: str, now: int, which: set[int]) -> None:
    schedule = cron(text)
    slots = [slot for _, slot in zip(range(10), schedule.slots(now), strict=False)]
    decided = {slots[index] for index in which}
    assert next_slot(schedule, now, decided) == next(s for s in slots if s not in decided)


RUNS = st.lists(st.builds(Open, st.text("abc", min_size=1, max_size=3), st.booleans()), max_size=8)


@given(st.sampled_from(["skip", "queue", "cancel_previous"]), st.integers(1, 5), RUNS)
def test_a_decision_leaves_room_or_skips(overlap: Overlap, active: int, runs: list[Open]) -> None:
    decision = decide(overlap, active, runs)
    if len(runs) < active:
        assert decision == Fire()
    elif overlap == "skip":
        assert isinstance(decision, Skip)
        assert runs[0].id in decision.reason
    elif overlap == "queue":
        assert decision == Fire()
    else:
        assert isinstance(decision, Fire)
        assert len(runs) - len(decision.cancel) == active - 1
        assert list(decision.cancel) == [run.id for run in runs[: len(decision.cancel)]]


def test_a_line_does_not_grow_for_ever() -> None:
    line = [Open("a", queued=False), *(Open(str(n), queued=True) for n in range(100))]
    assert isinstance(decide("queue", 1, line), Skip)
    assert decide("queue", 1, line[:-1]) == Fire()


@settings(deadline=None)
@given(CRONS, MOMENTS, st.integers(1, 5), st.sets(st.integers(0, 8)))
def test_a_slot_noted_by_a_clock_that_was_ahead_is_put_right(
    text: str, now: int, ahead: int, which: set[int]
) -> None:
    schedule = cron(text)
    slots = [slot for _, slot in zip(range(9), schedule.slots(now), strict=False)]
    decided = {slots[index] for index in which}
    noted = slots[ahead]
    earlier = [slot for slot in slots[:ahead] if slot not in decided]
    assert put_right(schedule, noted, now, decided) == (earlier[0] if earlier else None)


@given(st.integers(1, 1000), MOMENTS, st.integers(0, 3_600_000_000))
def test_an_interval_keeps_its_rhythm_when_it_is_put_right(
    every: int, slot: int, back: int
) -> None:
    schedule, now = Schedule("s", PIPELINE, every=every), slot - 1 - back
    found = put_right(schedule, slot, now, ())
    if found is None:
        assert slot - now <= every * 1_000_000
    else:
        assert now < found <= now + every * 1_000_000
        assert (slot - found) % (every * 1_000_000) == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs either cron= or every="),
        ({"cron": "* * * * *", "every": 60}, "needs either cron= or every="),
        ({"every": 0.5}, "from one second to ten years"),
        ({"every": True}, "finite number above 0"),
        ({"every": 60, "zone": "Europe/Berlin"}, "goes with cron only"),
        ({"cron": "61 * * * *"}, "five fields as in a crontab"),
        ({"cron": "hourly"}, "five fields as in a crontab"),
        ({"cron": 5}, "must be text as in a crontab"),
        ({"cron": "0 0 30 2 *"}, "five fields as in a crontab"),
        ({"cron": "* * * * *", "zone": "Europe/Atlantis"}, "a time zone that this machine knows"),
        ({"cron": "* * * * *", "zone": "../etc"}, "a time zone that this machine knows"),
        ({"every": 60, "overlap": "wait"}, "skip, queue or cancel_previous"),
        ({"every": 60, "active": 0}, "whole number of at least 1"),
        ({"every": 60, "items": iter([1])}, "a list or a function"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(PolicyError, match=problem):
        Schedule("s", PIPELINE, **options)  # type: ignore[arg-type]


def test_a_run_that_might_never_end_cannot_be_scheduled() -> None:
    endless = PIPELINE.with_options(deadline=None)
    with pytest.raises(PolicyError, match="must have a deadline"):
        Schedule("s", endless, every=60)
