"""What people and programs get to see: plain text, JSON, and streams that may be gone."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
from rich.console import Console
from rich.text import Text

__all__ = [
    "SHORT",
    "ago",
    "closed_pipes_ignored",
    "complain",
    "console",
    "plain",
    "reserved_stdout",
    "say",
    "span",
    "write_json",
]

SHORT: Final = 8
"""Characters of a run's identifier that people see; commands take them for the whole."""
_WIDE: Final = 1_000
"""Columns where there is no terminal: whoever reads a pipe wants whole lines."""
_JOINERS: Final = "\u200c\u200d"
"""Invisible, but words of several scripts and many emoji need them."""


def plain(text: object) -> str:
    """Return *text* with everything escaped that is not plainly visible.

    What stages say goes to a terminal only through here: it must not move its cursor, change its
    title or turn the order of its letters.
    """
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def console(stream: TextIO | None = None) -> Console:
    """Return a console on *stream* (standard output) that takes no text for markup."""
    made = _Console(file=stream, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the program, with a status of its own


def say(screen: Console, text: str | Text, style: str = "") -> None:
    """Print one line and let the terminal break it, so that what is copied from it stays whole."""
    screen.print(text, style=style or None, soft_wrap=True)


def write_json(document: Any, stream: TextIO | None, *, compact: bool = False) -> None:
    """Write one JSON document and a line break, in ASCII, whatever the document holds."""
    finite = json.loads(msgspec.json.encode(document))  # what JSON has no number for becomes null
    text = json.dumps(finite, indent=None if compact else 2).replace("\x7f", "\\u007f")
    if stream is not None:
        with closed_pipes_ignored(stream):
            stream.write(f"{text}\n")
            stream.flush()


@contextmanager
def closed_pipes_ignored(stream: TextIO) -> Iterator[None]:
    """Let output to *stream* end where its reader went away: that is nobody's mistake."""
    try:
        yield
    except BrokenPipeError:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, stream.fileno())  # what is still buffered is flushed once more
        os.close(silence)


@contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Keep standard output for ourselves: what others print goes to standard error meanwhile.

    That holds for C code and child processes too, since the descriptor itself is exchanged.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    ours = os.dup(1)
    try:
        os.dup2(2, 1)
        with open(ours, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        if sys.stdout is not None:
            with suppress(OSError):
                sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


def complain(message: object) -> None:
    """Say one sentence on standard error, if anybody listens there."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"stagerun: {plain(message)}\n")
            sys.stderr.flush()


def span(seconds: float) -> str:
    """Return a length of time for people, for example ``3 min 05 s``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"


def ago(moment: str | None) -> str:
    """Return how long ago an ISO 8601 *moment* was, or in how long it will be; nothing for None."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    return f"in {span(-seconds)}" if seconds < 0 else f"{span(seconds)} ago"
