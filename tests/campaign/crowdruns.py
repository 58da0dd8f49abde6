"""The pipelines of a crowd. Which items a process has in hand is noted beside the database.

All append to one file, by words that the kernel takes at once: that is the truth, whatever the
database says.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

from stagerun import Pipeline, Retry, Schedule, stage

__all__ = [
    "EXECUTED",
    "GRACE",
    "PIPELINES",
    "SIZES",
    "UNMARKED",
    "brief",
    "hung",
    "often",
    "outcome",
    "steady",
    "tiny",
]

EXECUTED: Final = "CAMPAIGN_EXECUTED"
"""The variable that holds the descriptor of the file in which executions are noted."""
GRACE: Final = 0.5
UNMARKED: Final = "-"
"""In place of its run's mark: the schedule's runs have none, and share their items' names."""
SIZES: Final = {"steady": 8, "brief": 6, "tiny": 1, "often": 3, "hung": 3}
"""Items of a run, by its pipeline."""


def outcome(n: int) -> int | None:
    """Return what comes of item *n* in the end; None: it fails."""
    return None if n % 7 == 3 else n * 1_000


@contextmanager
def executed(ctx: Any, place: str, n: int) -> Iterator[None]:
    """Note that an item is in hand, by words that the kernel appends at once."""
    words = f"{os.getpid()} {(ctx.params or {}).get('mark', UNMARKED)} {place} {n}"
    _note(f"{words} begins {time.monotonic():.6f}\n")
    try:
        yield
    finally:
        _note(f"{words} ends {time.monotonic():.6f}\n")


def _note(line: str) -> None:
    os.write(int(os.environ[EXECUTED]), line.encode())


@stage(workers=4, retry=Retry(attempts=2, base=0.0))
async def walk(n: int, ctx: Any) -> int:
    with executed(ctx, "walk", n):
        await trio.sleep((ctx.params or {}).get("rest", 0.01) * (1 + n % 3))
        if n % 5 == 0 and ctx.attempt == 1:
            raise OSError("comes right the second time")
        if outcome(n) is None:
            raise ValueError("never comes right")
    return n


@stage(workers=2)
async def arrive(n: int, ctx: Any) -> int:
    with executed(ctx, "arrive", n):
        return n * 1_000


@stage(workers=2)
async def hang(n: int, ctx: Any) -> int:
    with executed(ctx, "hang", n):
        while True:
            try:
                await trio.sleep_forever()
            except BaseException:  # noqa: BLE001 - a stage that does not stop, as they are
                continue


def _pipeline(name: str, *, resumes: bool = False) -> Pipeline:
    return Pipeline(
        name,
        [hang] if name == "hung" else [walk, arrive],
        source=range(1, SIZES[name] + 1),
        on_interrupt="resume" if resumes else "settle",
        resumes=1_000,
        deadline=120,
        grace=GRACE,
    )


steady = _pipeline("steady", resumes=True)
brief = _pipeline("brief")
tiny = _pipeline("tiny")
hung = _pipeline("hung")
PIPELINES: Final = (steady, brief, tiny)
often = Schedule("often", _pipeline("often"), every=1, active=3)
