"""What `watch` asks beside a run's document, in a thread of its own: it may take a while.

Why a run does not move, which its process must answer; what went wrong, like with like; and how
fast it was in the last minute, also before anybody watched.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from stagerun.cli.display import OUTCOMES
from stagerun.cli.progress import Failures, Line, Progress
from stagerun.engine.asking import ask_why
from stagerun.errors import StoreError
from stagerun.model.status import Counts
from stagerun.store.faults import faults
from stagerun.store.pace import pace
from stagerun.store.subject import subject
from stagerun.store.talk import Talk, talking

__all__ = ["Answers", "Inquiry", "Motion", "inquiring", "progress_of"]

_STILL: Final = 10.0
"""Seconds without any change after which a run is asked why."""
_EVERY: Final = 0.5
"""Seconds between two questions."""
_CALM: Final = 4
"""At least so many times as long as the last one took is waited before the next one."""
_LAST: Final = 1.0
"""Seconds that a question under way keeps the command from ending."""
_SORTS: Final = 3
_NOT_FINE: Final = ("blocked", "suspended", "store_waits", "stalled", "unknown", "queued")
"""Verdicts on a run that is asked why at once."""
_LOST: Final = ("failed", "timed_out", "crashed")
_MOVING: Final = ("status", "percent", "step", "message", "done", "stages")


class Motion:
    """Tells whether a run moves, by what its document says."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        updated = datetime.fromisoformat(document["updated_at"])
        before = (datetime.now(UTC) - updated).total_seconds()
        self._moved = time.monotonic() - max(0.0, before)
        self._seen = _signs(document)

    def stuck(self, document: Mapping[str, Any]) -> bool:
        """Look at the run as it stands now."""
        signs, now = _signs(document), time.monotonic()
        if signs != self._seen:
            self._seen, self._moved = signs, now
        return document["verdict"] in _NOT_FINE or now - self._moved > _STILL


def _signs(document: Mapping[str, Any]) -> list[Any]:
    return [document[name] for name in _MOVING]


@frozen
class Answers:
    """What is known so far."""

    why: str = ""
    failures: tuple[Failures, ...] = ()
    rate: float | None = None
    """Items in a second."""
    left: float | None = None
    """Seconds."""


class Inquiry:
    """Asks about one run, for as long as its thread lives. Answers are replaced as a whole."""

    def __init__(self, database: Path, run: str) -> None:
        self.answers = Answers()
        self._database, self._run = database, run
        self._stuck, self._lost, self._told = False, 0, 0
        self._over = threading.Event()

    def look(self, document: Mapping[str, Any], *, stuck: bool) -> None:
        """Hear where the run stands: that decides what is asked."""
        self._stuck = stuck
        self._lost = sum(stage[name] for stage in document["stages"] for name in _LOST)

    def ask_on(self) -> None:
        """Ask again and again, until told to stop."""
        while not self._over.is_set():
            try:
                with talking(self._database) as talk:
                    took = 0.0
                    while not self._over.wait(max(_EVERY, _CALM * took)):
                        began = time.monotonic()
                        self._ask(talk)
                        took = time.monotonic() - began
            except StoreError as error:
                self.answers = evolve(self.answers, why=str(error))
                self._over.wait(_EVERY)

    def stop(self) -> None:
        """Ask nothing more."""
        self._over.set()

    def _ask(self, talk: Talk) -> None:
        if self._lost != self._told:
            self._told = self._lost
            self.answers = evolve(self.answers, failures=_sorts(talk, self._run))
        why = ""
        if self._stuck:
            why = talk.hold(ask_why(self._run, {"by": "watch"}, _now))["summary"]
        told = talk.ask(pace(self._run))
        rate, left = told["items_per_second"], told["seconds_left"]
        self.answers = evolve(self.answers, why=why, rate=rate, left=left)


def _sorts(talk: Talk, run: str) -> tuple[Failures, ...]:
    found, _ = talk.ask(lambda connection: faults(connection, subject(connection, run)))
    names = ("stage", "outcome", "count", "message")
    return tuple(Failures(**{name: sort[name] for name in names}) for sort in found[:_SORTS])


@contextmanager
def inquiring(database: Path, run: str) -> Iterator[Inquiry]:
    """Ask about a run until the block is left."""
    inquiry = Inquiry(database, run)
    thread = threading.Thread(target=inquiry.ask_on, name="stagerun-inquiry", daemon=True)
    thread.start()
    try:
        yield inquiry
    finally:
        inquiry.stop()
        thread.join(_LAST)


def progress_of(document: Mapping[str, Any], answers: Answers) -> Progress:
    """Return what a picture needs of a run's document and of what was asked beside it."""
    deadline = document["deadline_at"]
    names = ("name", "accepted", "in_flight", *OUTCOMES)
    return Progress(
        pipeline=document["pipeline"],
        id=document["id"],
        status=document["status"],
        verdict=document["verdict"],
        percent=document["percent"],
        source_length=document["source_length"],
        stages=tuple(
            Counts(**{name: stage[name] for name in names}) for stage in document["stages"]
        ),
        labels=tuple(f"{name}={value}" for name, value in document["labels"].items()),
        deadline_in=None if deadline is None else _seconds_until(deadline),
        notice=document["message"] or "",
        rate=answers.rate,
        left=answers.left,
        why=answers.why,
        failures=answers.failures,
        log=_lines(document["recent_logs"]),
        hint="Ctrl-C detaches, the run goes on",
    )


def _lines(logs: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    names = ("time", "level", "stage", "message")
    return tuple(Line(**{name: line[name] for name in names}) for line in logs)


def _seconds_until(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def _now() -> int:
    return time.time_ns() // 1_000
