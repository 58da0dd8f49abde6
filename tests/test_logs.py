"""The lines that stagerun writes, in this process; tests/real has them under real servers."""

import json
import logging
import logging.config
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO, TextIOWrapper
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun.errors import SettingError
from stagerun.logs import STACK_LIMIT, TEXT_LIMIT, JsonLines, RunLog, TextLines, install

AT = 1_795_338_000_123_456  # 2026-11-22T09:00:00.123456Z in microseconds


@contextmanager
def bare_logging() -> Iterator[logging.Logger]:
    """Give the logging tree as a server leaves it: pytest's handlers are off until the end."""
    root = logging.getLogger()
    ours = [logging.getLogger(name) for name in ("stagerun", "stagerun.run")]
    saved = [(one, one.handlers[:], one.level, one.propagate) for one in (root, *ours)]
    switched_off = {name for name, one in _loggers().items() if one.disabled}
    try:
        for one, *_ in saved:
            one.handlers[:] = []
            one.propagate = True
            one.setLevel(logging.WARNING if one is root else logging.NOTSET)
        yield root
    finally:
        for one, handlers, level, propagate in saved:
            one.handlers[:] = handlers
            one.propagate = propagate
            one.setLevel(level)
        for name, one in _loggers().items():
            one.disabled = name in switched_off


def _loggers() -> dict[str, logging.Logger]:
    known = logging.Logger.manager.loggerDict.items()
    return {name: one for name, one in known if isinstance(one, logging.Logger)}


class Odd:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Kept(list[tuple[Any, ...]]):
    """A sink."""

    def __call__(self, *line: Any) -> None:
        self.append(line)


def run_log(sink: Kept | None = None) -> RunLog:
    return RunLog(pipeline="crawl", run="7f3a", sink=sink, now=lambda: AT).for_stage("fetch")


def kept_text(msg: object, *args: object, **more: Any) -> str:
    kept = Kept()
    run_log(kept).info(msg, *args, **more)
    (line,) = kept
    text = line[4]
    assert isinstance(text, str)
    return text


# Where a line is seen


