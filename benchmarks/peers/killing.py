"""What a peer keeps after `kill -9`: it is killed in the middle, started again, and counted."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from benchmarks.peers.program import Program, kill, prepared
from benchmarks.peers.subjects import Subject
from benchmarks.process import BenchmarkError

ITEMS = 100
WITHIN = 30.0
"""Seconds from the second start, after which what is not complete counts as lost."""
_BEFORE = 60.0  # seconds for a third of the items to come through the second step
_LOOK = 0.02


@frozen
class Kept:
    """Of one kill; steps are counted by what their bodies wrote, not by what the peer says."""

    items: int
    finished_steps: int
    """Whose bodies had ended when it was killed."""
    interrupted_steps: int
    """Whose bodies had begun, but not ended."""
    completed: int
    """Items that have had all three steps, after the second start."""
    repeated: int
    """Of the finished steps, those that ran again."""
    restarted: int
    """Of the interrupted steps, those that ran again."""
    seconds: float | None
    """From the second start to the last item; none when not all were completed."""


def trial(subject: Subject, python: Path, directory: Path | None) -> dict[str, Any]:
    with prepared(subject, python, directory) as program:
        before = _run_until_killed(program)
        seconds, after = _run_again(program, before)
    return asdict(_judged(before, after, seconds))


@frozen
class _Log:
    begun: frozenset[tuple[int, int]]
    finished: frozenset[tuple[int, int]]

    def through(self, step: int) -> set[int]:
        return {item for what, item in self.finished if what == step}


def _run_until_killed(program: Program) -> _Log:
    with program.started("begin", ITEMS) as child:
        read = _reader(program, "begin")
        _wait(lambda: len(read().through(2)) >= ITEMS // 3, _BEFORE, child)
        if child.poll() is not None or len(read().through(2)) < ITEMS // 3:
            raise BenchmarkError(f"it did not get to be killed: {program.complaint('begin')}")
        kill(child)
    return read()


def _run_again(program: Program, before: _Log) -> tuple[float | None, _Log]:
    read = _reader(program, "again")

    def complete() -> bool:
        return len(before.through(3) | read().through(3)) == ITEMS

    began = time.monotonic()
    with program.started("again", ITEMS) as child:
        _wait(complete, WITHIN, child)
        seconds = time.monotonic() - began
    return seconds if complete() else None, read()


def _wait(condition: Callable[[], bool], seconds: float, child: "subprocess.Popen[str]") -> None:
    """Look again and again until it holds, the time is over, or nobody is left to bring it."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until and child.poll() is None:
        time.sleep(_LOOK)


def _judged(before: _Log, after: _Log, seconds: float | None) -> Kept:
    interrupted = before.begun - before.finished
    return Kept(
        items=ITEMS,
        finished_steps=len(before.finished),
        interrupted_steps=len(interrupted),
        completed=len(before.through(3) | after.through(3)),
        repeated=len(before.finished & after.begun),
        restarted=len(interrupted & after.begun),
        seconds=seconds,
    )


def _reader(program: Program, mode: str) -> Callable[[], _Log]:
    return lambda: _read(program.directory / f"{mode}.log")


def _read(path: Path) -> _Log:
    text = path.read_text() if path.exists() else ""
    lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    begun, finished = (
        frozenset((int(step), int(item)) for what, step, item in lines if what == kind)
        for kind in ("begun", "finished")
    )
    return _Log(begun, finished)
