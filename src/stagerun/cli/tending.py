"""The commands that look after the database: ``recover``, ``owners``, ``doctor``, ``prune``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from rich.table import Table
from rich.text import Text

from stagerun.cli.exits import FAILED, SUCCEEDED
from stagerun.cli.reading import reading
from stagerun.cli.tables import STATUS_STYLES
from stagerun.cli.terminal import (
    SHORT,
    ago,
    closed_pipes_ignored,
    console,
    plain,
    say,
    write_json,
)
from stagerun.engine.env import Env
from stagerun.engine.opening import open_runtime
from stagerun.rules.retention import Keep, keep_of
from stagerun.store import retention, tending
from stagerun.store.doctor import Report, examine

__all__ = ["doctor_database", "list_owners", "prune_database", "recover_runs"]

_MEGA: Final = 2**20


def recover_runs(database: Path, *, dry_run: bool, as_json: bool) -> int:
    """Settle the runs that dead processes left, or only list them."""
    with reading(database) as reader:
        left = reader.ask(tending.orphaned_runs(database))
    if not dry_run:
        trio.run(_open_and_leave, database)  # opening settles, and asks nobody else to
        with reading(database) as reader:
            left = [run | reader.ask(tending.what_became(run["id"])) for run in left]
    if as_json:
        write_json({"dry_run": dry_run, "runs": left}, sys.stdout)
        return SUCCEEDED
    screen = console()
    with closed_pipes_ignored(sys.stdout):
        for run in left:
            say(
                screen,
                Text.assemble(
                    (run["id"], "cyan"),
                    f"  {plain(run['pipeline'])}  ",
                    (run["status"], STATUS_STYLES[run["status"]]),
                    f"  {run['cause'] or 'would be settled'}: {plain(run['message'])}",
                ),
            )
        if not left:
            say(screen, "no run of a dead process is left")
    return SUCCEEDED


async def _open_and_leave(database: Path) -> None:
    async with open_runtime(database):
        pass


def list_owners(database: Path, *, limit: int, as_json: bool) -> int:
    """List the processes that had the database open, the newest first: so restarts are seen."""
    with reading(database) as reader:
        owners = reader.ask(tending.owner_list(database, limit=limit))
    if as_json:
        write_json({"owners": owners}, sys.stdout)
        return SUCCEEDED
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("owner", "pid", "host", "revision", "started", "ended", "how", "runs", "memory"):
        right = name in ("pid", "runs")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for owner in owners:
        table.add_row(
            Text(owner["id"][:SHORT], style="cyan"),
            str(owner["pid"]),
            plain(owner["host"]),
            plain(owner["revision"] or ""),
            ago(owner["started_at"]),
            ago(owner["ended_at"]),
            Text(owner["verdict"], style="yellow" if owner["verdict"] == "dead" else ""),
            str(owner["runs"]),
            _memory(owner),
        )
    with closed_pipes_ignored(sys.stdout):
        console().print(table)
    return SUCCEEDED


def _memory(owner: dict[str, Any]) -> str:
    used, limit = owner["memory_used"], owner["memory_limit"]
    if used is None:
        return ""
    return f"{used / _MEGA:.0f} MB" + ("" if limit is None else f" of {limit / _MEGA:.0f} MB")


def doctor_database(database: Path, *, as_json: bool) -> int:
    """Examine a database without changing it; the exit status is 1 when something was found."""
    report = examine(database)
    if as_json:
        write_json(attrs.asdict(report) | {"sound": report.sound}, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            _print_report(report)
    return SUCCEEDED if report.sound else FAILED


def _print_report(report: Report) -> None:
    screen = console()
    say(screen, Text.assemble((plain(report.database), "bold")))
    facts = report.facts
    size, log, free = (int(facts[name] or 0) / _MEGA for name in ("size", "wal_size", "free"))
    say(
        screen,
        f"{size:.1f} MB, write-ahead log {log:.1f} MB, {free:,.0f} MB free on its disk"
        f" ({facts['file_system'] or 'of unknown kind'}), mode {facts['mode']},"
        f" schema {facts['schema']}, SQLite {facts['sqlite']}",
        "dim",
    )
    for finding in report.findings:
        where = "" if finding.run is None else f" run {finding.run}"
        say(
            screen,
            Text.assemble((f"{finding.check}:", "bold red"), f"{where} ", plain(finding.what)),
        )
        say(screen, Text.assemble(("  next: ", "dim"), plain(finding.next)))
    for remark in report.remarks:
        say(screen, Text.assemble(("remark: ", "yellow"), plain(remark)))
    found = len(report.findings)
    say(screen, "sound" if report.sound else f"{found} finding{'s' if found > 1 else ''}")


def prune_database(
    database: Path, *, older_than: float | None, keep: int | None, dry_run: bool, as_json: bool
) -> int:
    """Let go of ended runs now; without a limit of its own, by the settings.

    Raises:
        SettingError: A setting holds a bad value.
    """
    env = Env()
    kept = keep_of(env.environ)
    if older_than is not None or keep is not None:
        kept = Keep(keep, None if older_than is None else older_than / 86_400)
    question = retention.prunable(kept.runs, kept.before(env.now_us()), limit=-1)
    with reading(database) as reader:
        gone = reader.ask(question)
    if not dry_run:
        gone = trio.run(_prune, database, kept)
    runs = [
        {
            "id": run.id,
            "pipeline": run.pipeline,
            "status": run.status,
            "finished_at": tending.iso(run.finished_at),
        }
        for run in gone
    ]
    if as_json:
        write_json({"dry_run": dry_run, "runs": runs}, sys.stdout)
        return SUCCEEDED
    with closed_pipes_ignored(sys.stdout):
        _print_pruned(runs, dry_run=dry_run)
    return SUCCEEDED


async def _prune(database: Path, keep: Keep) -> Sequence[retention.Prunable]:
    async with open_runtime(database) as runtime:
        return await runtime.prune(runs=keep.runs, days=keep.days)


def _print_pruned(runs: Sequence[dict[str, Any]], *, dry_run: bool) -> None:
    screen = console()
    for run in runs:
        say(
            screen,
            Text.assemble(
                (run["id"][:SHORT], "cyan"),
                f"  {plain(run['pipeline'])}  ",
                (run["status"], STATUS_STYLES[run["status"]]),
                f"  ended {ago(run['finished_at'])}",
            ),
        )
    done = "would be pruned" if dry_run else "pruned"
    what = "1 run" if len(runs) == 1 else f"{len(runs):,} runs"
    say(screen, f"{what} {done}" if runs else "nothing is to be pruned")
