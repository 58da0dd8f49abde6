"""Does many things at once, in as many processes as there are cores."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final, TypeVar

__all__ = ["CORES", "on_all_cores"]

R = TypeVar("R")

CORES: Final = os.cpu_count() or 1


def on_all_cores(work: Callable[[Any], R], what: Iterable[Any]) -> Iterator[R]:
    """Do it to each, and give what comes of it, in order; each process begins from nothing."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        yield from pool.map(work, what, chunksize=1)
