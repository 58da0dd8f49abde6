"""The same seed, the same order: trio's scheduler chooses by a seed, and time waits for nobody."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import trio
import trio.testing
from trio._core import _run

from stagerun.errors import UsageError

__all__ = ["deterministic", "run_in_virtual_time"]

T = TypeVar("T")

_ALONE: Final = threading.Lock()
"""trio's order of tasks is one for the whole process: it can follow one seed at a time."""


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Have trio choose the order of its tasks by *seed*; otherwise it does so by chance.

    The two names are private to trio, and known here alone. A test runs the same program twice and
    fails loudly when a new trio has other ones.

    Raises:
        UsageError: Another thread of this process does so just now.
    """
    if not _ALONE.acquire(blocking=False):
        raise UsageError(
            "another thread of this process is in a simulation: have one after the other, or each"
            " in a process of its own"
        )
    before, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()  # noqa: SLF001 - as said
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc] # noqa: SLF001 - as said
    _run._r.seed(seed)  # noqa: SLF001 - as said
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc] # noqa: SLF001 - as said
        _run._r.setstate(state)  # noqa: SLF001 - as said
        _ALONE.release()


def run_in_virtual_time(main: Callable[[], Awaitable[T]], *, seed: int = 0) -> T:
    """Run *main* to its end in trio; where all wait, the clock jumps to when the first one is due.

    Raises:
        UsageError: This is called within a program on trio: it runs one of its own. Or another
            thread of this process is in a simulation.
    """
    if trio.lowlevel.in_trio_run():
        raise UsageError(
            "a simulation has a clock and an event loop of its own: call it from a plain function,"
            " not from one that runs under trio"
        )
    with deterministic(seed):
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