def test_an_info_line_is_seen_where_no_logger_has_a_handler(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_logging(), install({}):
        run_log().warning("item %s timed out", 12, item=12)
        run_log().info("done")
    assert capsys.readouterr().err == (
        "2026-11-22T09:00:00.123Z WARNING [crawl/fetch 7f3a] item 12 timed out\n"
        "2026-11-22T09:00:00.123Z INFO [crawl/fetch 7f3a] done\n"
    )


def test_a_line_outside_a_run_has_a_prefix_too(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_logging(), install({}):
        RunLog(now=lambda: AT).info("3 runs were settled")
        logging.getLogger("stagerun.store").info("plain\nline")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "2026-11-22T09:00:00.123Z INFO [stagerun] 3 runs were settled"
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO \[stagerun\.store\] plain\\nline", second
    )


@pytest.mark.parametrize("name", ["", "stagerun", "stagerun.run"])
def test_a_handler_of_the_hosts_has_the_line_alone_even_when_it_comes_late(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = StringIO()
    with bare_logging(), install({}):
        run_log().info("before")
        logging.getLogger(name).addHandler(logging.StreamHandler(stream))
        run_log().info("after")
    assert stream.getvalue() == "[crawl/fetch 7f3a] after\n"
    assert capsys.readouterr().err.count("\n") == 1


def test_what_the_hosts_handler_leaves_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    stream = StringIO()
    with bare_logging() as root, install({}):
        only_errors = logging.StreamHandler(stream)
        only_errors.setLevel(logging.ERROR)
        root.addHandler(only_errors)
        root.addHandler(logging.NullHandler())
        run_log().info("quiet")
        run_log().error("loud")
    assert stream.getvalue() == "[crawl/fetch 7f3a] loud\n"
    assert capsys.readouterr().err.endswith("[crawl/fetch 7f3a] quiet\n")


def test_a_handler_that_propagation_does_not_reach_does_not_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = StringIO()
    with bare_logging() as root, install({}):
        root.addHandler(logging.StreamHandler(stream))
        logging.getLogger("stagerun").propagate = False
        run_log().info("here")
    assert stream.getvalue() == ""
    assert capsys.readouterr().err.endswith("here\n")


def test_a_dict_config_that_forgets_us_does_not_switch_us_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_logging(), install({}):
        run_log().info("one")
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
        run_log().info("two")
        RunLog().info("three")
    assert [line[-5:].strip() for line in capsys.readouterr().err.splitlines()] == [
        *("] one", "] two", "three"),
    ]


@pytest.mark.parametrize("where", ["root", "stagerun"])
def test_a_dict_config_with_a_handler_has_the_line_alone(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = StringIO()
    named: dict[str, Any] = {"level": "INFO", "handlers": ["console"]}
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": True,
        "handlers": {"console": {"class": "logging.StreamHandler", "stream": stream}},
        **({"root": named} if where == "root" else {"loggers": {where: named}}),
    }
    with bare_logging(), install({}):
        run_log().info("one")
        logging.config.dictConfig(config)
        run_log().info("two")
    assert stream.getvalue() == "[crawl/fetch 7f3a] two\n"
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dict_config_that_names_us_without_a_handler_holds_until_the_next_install(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = {"version": 1, "loggers": {"stagerun": {"level": "INFO"}}}
    with bare_logging(), install({}):
        logging.config.dictConfig(config)
        assert not logging.getLogger("stagerun").handlers
        with install({}):
            run_log().info("again")
        assert not logging.getLogger("stagerun").handlers
    assert capsys.readouterr().err.endswith("] again\n")


# Installing


def test_installing_twice_shows_a_line_once_and_the_last_one_out_cleans_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("stagerun")
    with bare_logging():
        first, second = install({}), install({})
        first.close()
        first.close()  # closing again does nothing
        run_log().info("once")
        assert len(logger.handlers) == 1
        second.close()
        assert logger.handlers == []
        assert logger.level == logging.NOTSET
    assert capsys.readouterr().err.count("once") == 1


def test_many_threads_install_one_handler() -> None:
    interval = sys.getswitchinterval()
    logger = logging.getLogger("stagerun")
    together = threading.Barrier(8)
    most: list[int] = []

    def come_and_go() -> None:
        together.wait(timeout=10)
        for _ in range(50):
            with install({}):
                most.append(len(logger.handlers))

    with bare_logging(), ExitStack() as undo:
        undo.callback(sys.setswitchinterval, interval)
        sys.setswitchinterval(1e-6)  # threads change places as often as they can
        threads = [threading.Thread(target=come_and_go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert set(most) == {1}
        assert len(most) == 400
        assert logger.handlers == []


def test_the_level_comes_from_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_logging(), install({"STAGERUN_LOG_LEVEL": "warning"}):
        run_log().info("quiet")
        run_log().warning("loud")
    with bare_logging(), install({"STAGERUN_LOG_LEVEL": "DEBUG"}):
        run_log().debug("whisper")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == [
        *("loud", "whisper"),
    ]


def test_a_level_that_the_host_gave_is_respected_and_left() -> None:
    logger = logging.getLogger("stagerun")
    with bare_logging():
        logger.setLevel(logging.ERROR)
        with install({"STAGERUN_LOG_LEVEL": "DEBUG"}):
            assert logger.level == logging.ERROR
        assert logger.level == logging.ERROR
        logger.setLevel(logging.NOTSET)
        with install({}):
            logger.setLevel(logging.CRITICAL)
        assert logger.level == logging.CRITICAL


@pytest.mark.parametrize(
    ("name", "value"), [("STAGERUN_LOG_LEVEL", "loud"), ("STAGERUN_LOG_FORMAT", "xml")]
)
def test_a_bad_setting_names_its_variable_and_the_choices(name: str, value: str) -> None:
    with bare_logging():
        with pytest.raises(SettingError, match=f"{name} must be one of .*, got '{value}'"):
            install({name: value})
        assert logging.getLogger("stagerun").handlers == []


def test_an_empty_setting_is_none() -> None:
    with bare_logging(), install({"STAGERUN_LOG_LEVEL": "", "STAGERUN_LOG_FORMAT": " "}):
        assert logging.getLogger("stagerun").level == logging.INFO


# What is kept with the run


def test_the_sink_has_every_event_from_info_on_whatever_the_terminal_shows() -> None:
    kept = Kept()
    with bare_logging(), install({"STAGERUN_LOG_LEVEL": "CRITICAL"}):
        run_log(kept).debug("0")
        run_log(kept).info("1")
        run_log(kept).warning("2", item="a")
        run_log(kept).error("3", item=3)
    assert kept == [
        (AT, 20, "fetch", None, "1"),
        (AT, 30, "fetch", "a", "2"),
        (AT, 40, "fetch", 3, "3"),
    ]


def test_an_exception_is_named_at_the_end_of_the_text() -> None:
    assert kept_text("failed", exc_info=ValueError("a\nb")) == "failed: ValueError: a\\nb"
    assert kept_text("failed", exc_info=KeyboardInterrupt()) == "failed: KeyboardInterrupt"
    assert kept_text("failed", exc_info=True) == "failed"
    try:
        raise OSError("disk")
    except OSError:
        assert kept_text("failed", exc_info=True) == "failed: OSError: disk"


def test_arguments_are_put_in_as_the_standard_library_does() -> None:
    assert kept_text("100 %") == "100 %"
    assert kept_text("%s of %d", "one", 2) == "one of 2"
    assert kept_text("%(done)s done", {"done": 7}) == "7 done"
    assert kept_text("%s", {}) == "{}"
    assert kept_text(404) == "404"


def test_arguments_that_do_not_fit_are_shown() -> None:
    assert kept_text("%d items", "x") == "%d items (x) (not formatted: TypeError)"
    assert kept_text("%s", 1, 2) == "%s (1, 2) (not formatted: TypeError)"
    assert kept_text("%s", Odd()) == (
        "%s (<Odd that cannot be shown>) (not formatted: RuntimeError)"
    )
    assert kept_text(Odd()) == "<Odd that cannot be shown> () (not formatted: RuntimeError)"


def test_a_long_text_is_cut_and_marked() -> None:
    assert kept_text("a" * TEXT_LIMIT) == "a" * TEXT_LIMIT
    for text in ("a" * (TEXT_LIMIT + 1), "\n" * 5_000_000):
        cut = kept_text("%s", text)
        assert len(cut) == TEXT_LIMIT
        assert cut.endswith("… (cut)")


def test_an_odd_item_is_kept_as_its_text() -> None:
    kept = Kept()
    run_log(kept).info("x", item=Odd())
    run_log(kept).info("x", item=("a\n", 1))
    assert [line[3] for line in kept] == ["<Odd that cannot be shown>", "('a\\n', 1)"]


class FalsyError(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("no")


anything = st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.builds(Odd), st.none())


@given(msg=anything, args=st.lists(anything, max_size=3), item=anything, as_json=st.booleans())
def test_no_message_raises_or_leaves_its_line(
    msg: object, args: list[object], item: object, *, as_json: bool
) -> None:
    kept, error = Kept(), StringIO()
    with bare_logging(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", error)
        with install({"STAGERUN_LOG_FORMAT": "json" if as_json else "text"}):
            run_log(kept).info(msg, *args, item=item)
            logging.getLogger("stagerun.store").info(msg, *args)
    lines = error.getvalue().splitlines()
    assert len(lines) == 2
    if as_json:
        assert json.loads(lines[0])["message"] == kept[0][4]
    else:
        assert lines[0].endswith(kept[0][4])
    kept[0][4].encode()  # no lone surrogate


# Formats


def test_json_lines_have_severity_and_where_they_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bare_logging(), install({"STAGERUN_LOG_FORMAT": "JSON"}):
        try:
            raise ValueError("boom")
        except ValueError as error:
            run_log().error("phase failed", item=12, exc_info=error)
        RunLog(now=lambda: AT).info("plain")
    with_error, plain = map(json.loads, capsys.readouterr().err.splitlines())
    stack = with_error.pop("stack_trace")
    assert stack.startswith("Traceback (most recent call last):\n")
    assert stack.endswith("ValueError: boom")
    assert with_error == {
        "time": "2026-11-22T09:00:00.123Z",
        "severity": "ERROR",
        "message": "phase failed: ValueError: boom",
        "logger": "stagerun.run",
        "pipeline": "crawl",
        "stage": "fetch",
        "run": "7f3a",
        "item": "12",
        "error_type": "ValueError",
    }
    assert plain == {
        "time": "2026-11-22T09:00:00.123Z",
        "severity": "INFO",
        "message": "plain",
        "logger": "stagerun",
    }


def test_only_events_start_in_the_first_column(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "2026-11-22T09:00:00.123Z INFO [crawl 7f3a] all is well"
    with bare_logging(), install({}):
        try:
            raise ValueError(f"x\n{forged}\x1b[2J")
        except ValueError:
            run_log().error("failed\n%s", forged, exc_info=True)
    first, *stack = capsys.readouterr().err.splitlines()
    assert first.endswith("x\\n" + forged + "\\x1b[2J")
    assert len(stack) > 3
    assert all(line.startswith("    ") for line in stack)


@pytest.mark.parametrize("char", [*"\x00\t\n\r\x1b\x7f\x9b\u061c\u200f\u2028\u202e\u2069\ud800"])
def test_what_moves_the_cursor_or_the_reading_order_is_escaped(char: str) -> None:
    escaped = char.encode("unicode_escape").decode()
    assert kept_text(f"a{char}b") == f"a{escaped}b"
    assert kept_text("é 漢 🙂") == "é 漢 🙂"


def test_an_endless_stack_loses_its_middle() -> None:
    error = ValueError("x" * 1_000_000)
    record = logging.LogRecord("a", 40, "", 0, "m", (), (ValueError, error, None))
    stack = json.loads(JsonLines().format(record))["stack_trace"]
    assert stack.startswith("ValueError: x")
    assert "characters left out" in stack
    assert len(stack) < STACK_LIMIT + 100


def test_renamed_and_foreign_levels_keep_their_severity() -> None:
    def severity(level: int) -> str:
        record = logging.LogRecord("a", level, "", 0, "m", (), None)
        record.levelname = "\x1b[31mLOUD\x1b[0m"
        return TextLines().format(record).split()[1]

    assert [severity(level) for level in (1, 10, 25, 30, 45, 99)] == [
        *("DEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    ]


# Trouble at the host's


def test_the_record_points_at_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    run_log().error("here", item=12)
    (record,) = caplog.records
    assert record.funcName == "test_the_record_points_at_the_caller"
    assert record.message == "[crawl/fetch 7f3a] here"
    fields = {name: value for name, value in vars(record).items() if name.startswith("stagerun_")}
    assert fields == {
        "stagerun_pipeline": "crawl",
        "stagerun_stage": "fetch",
        "stagerun_run": "7f3a",
        "stagerun_item": 12,
        "stagerun_text": "here",
        "stagerun_time_us": AT,
    }


def test_a_handler_of_the_hosts_that_raises_does_not_reach_the_caller(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    with bare_logging() as root, install({}):
        root.addHandler(Broken())
        run_log().info("lost?")
    assert capsys.readouterr().err == (
        "[crawl/fetch 7f3a] lost? (a logging handler raised OSError: disk full)\n"
    )


def test_an_exception_that_has_no_truth_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_logging(), install({}):
        run_log().error("failed", exc_info=FalsyError("odd"))
    assert "failed: FalsyError: odd\n" in capsys.readouterr().err


def test_a_missing_or_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = StringIO()
    closed.close()
    kept = Kept()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        with bare_logging(), install({}):
            run_log(kept).info("kept")
    assert len(kept) == 2


def test_a_terminal_of_ascii_shows_what_it_cannot_as_escapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = tmp_path / "terminal"
    with path.open("wb") as raw, TextIOWrapper(raw, encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with bare_logging(), install({}):
            run_log().info("café")
        monkeypatch.undo()
    assert path.read_bytes().endswith(b"] caf\\xe9\n")
