"""The commands that follow a run of any process, by looking at its database: watch and logs."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from stagerun.cli.board import Board
from stagerun.cli.display import Screen, bars_fit
from stagerun.cli.exits import CANCELLED, SUCCEEDED, exit_status
from stagerun.cli.inquiry import Motion, inquiring, progress_of
from stagerun.cli.progress import Progress
from stagerun.cli.reading import Reader, microseconds_ago, reading
from stagerun.cli.tables import command, log_text, print_summary
from stagerun.cli.terminal import SHORT, closed_pipes_ignored, complain, console, say, write_json
from stagerun.store.documents import find_run, log_lines

__all__ = ["print_logs", "watch_run"]

_EVERY: Final = 0.25
"""Seconds between two looks at the database."""
_BURST: Final = 10_000
"""Log lines that one look takes at most."""


def watch_run(database: Path, run: str, *, as_json: bool) -> int:
    """Show a run until it ends; return the exit status that its ending has.

    Ctrl-C detaches and leaves the run alone.
    """
    with reading(database) as reader:
        document = reader.document(run)
        try:
            document = _watched(reader, document, database, as_json=as_json)
        except KeyboardInterrupt:
            short = document["id"][:SHORT]
            complain(f"detached, the run goes on: {command(database, 'watch', short)}")
            return CANCELLED
        failures = reader.failures(document)
    if as_json:
        write_json(document, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            print_summary(console(), document, failures, database)
    return exit_status(document["status"])


def _watched(
    reader: Reader, document: dict[str, Any], database: Path, *, as_json: bool
) -> dict[str, Any]:
    """Look until the run has ended; return its last document."""
    if bars_fit():
        return _drawn(reader, document, database, as_json=as_json)
    seen = ""
    while not _over(document):
        if (line := _line(document)) != seen:
            complain(line)
            seen = line
        time.sleep(_EVERY)
        document = reader.document(document["id"])
    return document


def _drawn(
    reader: Reader, document: dict[str, Any], database: Path, *, as_json: bool
) -> dict[str, Any]:
    """Do so with the picture of the run, on a screen of its own."""
    if _over(document):
        return document
    motion = Motion(document)
    with inquiring(database, document["id"]) as inquiry:

        def read() -> Progress:
            return progress_of(document, inquiry.answers)

        board = Board(read, under_way=_seconds_under_way(document))
        keep = as_json or not sys.stdout.isatty()
        with _ended_softly(), Screen().whole(board, keep=keep):
            while not _over(document):
                inquiry.look(document, stuck=motion.stuck(document))
                time.sleep(_EVERY)
                document = reader.document(document["id"])
    return document


@contextmanager
def _ended_softly() -> Iterator[None]:
    """Let SIGTERM detach as Ctrl-C does: the terminal must get its screen and its cursor back."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _over(document: dict[str, Any]) -> bool:
    return document["finished_at"] is not None or document["verdict"] == "dead"


def _seconds_under_way(document: dict[str, Any]) -> float:
    began = datetime.fromisoformat(document["started_at"] or document["created_at"])
    return max(0.0, (datetime.now(began.tzinfo) - began).total_seconds())


def _line(document: dict[str, Any]) -> str:
    """Tell where a run stands in one line, for where no bars can be drawn."""
    percent = "" if document["percent"] is None else f" {int(document['percent'])} %"
    return f"{document['id'][:SHORT]} {document['status']}{percent} {document['step'] or ''}"


def print_logs(
    database: Path,
    run: str,
    *,
    since: float | None,
    limit: int,
    follow: bool,
    as_json: bool,
) -> int:
    """Print the kept log lines of a run; with *follow* also those to come, until the run ends."""
    after = 0
    with reading(database) as reader:
        document = reader.document(run)
        number = reader.ask(lambda c: find_run(c, document["id"]))
        oldest = 0 if since is None else microseconds_ago(since)
        lines = reader.ask(log_lines(number, since=oldest, last=limit))
        if as_json and not follow:
            write_json({"run": document["id"], "logs": lines}, sys.stdout)
            return SUCCEEDED
        screen = console()
        while True:
            for line in lines:
                after = line["seq"]
                if as_json:
                    write_json(line, sys.stdout, compact=True)
                else:
                    say(screen, log_text(line))
            if not follow or (_over(document) and not lines):
                return SUCCEEDED
            if not lines:
                time.sleep(_EVERY)
            document = reader.document(document["id"])
            lines = reader.ask(log_lines(number, after=after, since=oldest, last=_BURST))
