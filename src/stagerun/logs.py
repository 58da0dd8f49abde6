"""What stagerun says while it works: one event, one line, seen exactly once.

Lines go to the standard library's logger ``stagerun``, those of runs to ``stagerun.run``. Most
servers leave the root logger without a handler, and then the standard library drops whatever is
below WARNING. So an open runtime puts a handler of ours on ``stagerun``. It writes to standard
error, and only what no handler of the host's would take at that moment: nothing is lost and
nothing is doubled, however late the host configures logging.

A line is text, or with ``STAGERUN_LOG_FORMAT=json`` one JSON object::

    2026-11-22T09:00:00.123Z WARNING [crawl/fetch 7f3a] item 12 timed out after 30 s

The stack of an exception follows its line of text, indented: only events start in column one.
``STAGERUN_LOG_LEVEL`` (INFO by default) holds unless the host gave ``stagerun`` a level itself.

A host's ``dictConfig`` switches off every existing logger that it does not name, by default and
mostly unawares, so `RunLog` switches its logger on again: who wants silence sets a level. A
``dictConfig`` that does name ``stagerun`` replaces our handler until the next runtime opens.
"""

import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from stagerun.errors import SettingError
from stagerun.redaction import redacted

__all__ = ["STACK_LIMIT", "TEXT_LIMIT", "JsonLines", "RunLog", "Sink", "TextLines", "install"]

TEXT_LIMIT: Final = 4_000
"""Characters kept of one event's text; the cut is marked."""

STACK_LIMIT: Final = 16_000
"""Characters kept of one event's stack; what is left out is its middle."""

Sink = Callable[[int, int, str | None, int | str | None, str], None]
"""Takes an event's time (microseconds since 1970), level (20 is INFO), stage, item and text."""

_Exc = BaseException | bool | None
_LEVELS: Final = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_CUT: Final = "… (cut)"
_BEYOND: Final = 500  # characters that are looked at: a secret must not be known by halves
# Control characters, line separators, marks that reorder text on a screen, lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_INSTALLING: Final = threading.Lock()  # the logging tree belongs to the process, so does its guard


def install(environ: Mapping[str, str] = os.environ) -> ExitStack:
    """Make stagerun's lines visible until the returned stack is closed (``with`` does it).

    Installing again only counts, from any thread; the last one to close removes the handler and
    the level. Level and format are those of the first.

    Raises:
        SettingError: ``STAGERUN_LOG_LEVEL`` or ``STAGERUN_LOG_FORMAT`` holds a bad value.
    """
    level = _LEVELS[_setting(environ, "STAGERUN_LOG_LEVEL", "INFO", _LEVELS)]
    lines = _setting(environ, "STAGERUN_LOG_FORMAT", "text", ("text", "json"))
    logger = logging.getLogger("stagerun")
    with _INSTALLING:
        terminal = next((h for h in logger.handlers if isinstance(h, _Terminal)), None)
        if terminal is None:
            terminal = _Terminal(TextLines() if lines == "text" else JsonLines())
            logger.addHandler(terminal)
            if logger.level == logging.NOTSET:
                logger.setLevel(level)
                terminal.level_given = level
        terminal.installs += 1
    stack = ExitStack()
    stack.callback(_uninstall, terminal)
    return stack


@frozen(kw_only=True)
class RunLog:
    """The voice of a run, or of one stage of it; without a run, of stagerun itself.

    Every event from INFO on also goes to *sink*, whatever the terminal's level is, so that a run's
    last lines can be kept with it. The sink is called in the thread that logs and must not wait.
    No argument, however odd, and no handler of the host's makes a call raise. The exception given
    as *exc_info* (True: the one being handled) is named at the end of the text.
    """

    pipeline: str | None = None
    run: str | None = None
    stage: str | None = None
    sink: Sink | None = None
    now: Callable[[], int] = lambda: time.time_ns() // 1_000  # microseconds since 1970

    def for_stage(self, name: str) -> "RunLog":
        return evolve(self, stage=name)

    def debug(self, msg: object, *args: object, item: object = None, exc_info: _Exc = None) -> None:
        self._log(logging.DEBUG, msg, args, item, exc_info)

    def info(self, msg: object, *args: object, item: object = None, exc_info: _Exc = None) -> None:
        self._log(logging.INFO, msg, args, item, exc_info)

    def warning(
        self, msg: object, *args: object, item: object = None, exc_info: _Exc = None
    ) -> None:
        self._log(logging.WARNING, msg, args, item, exc_info)

    def error(self, msg: object, *args: object, item: object = None, exc_info: _Exc = None) -> None:
        self._log(logging.ERROR, msg, args, item, exc_info)

    def _log(
        self, level: int, msg: object, args: tuple[object, ...], item: object, exc_info: _Exc
    ) -> None:
        logger = logging.getLogger("stagerun.run" if self.run else "stagerun")
        logger.disabled = False  # by a dictConfig that did not name it; see the module's head
        enabled = logger.isEnabledFor(level)
        if not enabled and level < logging.INFO:
            return
        error = sys.exception() if exc_info is True else exc_info
        text = _formatted(msg, args)
        if isinstance(error, BaseException):
            exception = (type(error), error, error.__traceback__)
            text = f"{text}: {_summary(error)}"
        else:
            exception = None
        text = _one_line(text)
        if item is not None and type(item) is not int:
            item = _one_line(_said(item))
        time_us = self.now()
        if self.sink is not None and level >= logging.INFO:
            self.sink(time_us, level, self.stage, item, text)
        if enabled:
            fields = {
                "pipeline": self.pipeline,
                "stage": self.stage,
                "run": self.run,
                "item": item,
                "text": text,
                "time_us": time_us,
            }
            # A host's record factory may set `stage` or `run` too, and a clash would raise.
            extra = {f"stagerun_{name}": value for name, value in fields.items()}
            try:
                words = (self._prefix(), text)
                logger.log(level, "%s %s", *words, exc_info=exception, extra=extra, stacklevel=3)
            except Exception as failure:  # noqa: BLE001 - a host's handler must not end a run
                _write(f"{self._prefix()} {text} (a logging handler raised {_summary(failure)})")

    def _prefix(self) -> str:
        place = self.pipeline or "stagerun"
        place = f"{place}/{self.stage}" if self.stage else place
        return _one_line(f"[{place} {self.run}]" if self.run else f"[{place}]")


