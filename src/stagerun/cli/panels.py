"""The parts of a run's picture, as rows of text that fit a width. Nothing here asks anybody."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from stagerun.cli.display import OUTCOMES
from stagerun.cli.progress import Failures, Line, Progress
from stagerun.cli.terminal import SHORT, plain, span
from stagerun.model.status import Counts

__all__ = ["divided", "failures", "head", "log", "reasons", "row", "stages"]

_NARROW: Final = 72
"""Columns below which the head takes two rows, and bars are short."""
_WIDE: Final = 110
"""Columns from which a stage has room for everything in one row."""
_REASONS: Final = 5
"""Rows that the reasons take at most."""
_LOUD: Final = {
    "blocked": "bold white on red",
    "dead": "bold white on red",
    "suspended": "bold white on red",
    "store_waits": "bold black on yellow",
    "stalled": "bold black on yellow",
    "slow": "bold black on yellow",
    "unknown": "bold black on yellow",
}
"""The verdicts that are not fine."""
_LEVELS: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}

Stage = tuple[Counts, float | None, float]
"""A stage, how many items it will have had, and what it settles in a second."""


def row(text: str | Text, width: int, style: str = "") -> Text:
    """Return one row of at most *width* columns; what does not fit is cut, and shown to be."""
    made = Text(plain(text), style=style) if isinstance(text, str) else text
    made.no_wrap, made.overflow, made.end = True, "ellipsis", "\n"
    made.truncate(width, overflow="ellipsis")
    return made


def head(
    progress: Progress, seconds: float, rate: float, left: float | None, width: int
) -> list[Text]:
    """Name the run, how it does, and its times; two rows where one is too short."""
    name = Text()
    name.append(plain(progress.pipeline), style="bold")
    name.append(f"  {progress.id[:SHORT]}", style="cyan")
    name.append("  ")
    if progress.verdict in _LOUD:
        name.append(f" {_said(progress.verdict)} ", style=_LOUD[progress.verdict])
        name.append(" ")
    times = [Text(each) for each in _times(progress, seconds, rate, left)]
    labels = Text("".join(f"  {plain(label)}" for label in progress.labels), style="dim")
    whole = Text.assemble(name, Text(" · ").join(times))
    if whole.cell_len <= width:
        return [row(whole.append_text(labels), width)]
    return [row(name.append_text(labels), width), *_packed(times, width, between=" · ")]


def _times(progress: Progress, seconds: float, rate: float, left: float | None) -> Iterator[str]:
    yield progress.status
    if progress.percent is not None:
        yield f"{progress.percent:.1f} %"
    yield span(seconds)
    if rate > 0:
        yield _rate(rate)
    if left is not None:
        yield f"{span(left)} left"
    if progress.deadline_in is not None:
        passed = progress.deadline_in < 0
        yield "deadline passed" if passed else f"deadline in {span(progress.deadline_in)}"


# -- stages ---------------------------------------------------------------------------------------


def stages(known: Sequence[Stage], width: int, *, detailed: bool) -> list[Text]:
    """Return a row for each stage; *detailed* where it is narrow: more of them, with all counts."""
    wide, narrow = width >= _WIDE, width < _NARROW
    shares = [_share(each, total) for each, total, _ in known]
    share = max([len(text) for text in shares], default=0)
    longest = max([cell_len(plain(each.name)) for each, _, _ in known], default=0)
    name = min(longest, width // 3 if narrow else width // 5)
    bar = width // 4 if not narrow else max(0, width - name - share - 4) if detailed else 0
    rows, tails = list[Text](), list[list[Text]]()
    for (each, total, rate), told in zip(known, shares, strict=True):
        line = Text(plain(each.name))
        line.truncate(name, overflow="ellipsis", pad=True)
        if bar:
            line.append("  ").append_text(_bar(each, total, bar))
        rows.append(line.append(f"  {told:>{share}}"))
        counts = list(_outcomes(each, words=wide or detailed))
        crowd = [Text(text, style="dim") for text in _crowd(each)]
        speed = Text("" if narrow and detailed else _rate(rate), style="cyan")
        left = Text(_left(each, total, rate), style="cyan")
        if wide:
            tails.append([_joined(counts), _joined(crowd), speed, left])
        else:
            tails.append([*counts, *crowd, speed, left] if detailed else [*counts, left])
    if wide or not detailed:
        tails = _aligned(tails) if wide else tails
        pairs = zip(rows, tails, strict=True)
        return [row(Text("  ").join([line, *filter(None, tail)]), width) for line, tail in pairs]
    return [
        each
        for line, tail in zip(rows, tails, strict=True)
        for each in (row(line, width), *_packed(filter(None, tail), width, indent="  "))
    ]


def _joined(parts: Sequence[Text]) -> Text:
    return Text("  ").join(parts)


def _aligned(table: Sequence[Sequence[Text]]) -> list[list[Text]]:
    """Make the cells of each column equally wide."""
    columns = [max(cell.cell_len for cell in column) for column in zip(*table, strict=True)]
    for cells in table:
        for cell, width in zip(cells, columns, strict=True):
            cell.pad_right(width - cell.cell_len)
    return [list(cells) for cells in table]


def _bar(stage: Counts, total: float | None, width: int) -> Text:
    """Draw what became of the items, each outcome in its colour, over what is to come."""
    whole = max(total or 0.0, float(stage.settled))
    bar = Text()
    if total and whole:
        done = round(width * stage.settled / whole)
        if stage.settled < whole:
            done = min(done, width - 1)
        cells = divided([getattr(stage, name) for name in OUTCOMES], done)
        for count, style in zip(cells, OUTCOMES.values(), strict=True):
            bar.append("━" * count, style=style)
    return bar.append("─" * (width - len(bar)), style="bright_black")


def divided(counts: Sequence[int], width: int) -> list[int]:
    """Divide *width* cells by *counts*: what is there at all is seen, as far as there is room."""
    cells = [0] * len(counts)
    for index, count in enumerate(counts):
        cells[index] = int(count > 0 and sum(cells) < width)
    total, rest = sum(counts), width - sum(cells)
    if total:
        cells = [cell + rest * count // total for cell, count in zip(cells, counts, strict=True)]
        cells[counts.index(max(counts))] += width - sum(cells)
    return cells


def _share(stage: Counts, total: float | None) -> str:
    if total is None:
        return f"{stage.settled:,}" if stage.accepted else "-"
    return f"{stage.settled:,}/{'' if total == int(total) else '~'}{round(total):,}"


def _outcomes(stage: Counts, *, words: bool) -> Iterator[Text]:
    """Name the counts that are not zero; without *words*, ok goes without its own."""
    for outcome, style in OUTCOMES.items():
        if count := getattr(stage, outcome):
            word = f" {_said(outcome)}" if words or outcome != "ok" else ""
            yield Text(f"{count:,}{word}", style=style)


def _crowd(stage: Counts) -> Iterator[str]:
    if stage.in_flight:
        yield f"{stage.in_flight:,} at work"
    if stage.waiting:
        yield f"{stage.waiting:,} waiting"


def _left(stage: Counts, total: float | None, rate: float) -> str:
    if total is None or rate <= 0 or total <= stage.settled:
        return ""
    return f"{span((total - stage.settled) / rate)} left"


def _rate(rate: float) -> str:
    if rate <= 0:
        return ""
    if rate < 0.1:
        return f"{rate * 60:.1f}/min"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def _packed(
    parts: Iterable[Text], width: int, *, between: str = "  ", indent: str = ""
) -> list[Text]:
    """Put parts beside each other, as many in a row as there is room for."""
    rows = list[Text]()
    for part in parts:
        if rows and rows[-1].cell_len + len(between) + part.cell_len <= width:
            rows[-1].append(between).append_text(part)
        else:
            rows.append(Text(indent).append_text(part))
    return [row(each, width) for each in rows]


# -- what people must know ------------------------------------------------------------------------


def reasons(progress: Progress, width: int) -> list[Text]:
    """Say why the run does not move, and whatever else there is to say."""
    style = "red" if "red" in _LOUD.get(progress.verdict, "") else "yellow"
    rows = list[Text]()
    for sentence in (progress.why, progress.notice):
        words = " ".join(plain(part) for part in sentence.split())
        rows += _folded(words, width, style)
    if len(rows) > _REASONS:
        rows = rows[:_REASONS]
        rows[-1] = row(Text(f"{rows[-1].plain[: width - 1]}…", style=style), width)
    return rows


def _folded(words: str, width: int, style: str) -> list[Text]:
    """Break a sentence into rows, between words where that can be done."""
    lines = [""]
    for word in words.split():
        rest = word
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(rest) <= width:
            lines[-1] += f" {rest}"
            continue
        if lines[-1]:
            lines.append("")
        while cell_len(rest) > width:
            part = Text(rest)
            part.truncate(width)
            lines[-1] = part.plain
            rest = rest[max(1, len(part.plain)) :]
            lines.append("")
        lines[-1] = rest
    return [row(Text(line, style=style), width) for line in lines if line]


def failures(sorts: Sequence[Failures], width: int) -> list[Text]:
    """List what went wrong, below a title; nothing when nothing did."""
    if not sorts:
        return []
    digits = max(len(f"{each.count:,}") for each in sorts)
    rows = [row("what went wrong", width, "dim")]
    for each in sorts:
        line = Text.assemble(
            f"  {each.count:>{digits},} x {plain(each.stage)} ",
            (_said(each.outcome), OUTCOMES.get(each.outcome, "")),
            f": {plain(each.message)}",
        )
        rows.append(row(line, width))
    return rows


def log(lines: Sequence[Line], width: int) -> list[Text]:
    """List log lines, below a title; nothing when there are none."""
    if not lines:
        return []
    rows = [row("log", width, "dim")]
    for line in lines:
        where = f"{plain(line.stage)}: " if line.stage else ""
        text = Text.assemble(
            (f"  {line.time[11:19]}Z ", "dim"),
            (f"{where}{plain(line.message)}", _LEVELS.get(line.level, "")),
        )
        rows.append(row(text, width))
    return rows


def _said(name: str) -> str:
    return name.replace("_", " ")
