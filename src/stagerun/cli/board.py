"""The picture of a run that `run` and `watch` draw: it fills the room it gets, and no more.

Where there is little, what stands last goes first: the head, the stages, why the run does not move,
what went wrong, the log.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from stagerun.cli import panels
from stagerun.cli.pace import Look, Pace, expected
from stagerun.cli.progress import Line, Progress
from stagerun.model.status import Counts

__all__ = ["Board"]

_LOG: Final = 20
"""Log lines that are shown at most."""
_ERRORS: Final = 3
"""Sorts of failures that are shown at most."""
_ROOM: Final = 6
"""Rows that must be left for the rest when a stage gets more than one."""


class Board:
    """The picture of a run. Each frame asks *read* where the run stands.

    *under_way* is for how many seconds the run had been so before.
    """

    def __init__(self, read: Callable[[], Progress], *, under_way: float = 0.0) -> None:
        self._read = read
        self._began = time.monotonic() - under_way
        self._pace = Pace()

    def __rich_console__(self, _screen: Console, options: ConsoleOptions) -> RenderResult:
        progress, now = self._read(), time.monotonic()
        settled = tuple(stage.settled for stage in progress.stages)
        self._pace.see(Look(now, settled, progress.percent))
        yield from self._rows(progress, now, options.max_width, options.max_height)

    def _rows(self, progress: Progress, now: float, width: int, height: int) -> Sequence[Text]:
        rates = self._pace.rates()
        rate = progress.rate if progress.rate is not None else [0.0, *rates][-1]
        left = progress.left if progress.left is not None else self._pace.seconds_left()
        rows = panels.head(progress, now - self._began, rate, left, width)
        why = panels.reasons(progress, width)
        hint = [panels.row(progress.hint, width, "dim")] if progress.hint else []
        room = height - len(hint)
        rows += _stages(progress, rates, width, room - len(rows) - len(why))
        rows += why
        failures = panels.failures(progress.failures[: _fitting(_ERRORS, room - len(rows))], width)
        rows += [Text(), *failures] if failures else []
        log = panels.log(_last(progress.log, _fitting(_LOG, room - len(rows))), width)
        rows += [Text(), *log] if log else []
        if hint and height - len(rows) > len(hint):
            rows.append(Text())
        return [*rows, *hint]


def _fitting(most: int, room: int) -> int:
    """Return how many rows of a panel fit, below an empty one and its title."""
    return max(0, min(most, room - 2))


def _last(lines: Sequence[Line], count: int) -> Sequence[Line]:
    return lines[max(0, len(lines) - count) :]


_Known = tuple[Counts, float | None, float]
"""A stage, how many items it will have had, and what it settles in a second."""


def _stages(progress: Progress, rates: Sequence[float], width: int, room: int) -> list[Text]:
    totals = expected(progress.stages, progress.source_length)
    known = list(zip(progress.stages, totals, rates, strict=True))
    detailed = panels.stages(known, width, detailed=True)
    if len(detailed) <= room - _ROOM:
        return detailed
    if len(known) <= max(room, 2):
        return panels.stages(known, width, detailed=False)
    shown = _busiest(known, max(room - 1, 1))
    rows = panels.stages(shown, width, detailed=False)
    return [*rows, panels.row(f"and {len(known) - len(shown)} more stages", width, "dim")]


def _busiest(stages: Sequence[_Known], count: int) -> list[_Known]:
    """Return so many stages in their order: those with work first."""

    def rank(index: int) -> tuple[bool, bool, int]:
        counts = stages[index][0]
        return not counts.in_flight, not counts.waiting, -counts.accepted

    return [stages[index] for index in sorted(sorted(range(len(stages)), key=rank)[:count])]
