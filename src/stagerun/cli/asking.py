"""The commands that ask the process which owns a run: ``cancel`` and ``why``.

They write a request into the database and look for its answer. They are no owners and settle
nothing: of a dead owner's run they tell the truth, and ending it is left to ``stagerun recover`` or
to the next runtime, which knows whether it is to be resumed.
"""

import getpass
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from stagerun.cli.exits import FAILED, SUCCEEDED, exit_status
from stagerun.cli.explaining import print_live, print_story
from stagerun.cli.tables import command
from stagerun.cli.terminal import SHORT, closed_pipes_ignored, console, plain, say, write_json
from stagerun.engine.asking import ask_to_cancel, ask_why, tell_story
from stagerun.errors import StoreError
from stagerun.store import reports
from stagerun.store.talk import talking

__all__ = ["cancel_run", "explain_run", "now_us", "who"]


def cancel_run(database: Path, run: str, *, reason: str | None, wait: bool, as_json: bool) -> int:
    """Ask a run of any process to stop, and say what has become of it.

    Returns:
        The exit status that goes with the run's ending; without one 0 when nobody wanted to wait
        for it, else 1.
    """
    with talking(database) as talk:
        identifier = talk.ask(reports.run_identifier(run))
        body = {"reason": reason, "by": who()}
        answer = talk.hold(ask_to_cancel(identifier, body, now_us, wait=wait))
        late = answer["became"] != "ended"
        why = talk.hold(ask_why(identifier, {"by": who()}, now_us)) if late and wait else None
    if as_json:
        write_json(answer, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            screen = console()
            say(screen, plain(_in_words(answer, asked_to_wait=wait)))
            if why is not None:
                say(screen, plain(why["summary"]))
                say(screen, f"more: {command(database, 'why', identifier[:SHORT])}", "dim")
    if not late:
        return exit_status(answer["status"])
    return FAILED if wait else SUCCEEDED


def explain_run(database: Path, run: str, *, as_json: bool) -> int:
    """Say why a run stands where it does, or the story of its end."""
    with talking(database) as talk:
        identifier = talk.ask(reports.run_identifier(run))
        try:
            document = talk.hold(ask_why(identifier, {"by": who()}, now_us))
        except StoreError as error:
            document = talk.hold(tell_story(identifier))
            document["summary"] += f" Its process cannot be asked: {error}"
    if as_json:
        write_json(document, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            show = print_live if document["told_by"] == "process" else print_story
            show(console(), document)
    return SUCCEEDED


def _in_words(answer: dict[str, Any], *, asked_to_wait: bool) -> str:
    short, message = answer["run"][:SHORT], answer["message"]
    if answer["became"] == "ended":
        return f"{short} ended {answer['status'].replace('_', ' ')} ({answer['cause']}): {message}"
    if answer["became"] == "cancelling":
        still = "has not ended yet" if asked_to_wait else "is asked to stop"
        return f"{short} {still}: {message}"
    return f"{short} goes on: {message}"


def who() -> str:
    """Return in words who sits at this machine; it stands in what is asked for."""
    user = "somebody"
    with suppress(OSError, KeyError, ImportError):  # a container need not know its user's name
        user = getpass.getuser()
    return f"{user} on {socket.gethostname()}"


def now_us() -> int:
    """Return the moment as the database writes it."""
    return time.time_ns() // 1_000
