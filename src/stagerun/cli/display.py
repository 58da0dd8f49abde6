"""Bars that live while a run does: a line per stage, drawn from committed numbers alone."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Self

from attrs import frozen
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stagerun.cli.terminal import SHORT, console, plain, say, span
from stagerun.logs import TextLines
from stagerun.model.status import Counts

__all__ = ["OUTCOMES", "Board", "Progress", "Screen", "bars_fit", "expected"]

OUTCOMES: Final = {
    "ok": "green",
    "failed": "red",
    "timed_out": "yellow",
    "crashed": "bold red",
    "cancelled": "magenta",
    "skipped": "dim",
}
"""The outcomes in the order in which people want to hear of them, and their colours."""

_WINDOW: Final = 10.0
"""Seconds that a rate looks back."""
_PER_SECOND: Final = 10
"""Frames drawn in a second."""
_LINES: Final = 12
"""Warnings shown above the bars at most."""
_ROOMY, _TIGHT = 110, 72
"""Columns from which everything, and below which only the numbers are shown."""


@frozen(kw_only=True)
class Progress:
    """Where a run stands, as a frame needs it."""

    pipeline: str
    id: str
    status: str
    percent: float | None
    source_length: int | None
    stages: tuple[Counts, ...]
    notice: str = ""
    """One line more, when there is something to say."""


def expected(stages: Sequence[Counts], source_length: int | None) -> list[float | None]:
    """Tell for each stage how many items it will have had in the end, or None: nobody knows yet.

    What is still to come from the stage before is taken to multiply as what came until now.
    """
    totals = list[float | None]()
    for index, stage in enumerate(stages):
        if index == 0:
            total = None if source_length is None else float(max(source_length, stage.accepted))
        else:
            before, until = stages[index - 1], totals[-1]
            left = None if until is None else until - before.settled
            if left is None:
                total = None
            elif left <= 0:
                total = float(stage.accepted)
            elif before.settled and stage.accepted:
                total = stage.accepted + left * stage.accepted / before.settled
            else:
                total = None
        totals.append(total)
    return totals


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
    def bars(self, board: "Board", *, keep: bool) -> Iterator[None]:
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


class Board:
    """The picture of a run. Each frame asks *read* where the run stands.

    *under_way* is for how many seconds the run had been so before.
    """

    def __init__(self, read: Callable[[], Progress], *, under_way: float = 0.0) -> None:
        self._read = read
        self._began = time.monotonic() - under_way
        self._past = deque[tuple[float, tuple[int, ...]]]()
        """When a frame was drawn and what was settled then, over the last seconds."""

    def __rich_console__(self, _screen: Console, options: ConsoleOptions) -> RenderResult:
        progress, now = self._read(), time.monotonic()
        rates = self._rates(progress, now)
        yield self._head(progress, now)
        yield _lines(progress, rates, options.max_width)
        if progress.notice:
            yield Text(plain(progress.notice), style="yellow", no_wrap=True, overflow="ellipsis")

    def _rates(self, progress: Progress, now: float) -> list[float]:
        """Return what each stage settles in a second."""
        settled = tuple(stage.settled for stage in progress.stages)
        self._past.append((now, settled))
        while now - self._past[0][0] > _WINDOW:
            self._past.popleft()
        then, before = self._past[0]
        if now - then < 0.5:
            return [0.0] * len(settled)
        return [(new - old) / (now - then) for new, old in zip(settled, before, strict=True)]

    def _head(self, progress: Progress, now: float) -> Text:
        parts = [progress.status]
        if progress.percent is not None:
            parts.append(f"{progress.percent:.1f} %")
        parts.append(span(now - self._began))
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(plain(progress.pipeline), style="bold")
        head.append(f"  {progress.id[:SHORT]}", style="cyan")
        return head.append("  " + " · ".join(parts))


def _lines(progress: Progress, rates: Sequence[float], width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    roomy, tight = width >= _ROOMY, width < _TIGHT
    table.add_column(max_width=max(8, width // 5), no_wrap=True, overflow="ellipsis")
    if not tight:
        table.add_column(no_wrap=True)
    for justify in ("right", "left"):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    for _ in range(3 if roomy else 0 if tight else 1):
        table.add_column(justify="right", no_wrap=True)
    totals = expected(progress.stages, progress.source_length)
    for stage, total, rate in zip(progress.stages, totals, rates, strict=True):
        cells: list[Any] = [Text(plain(stage.name))]
        if not tight:
            cells.append(_bar(stage, total, 30 if roomy else 16))
        cells += [Text(_share(stage, total)), _outcomes(stage, short=not roomy)]
        left = Text(_left(stage, total, rate), style="cyan")
        if roomy:
            busy = f"{stage.in_flight:,} at work" if stage.in_flight else ""
            cells += [Text(busy, style="dim"), Text(_rate(rate)), left]
        elif not tight:
            cells.append(left)
        table.add_row(*cells)
    return table


def _bar(stage: Counts, total: float | None, width: int) -> ProgressBar:
    bad = stage.failed + stage.timed_out + stage.crashed
    style = "yellow" if bad else "green"
    return ProgressBar(
        total=max(total or 0.0, 1.0),
        completed=stage.settled if total else 0.0,
        width=width,
        complete_style=style,
        finished_style=style,
    )


def _share(stage: Counts, total: float | None) -> str:
    if total is None:
        return f"{stage.settled:,}" if stage.accepted else "-"
    return f"{stage.settled:,}/{'' if total == int(total) else '~'}{round(total):,}"


def _outcomes(stage: Counts, *, short: bool) -> Text:
    """Name the counts that are not zero; short on room, ok goes without its word."""
    text = Text()
    for outcome, style in OUTCOMES.items():
        if count := getattr(stage, outcome):
            word = "" if short and outcome == "ok" else f" {outcome.replace('_', ' ')}"
            text.append(f"{'  ' if text else ''}{count:,}{word}", style=style)
    return text


def _rate(rate: float) -> str:
    if rate <= 0:
        return ""
    if rate < 0.1:
        return f"{rate * 60:.1f}/min"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def _left(stage: Counts, total: float | None, rate: float) -> str:
    if total is None or rate <= 0 or total <= stage.settled:
        return ""
    return f"{span((total - stage.settled) / rate)} left"
