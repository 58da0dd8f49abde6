"""The screen on which the picture of a run lives while the run does, and its colours."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Self

from rich.console import RenderableType
from rich.live import Live

from stagerun.cli.terminal import console, plain, say
from stagerun.logs import TextLines

__all__ = ["OUTCOMES", "Screen", "bars_fit"]

OUTCOMES: Final = {
    "ok": "green",
    "failed": "red",
    "timed_out": "yellow",
    "crashed": "bold red",
    "cancelled": "magenta",
    "skipped": "dim",
}
"""The outcomes in the order in which people want to hear of them, and their colours."""

_PER_SECOND: Final = 10
"""Frames drawn in a second."""
_LOOKS: Final = 4
"""The same where another process is watched."""
_LINES: Final = 12
"""Warnings shown above the bars at most."""


def bars_fit() -> bool:
    """Whether standard error is a screen that can be drawn on again and again."""
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    screen = console(sys.stderr)
    return screen.is_interactive and not screen.is_dumb_terminal


class Screen(logging.Handler):
    """Standard error while bars may be drawn on it: log lines appear above the bars.

    Shown are those from WARNING on (from ``STAGERUN_LOG_LEVEL`` on, when that is set), short and
    not too many: the screen is for the bars, and the run keeps its lines. While this handler is
    there, the one that otherwise writes the lines leaves them to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.console = console(sys.stderr)
        self.hidden = 0
        """Warnings that were not shown any more."""
        self._room = _LINES
        self.setFormatter(TextLines())
        chosen = os.environ.get("STAGERUN_LOG_LEVEL", "").strip()
        self._least = logging.NOTSET if chosen else logging.WARNING

    @contextmanager
    def lines(self) -> Iterator[Self]:
        """Take stagerun's log lines until the block is left."""
        logger = logging.getLogger("stagerun")
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)

    @contextmanager
    def bars(self, board: RenderableType, *, keep: bool) -> Iterator[None]:
        """Draw *board* until the block is left; *keep* leaves the last frame standing.

        What stages print on the same terminal appears above the bars, too.
        """
        shared = sys.stdout is not None and sys.stdout.isatty()
        with Live(
            board,
            console=self.console,
            refresh_per_second=_PER_SECOND,
            transient=not keep,
            redirect_stdout=shared,
        ):
            yield

    @contextmanager
    def whole(self, board: RenderableType, *, keep: bool) -> Iterator[None]:
        """Draw *board* on a screen of its own until the block is left.

        Frames are written over each other, so nothing flickers; what stood on the terminal comes
        back. *keep* leaves the last frame standing below that.
        """
        with Live(board, console=self.console, refresh_per_second=_LOOKS, screen=True):
            yield
        if keep:
            self.console.print(board)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < self._least:
            return
        if record.levelno < logging.ERROR:
            if not self._room:
                self.hidden += 1
                return
            self._room -= 1
        if record.levelno >= logging.ERROR:
            say(self.console, self._short(record), "red")
        else:
            self.console.print(
                self._short(record), style="yellow", no_wrap=True, overflow="ellipsis"
            )

    def _short(self, record: logging.LogRecord) -> str:
        """Leave out what the bars show already: the day, the pipeline and the run."""
        text: str | None = getattr(record, "stagerun_text", None)
        if text is None:
            return self.format(record)
        stage = getattr(record, "stagerun_stage", None)
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%SZ")
        return plain(f"{moment} {f'{stage}: ' if stage else ''}{text}")
