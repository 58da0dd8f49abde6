"""What ``why`` prints: where a live run stands, or the story of one that has ended."""

from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from stagerun.cli.display import OUTCOMES
from stagerun.cli.tables import STATUS_STYLES, log_text
from stagerun.cli.terminal import SHORT, plain, say, span

__all__ = ["print_live", "print_story"]

_SHOWN: Final = 4
"""Items of a stage, at work and pausing each; --json tells of more."""
_LINES: Final = 5


def print_live(screen: Console, document: dict[str, Any]) -> None:
    """Print where a run stands, as its own process has told."""
    _head(screen, document, f"for {span(document['seconds'])}")
    moment = document["as_of"][11:19]
    say(screen, f"as of {moment}Z, told by its process (pid {document['pid']})", "dim")
    for stage in document["stages"]:
        _print_stage(screen, stage)
    for line in _rest(document):
        say(screen, plain(line))
    _print_blocks(screen, document)
    _conclude(screen, document)


def _print_blocks(screen: Console, document: dict[str, Any]) -> None:
    for block in document["blocks"]:
        who = f"{block['stage']}" if block["stage"] else "its source"
        who += f" item {block['item']}" if block["item"] is not None else ""
        word = "blocked" if block.get("ended") else "was seen to block"
        told = f"{block['time'][11:19]}Z {who} {word} the event loop for {span(block['seconds'])}"
        say(screen, plain(f"{told} at {block['place']}"), "yellow")


def print_story(screen: Console, document: dict[str, Any]) -> None:
    """Print what the database tells of a run: for one that has ended, or does not answer."""
    _head(screen, document, "" if document["cause"] is None else f"({document['cause']})")
    owner, ended_by = document["owner"], document["ended_by"]
    if owner is not None:
        revision = f", revision {owner['revision']}" if owner["revision"] else ""
        say(screen, plain(f"worked on by pid {owner['pid']} on {owner['host']}{revision}"), "dim")
    if ended_by is not None and ended_by != owner:
        by = f"ended by another process: pid {ended_by['pid']} on {ended_by['host']}"
        say(screen, plain(by), "dim")
    for earlier in document["generations"]:
        told = f"generation {earlier['generation']} ended {_said(earlier['status'])}"
        say(screen, plain(f"{told}: {earlier['message']}"), "dim")
    for stage in document["stages"]:
        counts = [f"{stage[name]:,} {_said(name)}" for name in OUTCOMES if stage[name]]
        told = ", ".join(counts) or "nothing settled"
        head = f"{stage['name']}: {_said(stage['status'])}, {stage['accepted']:,} items"
        say(screen, plain(f"{head}, {told}"))
    if document["failures"]:
        say(screen, "\nwhat did not succeed", "dim")
    for sort in document["failures"]:
        outcome = sort["outcome"]
        say(
            screen,
            Text.assemble(
                f"{sort['count']:>6,} x {plain(sort['stage'])} ",
                (_said(outcome), OUTCOMES[outcome]),
                plain(f" ({sort['cause']}), first item {sort['first_item']}: {sort['message']}"),
            ),
        )
    if document["slowest"]:
        longest = ", ".join(
            f"{each['stage']} item {each['item']} {span(each['seconds'])}"
            for each in document["slowest"]
        )
        say(screen, plain(f"took longest: {longest}"))
    _print_blocks(screen, document)
    for line in document["recent_logs"][-_LINES:]:
        say(screen, log_text(line))
    _conclude(screen, document)


def _head(screen: Console, document: dict[str, Any], words: str) -> None:
    status = document["status"]
    say(
        screen,
        Text.assemble(
            (_said(status), STATUS_STYLES[status]),
            f"  {plain(document['pipeline'])} ",
            (document["run"][:SHORT], "cyan"),
            f" {plain(words)}",
        ),
    )


def _print_stage(screen: Console, stage: dict[str, Any]) -> None:
    crowd = f"{stage['waiting']:,} of {stage['limit']:,} wait"
    if stage["putters"]:
        crowd += f" (full, {stage['putters']} tasks wait for room)"
    parts = [f"{stage['working_total']} at work" if stage["working_total"] else "", crowd]
    parts.append(f"{stage['pausing_total']:,} pause" if stage["pausing_total"] else "")
    told = ", ".join(part for part in parts if part)
    say(screen, Text.assemble((plain(stage["name"]), "bold"), f"  {told}"))
    for working in stage["working"][:_SHOWN]:
        for line in _working(working):
            say(screen, plain(line))
    _print_more(screen, stage["working_total"] - _SHOWN)
    for pausing in stage["pausing"][:_SHOWN]:
        line = f"  item {pausing['item']} pauses {span(max(0.0, pausing['resumes_in']))}"
        line += f" before attempt {pausing['next_attempt']}, after: {pausing['why']}"
        say(screen, plain(line), "yellow")
    _print_more(screen, stage["pausing_total"] - _SHOWN)


def _working(working: dict[str, Any]) -> Iterator[str]:
    items = working["items"]
    name = f"item {items[0]}" if len(items) == 1 else f"batch of {len(items)} from {items[0]}"
    key = f" ({working['key']})" if working["key"] is not None else ""
    tries = ""
    if working["attempts"] > 1:
        tries = f", attempt {working['attempt']} of {working['attempts']}"
    end = ""
    if working["cut_for"] is not None:
        end = f", cut {span(working['cut_for'])} ago and not stopped"
    elif working["cut_in"] is not None:
        end = f", cut in {span(max(0.0, working['cut_in']))}"
    mode = "" if working["mode"] == "async" else f" in mode {working['mode']}"
    yield f"  {name}{key}{tries} for {span(working['seconds'])}{mode}{end}"
    for place in working["places"]:
        code = f": {place['code']}" if place["code"] else ""
        yield f"    {place['file']}:{place['line']} in {place['function']}{code}"
        if place["awaits"]:
            yield f"      waits in {place['awaits']}"


def _print_more(screen: Console, more: int) -> None:
    if more > 0:
        say(screen, f"  and {more:,} more", "dim")


def _rest(document: dict[str, Any]) -> Iterator[str]:
    source = document["source"]
    if source is not None:
        limit = source["gives_up_in"]
        end = "waits for room" if limit is None else f"given up in {span(max(0.0, limit))}"
        yield f"source  {end}"
    if document["deadline_in"] is not None:
        yield f"run  deadline in {span(max(0.0, document['deadline_in']))}"
    following = document["next"]
    if following is not None:
        yield f"next  {following['what']} in {span(max(0.0, following['in']))}"
    store = document["store"]
    trouble = f": {store['trouble']}" if store["trouble"] else ""
    yield f"database  {store['status']}, {store['rows']:,} rows wait{trouble}"
    for survivor in document["survivors"]:
        yield f"did not stop: {survivor}"


def _conclude(screen: Console, document: dict[str, Any]) -> None:
    screen.print()
    say(screen, plain(document["summary"]), "bold")


def _said(name: str) -> str:
    return name.replace("_", " ")
