"""What people read about runs: the table of the stages, the failures, and what to type next."""

import os
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stagerun.cli.display import OUTCOMES
from stagerun.cli.terminal import SHORT, ago, plain, say, span

__all__ = [
    "STATUS_STYLES",
    "command",
    "log_text",
    "print_details",
    "print_runs",
    "print_statistics",
    "print_summary",
]

STATUS_STYLES: Final = {
    "queued": "dim",
    "running": "cyan",
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "bold magenta",
    "timed_out": "bold yellow",
    "interrupted": "bold yellow",
}
_ALWAYS: Final = ("ok", "failed", "timed_out")
"""Outcomes that have a column even when all are zero."""
_LEFT: Final = ("cancelled", "in_flight", "waiting")
"""What every resume goes on with."""
_LOST: Final = ("failed", "timed_out", "crashed")
"""What only a resume with ``--failed`` repeats."""
_UNDONE: Final = ("failed", "cancelled", "timed_out", "interrupted")
_NARROW: Final = 68
"""Columns below which the table of stages is drawn without its frame and times."""


def print_summary(
    screen: Console, document: dict[str, Any], failures: Sequence[dict[str, Any]], database: Path
) -> None:
    """Print how a run ended: for the end of ``run`` and ``watch``."""
    _print_head(screen, document)
    screen.print(_stage_table(document["stages"], narrow=screen.width < _NARROW))
    _print_failures(screen, document["stages"], failures)
    short = document["id"][:SHORT]
    screen.print()
    say(screen, Text.assemble(("database  ", "dim"), plain(database.absolute())))
    label = "next"
    for words in (("show", short), ("logs", short), _going_on(document)):
        if words:
            say(screen, Text.assemble((f"{label:<10}", "dim"), command(database, *words)))
        label = ""


def print_details(
    screen: Console, document: dict[str, Any], failures: Sequence[dict[str, Any]]
) -> None:
    """Print all about one run: for ``show``."""
    _print_head(screen, document)
    code = (document["error"] or {}).get("code")
    report = document["step"] if document["finished_at"] is None else None
    facts = {
        "id": document["id"],
        "percent": None if document["percent"] is None else f"{document['percent']:.1f}",
        "step": report,
        "cause": document["cause"],
        "error": code if code != document["cause"] else None,
        "generation": document["generation"] if document["generation"] > 1 else None,
        "target": document["target"],
        "labels": ", ".join(f"{name}={value}" for name, value in document["labels"].items()),
        "params": document["params"] or None,
        "created": _moment(document["created_at"]),
        "updated": _moment(document["updated_at"]),
        "finished": _moment(document["finished_at"]),
        "deadline": None if document["finished_at"] else _moment(document["deadline_at"]),
    }
    for name, value in facts.items():
        if value not in (None, ""):
            say(screen, Text.assemble((f"{name:<11}", "dim"), plain(value)))
    screen.print(_stage_table(document["stages"], narrow=screen.width < _NARROW))
    _print_failures(screen, document["stages"], failures)
    if document["recent_logs"]:
        say(screen, "\nlast log lines", style="dim")
        for line in document["recent_logs"][-8:]:
            say(screen, log_text(line))


