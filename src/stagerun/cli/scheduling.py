"""What runs by itself, for people: the list of schedules, one of them, and what is said to it."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stagerun.cli.asking import now_us, who
from stagerun.cli.exits import FAILED, SUCCEEDED
from stagerun.cli.reading import reading
from stagerun.cli.tables import STATUS_STYLES, command
from stagerun.cli.terminal import (
    SHORT,
    ago,
    closed_pipes_ignored,
    console,
    plain,
    say,
    span,
    write_json,
)
from stagerun.engine.asking import Dialogue
from stagerun.engine.triggering import (
    ask_to_forget,
    ask_to_pause,
    ask_to_trigger,
    ask_to_unpause,
)
from stagerun.store.schedulelist import schedule_document, schedule_list
from stagerun.store.talk import talking

__all__ = [
    "forget_schedule",
    "list_schedules",
    "pause_schedule",
    "resume_schedule",
    "show_schedule",
    "trigger_schedule",
]

Document = dict[str, Any]

_NONE: Final = (
    "no schedule is in this database: declare one, Schedule('nightly', pipeline, every=3600),"
    " and serve it: stagerun serve FILE.py:NAME"
)
_COUNTS: Final = ("fired", "skipped", "missed")
_ANY: Final = 10_000
"""Columns that are enough for every table."""
_STATES: Final = {"waiting": "", "paused": "yellow", "unserved": "bold yellow"}


def list_schedules(database: Path, *, as_json: bool) -> int:
    """List all schedules, by name."""
    with reading(database) as reader:
        schedules = reader.ask(schedule_list())
    if as_json:
        write_json({"schedules": schedules}, sys.stdout)
        return SUCCEEDED
    with closed_pipes_ignored(sys.stdout):
        screen, table = console(), _list(schedules)
        if not schedules:
            say(screen, _NONE)
        elif _fits(table, screen):
            screen.print(table)
        else:
            for schedule in schedules:
                _print_facts(screen, schedule)
    return SUCCEEDED


def show_schedule(database: Path, name: str, *, as_json: bool) -> int:
    """Show one schedule, and what became of its last slots.

    Raises:
        UsageError: There is no such schedule.
    """
    with reading(database) as reader:
        schedule = reader.ask(schedule_document(name))
    if as_json:
        write_json(schedule, sys.stdout)
        return SUCCEEDED
    with closed_pipes_ignored(sys.stdout):
        screen = console()
        _print_facts(screen, schedule)
        if schedule["slots"]:
            screen.print(_slots(schedule["slots"]))
    return SUCCEEDED


def pause_schedule(database: Path, name: str, *, as_json: bool) -> int:
    """Let no slot of a schedule come.

    Raises:
        UsageError: There is no such schedule.
    """
    schedule = _ask(database, name, ask_to_pause(name, now_us))
    resume = command(database, "schedules", "resume", name)
    return _told(
        schedule, f"{name} is paused, runs under way go on. To resume it: {resume}", as_json
    )


def resume_schedule(database: Path, name: str, *, as_json: bool) -> int:
    """Let slots of a schedule come again.

    Raises:
        UsageError: There is no such schedule.
    """
    schedule = _ask(database, name, ask_to_unpause(name))
    served = schedule["state"] != "unserved"
    next_ = f"next {_next(schedule)}" if schedule["next_at"] else "from now on slots come again"
    return _told(schedule, f"{name}: {next_ if served else 'no process serves it now'}", as_json)


def forget_schedule(database: Path, name: str, *, as_json: bool) -> int:
    """Forget a schedule that nobody serves.

    Raises:
        UsageError: There is no such schedule, or a process serves it.
    """
    schedule = _ask(database, name, ask_to_forget(name))
    return _told(schedule, f"{name} is forgotten; the runs that it has started stay", as_json)


def trigger_schedule(database: Path, name: str, *, as_json: bool) -> int:
    """Have a run of a schedule started now; return 1 when nobody has taken the request yet.

    Raises:
        UsageError: There is no such schedule, or no process that serves it.
    """
    slot = _ask(database, name, ask_to_trigger(name, who(), now_us))
    match slot["decision"]:
        case "fired":
            watch = command(database, "watch", slot["run"][:SHORT])
            words = f"{name} has started run {slot['run'][:SHORT]}. To watch it: {watch}"
        case "skipped":
            words = f"{name} has started none: {slot['reason']}"
        case _:
            words = f"no process has taken it yet: {name} is started as soon as one can"
    _told(slot, words, as_json)
    return FAILED if slot["decision"] is None else SUCCEEDED


def _ask(database: Path, name: str, dialogue: Dialogue[Document]) -> Document:
    with talking(database) as talk:
        talk.ask(schedule_document(name))  # raises when there is none; and nothing is written then
        return talk.hold(dialogue)


def _told(document: Document, words: str, as_json: bool) -> int:
    if as_json:
        write_json(document, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            say(console(), plain(words))
    return SUCCEEDED


# -- in words -----------------------------------------------------------------------------------


def _list(schedules: Sequence[Document]) -> Table:
    table = _table("schedule", "pipeline", "when", "overlap", "state", "next", "last", *_COUNTS)
    for schedule in schedules:
        overlap, active = _said(schedule["overlap"]), schedule["active"]
        table.add_row(
            Text(plain(schedule["name"]), style="cyan"),
            plain(schedule["pipeline"]),
            plain(_when(schedule)),
            overlap if active == 1 else f"{overlap}, {active} at once",
            Text(schedule["state"], style=_STATES[schedule["state"]]),
            _next(schedule),
            _last(schedule["last"]),
            *(f"{schedule[each]:,}" for each in _COUNTS),
        )
    return table


def _fits(table: Table, screen: Console) -> bool:
    unlimited = screen.options.update_width(_ANY)
    return screen.measure(table, options=unlimited).maximum <= screen.width


def _print_facts(screen: Console, schedule: Document) -> None:
    state, owners = schedule["state"], schedule["served_by"]
    say(screen, Text.assemble((plain(schedule["name"]), "bold"), "  ", (state, _STATES[state])))
    facts: dict[str, str | Text] = {
        "pipeline": plain(schedule["pipeline"]),
        "when": plain(_when(schedule)),
        "overlap": f"{_said(schedule['overlap'])}, {schedule['active']} at once",
        "served by": "1 process" if owners == 1 else f"{owners} processes",
        "next": _next(schedule),
        "last": _last(schedule["last"]),
        "slots": ", ".join(f"{schedule[each]:,} {each}" for each in _COUNTS),
    }
    for name, fact in facts.items():
        if fact:
            say(screen, Text.assemble((f"{name:<11}", "dim"), fact))


def _slots(slots: Sequence[Document]) -> Table:
    table = _table("slot", "decision", "run", "status", "missed before", "why")
    for slot in slots:
        asked = f"asked for by {slot['asked_by']}" if slot["asked_by"] else ""
        table.add_row(
            f"{_moment(slot['at'])}, {ago(slot['at'])}",
            slot["decision"] or "not taken yet",
            Text((slot["run"] or "")[:SHORT], style="cyan"),
            _status(slot["status"]),
            f"{slot['missed']:,}" if slot["missed"] else "",
            plain(": ".join(filter(None, (asked, slot["reason"])))),
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        right = name in (*_COUNTS, "missed before")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _when(schedule: Document) -> str:
    if schedule["cron"] is None:
        seconds = schedule["every"]
        length = f"{seconds:g} s" if seconds < 60 else span(seconds)
        return f"every {length.removesuffix(' 00 s').removesuffix(' 00 min')}"
    return f"{schedule['cron']} {schedule['zone']}"


def _next(schedule: Document) -> str:
    at = schedule["next_at"]
    if at is None:
        return ""
    if schedule["state"] == "unserved" and datetime.fromisoformat(at) < datetime.now(UTC):
        return f"was due {_moment(at)}, {ago(at)}"
    return f"{_moment(at)}, {ago(at)}"


def _last(slot: Document | None) -> Text:
    if slot is None:
        return Text()
    if slot["decision"] is None:
        return Text(f"asked for {ago(slot['at'])}")
    became = _status(slot["status"]) if slot["run"] else Text(slot["decision"])
    run = f" {slot['run'][:SHORT]}" if slot["run"] else ""
    return Text.assemble(f"{_moment(slot['at'])}, {ago(slot['at'])}: ", became, (run, "cyan"))


def _status(status: str | None) -> Text:
    if status is None:
        return Text()
    return Text(_said(status), style=STATUS_STYLES[status])


def _said(name: str) -> str:
    return name.replace("_", " ")


def _moment(at: str) -> str:
    """Return a moment in UTC, its day only where that is not today."""
    moment = datetime.fromisoformat(at)
    today = moment.date() == datetime.now(UTC).date()
    return moment.strftime("%H:%M:%SZ" if today else "%Y-%m-%d %H:%M:%SZ")
