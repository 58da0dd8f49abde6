"""Other programs, and what they leave in their database, seen from outside."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.process import BenchmarkError

__all__ = ["heard", "program", "seen"]

_LONGEST = 300.0
_POLL = 0.002


@contextmanager
def program(
    source: str, *arguments: object, log: bool = False
) -> Iterator["subprocess.Popen[str]"]:
    """Run a small program; whatever it does, it does not outlive the block. *log*: read stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if log else subprocess.DEVNULL,
        text=True,
        env=os.environ | {"STAGERUN_LOG_FORMAT": "text"},
    )
    alarm = threading.Timer(_LONGEST, process.kill)  # ends every wait for its next line
    alarm.daemon = True
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        process.kill()
        process.communicate(timeout=30)


def heard(process: "subprocess.Popen[str]") -> str:
    """Return the next line that a program prints."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise BenchmarkError("a program ended, or hung, before it had said what was asked of it")
    return line


def seen(path: Path, query: str, *parameters: object, within: float = 60.0) -> float:
    """Wait until *query* finds a row; return when that was, on the monotonic clock of the kernel.

    It is asked every 2 ms on a connection of its own: what it finds is committed.
    """
    ends = time.monotonic() + within
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        while connection.execute(query, parameters).fetchone() is None:
            if time.monotonic() > ends:
                raise BenchmarkError(f"not found within {within:g} s: {query}")
            time.sleep(_POLL)
        return time.monotonic()
