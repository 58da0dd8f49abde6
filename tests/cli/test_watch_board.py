"""What stands in the picture of a run, at several widths and heights."""

import io
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stagerun.cli import panels
from stagerun.cli.board import Board
from stagerun.cli.pace import Look, Pace
from stagerun.cli.progress import Failures, Line, Progress
from stagerun.model.status import Counts

SIZES = [(80, 24), (160, 50), (40, 20)]
NARROW = Counts(name="parse", accepted=60, ok=20, timed_out=2, in_flight=8)
PROGRESS = Progress(
    pipeline="crawl",
    id="0123456789abcdef",
    status="running",
    percent=61.25,
    source_length=100,
    stages=(Counts(name="fetch", accepted=100, ok=60, failed=3, in_flight=4), NARROW),
    labels=("project=demo",),
    deadline_in=1675.0,
    failures=(
        Failures(stage="fetch", outcome="failed", count=1234, message="503"),
        Failures(stage="parse", outcome="timed_out", count=2, message="deadline of 1 s passed"),
    ),
    log=tuple(
        Line(time=f"2026-01-02T03:04:{second:02}.000+00:00", level="INFO", stage=None, message="m")
        for second in range(20)
    ),
    hint="Ctrl-C detaches",
)


def drawn(progress: Progress, width: int = 160, height: int = 50) -> list[str]:
    out = io.StringIO()
    screen = Console(
        file=out, width=width, height=height, markup=False, emoji=False, highlight=False
    )
    screen.print(Board(lambda: progress, under_way=125.0))
    return out.getvalue().splitlines()


def but(**changes: Any) -> Progress:
    return attrs.evolve(PROGRESS, **changes)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_everything_that_matters_is_there_at_every_size(width: int, height: int) -> None:
    lines = drawn(PROGRESS, width, height)
    assert len(lines) <= height
    text = "\n".join(lines)
    for part in (
        "crawl", "01234567", "running", "61.2 %", "2 min 05 s", "deadline in 27 min 55 s",
        "63/100", "60 ok", "3 failed", "4 at work", "33 waiting", "2 timed out", "━", "─",
        "1,234 x fetch failed: 503", "2 x parse timed out: ", "03:04:19Z m", "Ctrl-C detaches",
    ):  # fmt: skip
        assert part in text, f"{part}\n{text}"


def test_the_last_log_lines_are_those_that_stay_when_there_is_little_room() -> None:
    short, tall = drawn(PROGRESS, 80, 20), drawn(PROGRESS, 80, 60)
    assert [line for line in tall if "Z m" in line] == [
        f"  03:04:{second:02}Z m" for second in range(20)
    ]
    few = [line for line in short if "Z m" in line]
    assert 0 < len(few) < 20
    assert few[-1] == "  03:04:19Z m"


@pytest.mark.parametrize("verdict", ["blocked", "suspended", "stalled", "slow", "store_waits"])
def test_a_verdict_that_is_not_fine_stands_in_the_head(verdict: str) -> None:
    assert f" {verdict.replace('_', ' ')} " in drawn(but(verdict=verdict))[0]


@pytest.mark.parametrize("verdict", ["alive", "queued"])
def test_a_verdict_that_is_fine_needs_no_word(verdict: str) -> None:
    assert verdict not in drawn(but(verdict=verdict))[0]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_why_is_read_to_its_end_or_is_seen_to_go_on(width: int, height: int) -> None:
    words = [f"word{number}" for number in range(20)]
    text = "\n".join(drawn(but(why=" ".join(words)), width, height))
    assert all(word in text for word in words)
    cut = drawn(but(why="endless " * 500), width, height)
    assert any(line.endswith("…") for line in cut)
    assert len(cut) <= height


def test_a_deadline_that_has_passed_is_said_so() -> None:
    assert "deadline passed" in drawn(but(deadline_in=-1.0))[0]
    assert "deadline" not in drawn(but(deadline_in=None))[0]


def test_nothing_that_stages_say_moves_the_cursor() -> None:
    evil = "\x1b[2J\x1b]0;title\x07\r\n\u202e[bold]"
    progress = but(
        pipeline=evil,
        labels=(evil,),
        notice=evil,
        why=evil,
        failures=(Failures(stage=evil, outcome="failed", count=1, message=evil),),
        log=(Line(time="2026-01-02T03:04:05", level=evil, stage=evil, message=evil),),
        stages=(Counts(name=evil, accepted=1),),
    )
    for width, height in SIZES:
        text = "\n".join(drawn(progress, width, height))
        assert not set(text) & set("\x1b\x07\r\u202e")
        assert "\\x1b[2J" in text


def test_of_too_many_stages_those_with_work_are_shown() -> None:
    idle = tuple(Counts(name=f"idle{number}", accepted=1, ok=1) for number in range(50))
    busy = Counts(name="busy", accepted=3, in_flight=1)
    lines = drawn(but(stages=(*idle, busy)), 80, 24)
    assert len(lines) <= 24
    assert any(line.startswith("busy") for line in lines)
    assert any("more stages" in line for line in lines)


def test_in_a_wide_picture_columns_stand_below_each_other() -> None:
    lines = [line for line in drawn(PROGRESS) if "at work" in line]
    assert len({line.index(" at work") for line in lines}) == 1


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=6), st.integers(0, 200))
def test_a_bar_is_as_long_as_it_is_and_shows_what_there_is(counts: list[int], width: int) -> None:
    cells = panels.divided(counts, width)
    assert sum(cells) == (width if any(counts) else 0)
    for count, length in zip(counts, cells, strict=True):
        assert (count == 0) <= (length == 0)
        if width >= len(counts):
            assert (count > 0) == (length > 0)


# -- how fast -----------------------------------------------------------------------------------


def seen(*looks: tuple[float, int, float | None]) -> Pace:
    pace = Pace()
    for at, settled, percent in looks:
        pace.see(Look(at, (settled,), percent))
    return pace


def test_a_rate_is_that_of_the_last_seconds_and_of_the_last_minute_where_little_happens() -> None:
    busy = seen((0, 0, None), (50, 5, None), (60, 105, None))
    assert busy.rates() == [10.0]
    calm = seen((0, 0, None), (50, 5, None), (60, 6, None))
    assert calm.rates() == [0.1]


def test_what_was_more_than_a_minute_ago_is_forgotten() -> None:
    assert seen((0, 1000, 90.0), (100, 1000, 90.0), (110, 1000, 90.0)).rates() == [0.0]


def test_the_time_left_follows_the_percents_of_the_last_minute() -> None:
    assert seen((0, 0, None), (1, 0, 10.0), (11, 0, 20.0)).seconds_left() == pytest.approx(80.0)
    assert seen((0, 0, 10.0), (11, 0, 10.0)).seconds_left() is None
    assert seen((0, 0, 10.0)).seconds_left() is None
    assert seen((0, 0, None), (9, 9, None)).seconds_left() is None
