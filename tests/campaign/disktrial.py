"""What the trials of a disk that refuses have in common: the faults, what was seen, the checks."""

import io
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from stagerun import Runtime, StoreError
from stagerun.engine.recorder import Recorder
from stagerun.store.transaction import Receipt, Transaction
from stagerun.store.writer import Writer
from stagerun.testing.determinism import deterministic
from tests.campaign import shim
from tests.campaign.images import look
from tests.campaign.told import Say, Told

__all__ = [
    "CASES",
    "LAST_COMMITS",
    "PLANTS",
    "Case",
    "Seen",
    "check_told",
    "fired",
    "hearing",
    "inspect",
    "until",
    "watched",
]

TOLD: Final = "the database refuses a commit"
"""How the line of the log begins by which people hear of it."""
LAST_COMMITS: Final = 0.3
"""Seconds for which commits are tried while leaving, in place of 5."""


@frozen
class Case:
    """Which calls meet what."""

    name: str
    kind: shim.Kind
    mode: int


CASES: Final = {
    case.name: case
    for case in (
        Case("eio", "any", shim.EIO),
        Case("enospc", "write", shim.ENOSPC),
        Case("short", "write", shim.SHORT),
        Case("fsync", "fsync", shim.EIO),
    )
}


@define
class Seen:
    """What came of a trial."""

    fired: int = 0
    """Faults that calls have met."""
    told: int = 0
    """Lines of the log about them."""
    raised: str = ""
    """The ``StoreError`` that reached the program."""
    late: bool = False
    """Whether they fired when all was on disk already, while the files were being closed."""
    wrong: list[str] = field(factory=list)
    figures: dict[str, float] = field(factory=dict)
    said: str = ""
    """The log, where something is wrong."""


async def fired(seen: Seen, runtime: Runtime) -> None:
    """Wait for the first fault. Who is cancelled before was in the last moments of the closing."""
    seen.late = True
    while not shim.fired():  # noqa: ASYNC110 - C code does not tell
        await trio.sleep(0.002)
    seen.late = runtime.closed


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until it holds; False when it does not within so many seconds."""
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110 - health is asked for, nobody is told of it
            await trio.sleep(0.002)
        return True
    return False


def hearing(told: Told) -> Say:
    """Return what takes acknowledgements from any thread."""
    guard = threading.Lock()

    def hear(words: list[Any]) -> None:
        with guard:
            told.hear(words)

    return hear


def watched(seen: Seen, body: Callable[[], Any], seed: int) -> None:
    """Run it, and note what it raises and says."""
    log = sys.stderr = io.StringIO()
    try:
        with deterministic(seed):
            trio.run(body)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
        found = [*_leaves(error)]
        if all(isinstance(each, StoreError) for each in found):
            seen.raised = str(found[0])
        else:
            seen.wrong.append(repr(error))
    finally:
        seen.figures["ended"] = time.perf_counter()
        sys.stderr = sys.__stderr__
    said = log.getvalue()
    seen.told += said.count(TOLD)
    seen.said += said


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Look into the groups that nurseries make."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def check_told(seen: Seen) -> None:
    """Check that no fault was swallowed; one that met SQLite's closing harms nothing."""
    if seen.fired and not (seen.told or seen.raised or seen.late):
        seen.wrong.append(f"{seen.fired} faults fired, and nothing was said")


def inspect(path: Path, told: Told, seen: Seen, *, ended: bool = False) -> None:
    """Look whether the file is sound, and holds whatever was told; *ended*: as without a fault."""
    last = {run: status for (run, _), status in sorted(told.statuses.items())}
    if ended and {*last.values()} != {"succeeded"}:
        seen.wrong.append(f"runs ended {last}")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            seen.wrong += look(connection, told, whole=True)
    except sqlite3.Error as error:
        seen.wrong.append(f"{type(error).__name__}: {error}")
    seen.wrong += told.contradictions
    if not seen.wrong:
        seen.said = ""


# -- planted --------------------------------------------------------------------------------------


def _swallow() -> None:
    """A writer that takes a failed commit for done."""

    async def careless(self: Writer, transaction: Transaction) -> Receipt:
        with suppress(sqlite3.Error):
            return await self._try(transaction)
        return Receipt(((),) * len(transaction.units))

    Writer._persist = careless  # type: ignore[method-assign] # a planted defect


def _silent() -> None:
    """A recorder that keeps its troubles to itself."""
    Recorder.troubled = lambda self, problem: None  # type: ignore[method-assign] # as above


PLANTS: Final = {"swallowed commits": _swallow, "silent trouble": _silent}
"""Defects to be found, by name."""