class TextLines(logging.Formatter):
    """Formats a record as time, level, ``[pipeline/stage run]`` and text; never raises."""

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "stagerun_text"):
            message = _escaped(_formatted(record.msg, record.args))
        else:  # not from a RunLog
            message = _one_line(f"[{record.name}] {_formatted(record.msg, record.args)}")
        stack = "".join(f"\n    {_escaped(line)}" for line in _stack(record))
        return f"{_time(record)} {_severity(record.levelno)} {message}{stack}"


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON in ASCII, named as Cloud Logging does; never raises."""

    def format(self, record: logging.LogRecord) -> str:
        text: str | None = getattr(record, "stagerun_text", None)
        if text is None:  # not from a RunLog
            text = _one_line(_formatted(record.msg, record.args))
        fields = {
            "time": _time(record),
            "severity": _severity(record.levelno),
            "message": text,
            "logger": record.name,
        }
        for name in ("pipeline", "stage", "run", "item"):
            if (value := getattr(record, f"stagerun_{name}", None)) is not None:
                fields[name] = _said(value)  # an item too: log stores want one type per field
        if record.exc_info and (error := record.exc_info[1]) is not None:
            fields["error_type"] = type(error).__qualname__
            fields["stack_trace"] = "\n".join(_stack(record))
        return json.dumps(fields)


class _Terminal(logging.Handler):
    """Writes to standard error what nobody else shows."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.installs = 0  # guarded by _INSTALLING, as is the level that came with this handler
        self.level_given: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        others = (h for h in _handlers(record.name) if not isinstance(h, _Terminal))
        if not any(_takes(handler, record) for handler in others):
            _write(self.format(record))


def _uninstall(terminal: _Terminal) -> None:
    logger = logging.getLogger("stagerun")
    with _INSTALLING:
        terminal.installs -= 1
        if terminal.installs == 0:
            logger.removeHandler(terminal)
            terminal.close()
            if logger.level == terminal.level_given:
                logger.setLevel(logging.NOTSET)


def _setting(environ: Mapping[str, str], name: str, default: str, choices: Iterable[str]) -> str:
    given = environ.get(name, "").strip() or default
    for choice in choices:
        if choice.lower() == given.lower():
            return choice
    raise SettingError(name, f"must be one of {', '.join(choices)}, got {given!r}")


def _handlers(name: str) -> Iterator[logging.Handler]:
    """Every handler that a record of the logger *name* comes to."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def _takes(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Tell by the level alone: a filter may count or rewrite, so it is not asked twice."""
    return handler.level <= record.levelno and not isinstance(handler, logging.NullHandler)


def _write(line: str) -> None:
    stream = sys.stderr  # looked up each time: hosts and tests replace it
    with suppress(Exception):  # it may be None, closed or broken; the sink has the line
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def _time(record: logging.LogRecord) -> str:
    time_us = getattr(record, "stagerun_time_us", int(record.created * 1e6))
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _severity(level: int) -> str:
    """The name of the level at or below; hosts rename levels, some with colours."""
    return next((name for name, least in reversed(_LEVELS.items()) if level >= least), "DEBUG")


def _formatted(msg: object, args: object) -> str:
    """Put *args* into *msg* as the standard library does, and show both where that fails."""
    try:
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
            args = args[0]  # for "%(name)s"
        return str(msg) % args if args else str(msg)
    except Exception as error:  # noqa: BLE001 - user's objects may raise anything when shown
        values = args if isinstance(args, tuple) else (args,)
        shown = ", ".join(_said(value) for value in values)
        return f"{_said(msg)} ({shown}) (not formatted: {type(error).__name__})"


def _summary(error: BaseException) -> str:
    said = _said(error)
    return f"{type(error).__qualname__}: {said}" if said else type(error).__qualname__


def _said(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - user's objects may raise anything when shown
        return f"<{type(value).__name__} that cannot be shown>"


def _stack(record: logging.LogRecord) -> list[str]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return []
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as failure:  # noqa: BLE001 - so may their exceptions
        text = f"{type(error).__qualname__} (no stack: {type(failure).__name__})"
    if len(text) > STACK_LIMIT:
        half, left_out = STACK_LIMIT // 2, len(text) - STACK_LIMIT
        first = redacted(text[: half + _BEYOND])[:half]
        last = redacted(text[-half - _BEYOND :])[-half:]
        text = f"{first}\n… {left_out} characters left out …\n{last}"
    else:
        text = redacted(text)
    return text.rstrip("\n").split("\n")


def _one_line(text: str) -> str:
    line = _escaped(redacted(text[: TEXT_LIMIT + _BEYOND])[: TEXT_LIMIT + 1])
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - len(_CUT)] + _CUT


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