def print_runs(screen: Console, runs: Sequence[dict[str, Any]]) -> None:
    """Print a line per run: for ``runs``."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.expand = screen.is_terminal  # so that the last column alone gives way
    for name in ("run", "pipeline", "status", "%", "created", "took"):
        right = name in ("%", "took")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("labels and message", no_wrap=True, overflow="ellipsis", ratio=1)
    for run in runs:
        labels = [f"{name}={value}" for name, value in run["labels"].items()]
        words = " ".join([*labels, run["message"] or ""]).strip()
        table.add_row(
            Text(run["id"][:SHORT], style="cyan"),
            plain(run["pipeline"]),
            Text(_said(run["status"]), style=STATUS_STYLES[run["status"]]),
            "" if run["percent"] is None else str(int(run["percent"])),
            ago(run["created_at"]),
            _took(run),
            plain(words),
        )
    screen.print(table)


def print_statistics(screen: Console, document: dict[str, Any]) -> None:
    """Print durations and endings: for ``stats``."""
    seconds = document["seconds"]
    endings = ", ".join(
        f"{count:,} {_said(status)}" for status, count in document["by_status"].items()
    )
    say(
        screen,
        Text.assemble(
            (plain(document["pipeline"]), "bold"),
            f"  {document['runs']:,} ended since {document['since'][:19]}Z",
            f", {document['running']:,} under way" if document["running"] else "",
        ),
    )
    facts = {
        "endings": endings,
        "median": None if seconds["median"] is None else span(seconds["median"]),
        "p99": None if seconds["p99"] is None else span(seconds["p99"]),
        "longest": None if seconds["longest"] is None else span(seconds["longest"]),
        "timeouts": f"{document['by_status'].get('timed_out', 0):,} runs,"
        f" {document['timed_out_items']:,} items",
    }
    for name, value in facts.items():
        if value:
            say(screen, Text.assemble((f"{name:<10}", "dim"), value))


def log_text(line: dict[str, Any]) -> Text:
    """Return one kept log line as the terminal shows it."""
    style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}.get(line["level"], "")
    time = line["time"].replace("+00:00", "Z")
    where = f"[{plain(line['stage'])}] " if line["stage"] else ""
    text = f"{plain(line['level']):<7} {where}{plain(line['message'])}"
    return Text.assemble((f"{time} ", "dim"), (text, style))


def command(database: Path, *words: str) -> str:
    """Return a command to type, with ``--db`` where it is needed."""
    default = os.environ.get("STAGERUN_DB", "stagerun.db")
    option = [] if str(database) == default else ["--db", str(database)]
    return shlex.join(["stagerun", *words, *option])


def _print_head(screen: Console, document: dict[str, Any]) -> None:
    status = document["status"]
    took = _took(document)
    words = f"{' for' if document['finished_at'] is None else ' in'} {took}" if took else ""
    say(
        screen,
        Text.assemble(
            (_said(status), STATUS_STYLES[status]),
            f"  {plain(document['pipeline'])} ",
            (document["id"][:SHORT], "cyan"),
            words,
        ),
    )
    if document["message"]:
        say(screen, plain(document["message"]))
    if document["survivors"]:
        left = "; ".join(document["survivors"])
        say(screen, f"did not stop, and its outside effects may go on: {plain(left)}", "yellow")


def _stage_table(stages: Sequence[dict[str, Any]], *, narrow: bool) -> Table:
    if narrow:
        return _stage_lines(stages)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True, overflow="ellipsis")
    table.add_column("items", justify="right", no_wrap=True)
    shown = [name for name in OUTCOMES if name in _ALWAYS or any(s[name] for s in stages)]
    unfinished = [name for name in ("in_flight", "waiting") if any(s[name] for s in stages)]
    for name in [*shown, *unfinished]:
        table.add_column(_said(name), justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for stage in stages:
        counts = [
            Text(f"{stage[name]:,}", style=OUTCOMES[name] if stage[name] else "dim")
            for name in shown
        ]
        table.add_row(
            plain(stage["name"]),
            f"{stage['accepted']:,}",
            *counts,
            *(f"{stage[name]:,}" for name in unfinished),
            _took(stage),
        )
    return table


def _stage_lines(stages: Sequence[dict[str, Any]]) -> Table:
    """Return the same in words, which wrap: a table that is too wide would cut digits off."""
    grid = Table.grid()
    for stage in stages:
        words = [f"{stage[name]:,} {_said(name)}" for name in OUTCOMES if stage[name]]
        words += [f"{stage[n]:,} {_said(n)}" for n in ("in_flight", "waiting") if stage[n]]
        told = ", ".join(words) or "nothing came"
        grid.add_row(Text(f"{plain(stage['name'])}  {stage['accepted']:,} items: {told}"))
    return grid


def _print_failures(
    screen: Console, stages: Sequence[dict[str, Any]], failures: Sequence[dict[str, Any]]
) -> None:
    if not failures:
        return
    total = sum(stage[name] for stage in stages for name in _LOST)
    few = total <= len(failures)
    head = f"what did not succeed ({total:,})" if few else f"the first of {total:,} failures"
    say(screen, Text(head, style="dim"))
    for item in failures:
        tries = f" after {item['attempts']} attempts" if item["attempts"] > 1 else ""
        say(
            screen,
            Text.assemble(
                f"  {plain(item['stage'])} item {item['item']}: ",
                (_said(item["outcome"]), OUTCOMES[item["outcome"]]),
                f"{tries}: {plain(item['message'])}",
            ),
        )


def _going_on(document: dict[str, Any]) -> tuple[str, ...]:
    """Return the words that go on with a run that has not succeeded; none if they would not do."""
    if document["status"] not in _UNDONE or document["target"] is None:
        return ()
    stages, length = document["stages"], document["source_length"]
    gone = document["cause"] == "source_gone"
    left = not gone and (length is None or stages[0]["accepted"] < length)
    left = left or any(stage[name] for stage in stages for name in _LEFT)
    if not left and any(stage[name] for stage in stages for name in _LOST):
        return ("resume", document["id"][:SHORT], "--failed")
    if gone and not left:  # it would end just so once more
        return ()
    return ("resume", document["id"][:SHORT])


def _said(name: str) -> str:
    return name.replace("_", " ")


def _moment(text: str | None) -> str | None:
    return None if text is None else f"{text.replace('+00:00', 'Z')}, {ago(text)}"


def _took(document: dict[str, Any]) -> str:
    """Return the time from the start to the end, or to now."""
    if document["started_at"] is None:
        return ""
    began = datetime.fromisoformat(document["started_at"])
    ended = document["finished_at"]
    until = datetime.now(began.tzinfo) if ended is None else datetime.fromisoformat(ended)
    return span(max(0.0, (until - began).total_seconds()))
