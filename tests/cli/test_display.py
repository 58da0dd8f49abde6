"""The bars' forecasts, and that every picture fits its screen."""

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from stagerun.cli.board import Board
from stagerun.cli.display import Screen
from stagerun.cli.pace import expected
from stagerun.cli.progress import Failures, Line, Progress
from stagerun.cli.terminal import plain, span
from stagerun.logs import RunLog
from stagerun.model.status import Counts


def counts(name: str, accepted: int, ok: int = 0, **others: int) -> Counts:
    return Counts(name=name, accepted=accepted, ok=ok, **others)


def test_what_is_still_to_come_is_taken_to_multiply_as_before() -> None:
    stages = [counts("a", 10, 4), counts("b", 20, 5), counts("c", 0)]
    assert expected(stages, 10) == [10, 50, None]
    assert expected(stages, None) == [None, None, None]


def test_when_the_stage_before_is_done_what_was_accepted_is_all() -> None:
    stages = [counts("a", 10, 9, failed=1), counts("b", 9, 3), counts("c", 3)]
    assert expected(stages, 10) == [10, 9, 9]


STAGES = st.lists(
    st.builds(
        lambda name, done, bad, busy, more: Counts(
            name=name, accepted=done + bad + busy + more, ok=done, timed_out=bad, in_flight=busy
        ),
        st.text(min_size=1, max_size=40),
        *[st.integers(0, 10**9)] * 4,
    ),
    min_size=1,
    max_size=6,
)


@given(stages=STAGES, length=st.none() | st.integers(0, 10**9))
def test_a_forecast_is_never_less_than_what_was_accepted(
    stages: list[Counts], length: int | None
) -> None:
    for stage, total in zip(stages, expected(stages, length), strict=True):
        assert total is None or total >= stage.accepted


@given(
    stages=STAGES,
    width=st.integers(20, 250),
    height=st.integers(5, 60),
    length=st.none() | st.integers(0, 10**9),
    words=st.text(max_size=300),
    count=st.integers(0, 20),
)
def test_a_picture_fits_its_screen_and_takes_no_text_for_markup(
    stages: list[Counts], width: int, height: int, length: int | None, words: str, count: int
) -> None:
    progress = Progress(
        pipeline="[bold]crawl[/bold]",
        id="0123456789abcdef",
        status="running",
        verdict="blocked",
        percent=None,
        source_length=length,
        stages=tuple(stages),
        labels=(words,),
        notice="[/nonsense]",
        why=words,
        failures=(Failures(stage=words, outcome="failed", count=10**6, message=words),) * count,
        log=(Line(time="2026-01-02T03:04:05", level="ERROR", stage=words, message=words),) * count,
        hint="Ctrl-C",
    )
    out = io.StringIO()
    screen = Console(file=out, width=width, height=height, markup=False, legacy_windows=False)
    screen.print(Board(lambda: progress))
    lines = out.getvalue().splitlines()
    assert 4 <= len(lines) <= max(height, 10)
    assert all(cell_len(line) <= width for line in lines)
    assert "[bold]crawl"[: width - 2] in lines[0]


def test_warnings_appear_above_the_bars_and_not_too_many_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    monkeypatch.delenv("STAGERUN_LOG_LEVEL", raising=False)
    logging.getLogger("stagerun").setLevel(logging.INFO)
    log = RunLog(pipeline="crawl", run="0123456789abcdef", stage="fetch")
    with Screen().lines() as screen:
        log.info("not this")
        for number in range(50):
            log.warning("[red]%d[/red] \x1b[31m", number)
        log.error("this always")
    logging.getLogger("stagerun").setLevel(logging.NOTSET)
    lines = out.getvalue().splitlines()
    assert len(lines) == 13
    assert screen.hidden == 38
    assert lines[0].endswith("Z fetch: [red]0[/red] \\x1b[31m")
    assert lines[-1].endswith("this always")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (9.96, "10.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3600, "1 h 00 min"),
        (90_000, "1 d 01 h"),
    ],
)
def test_a_length_of_time_is_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@given(st.text(st.characters()))
def test_plain_text_cannot_move_a_cursor(text: str) -> None:
    assert not set(plain(text)) & {chr(c) for c in [*range(32), *range(127, 160), 0x202E, 0x2028]}
    plain(text).encode()  # lone surrogates too
