"""Everything that a run takes from the world, in one value, so that a seed can stand for it."""

import os
import random
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from stagerun.engine.memory import memory

__all__ = ["Env"]


@frozen(kw_only=True)
class Env:
    """The world as the engine sees it. Monotonic time is trio's own, and so is virtual time."""

    wall: Callable[[], float] = time.time
    """Seconds since 1970, UTC."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds of a clock that any thread may read, and nobody sets."""
    cpu: Callable[[], float] = time.process_time
    """Seconds of processor time that this process has used."""
    memory: Callable[[], tuple[int | None, int | None]] = memory
    """Bytes that this process uses, and how many it may; None: not known."""
    jitter: Callable[[], float] = field(factory=lambda: random.Random().random)  # noqa: S311
    """A fair draw from 0 to 1; not for secrets."""
    new_id: Callable[[], str] = lambda: secrets.token_hex(16)
    """A new run's identifier: 128 bits."""
    threads: bool = True
    """Whether blocking code goes to threads. In virtual time it runs in the event loop instead,
    because a thread would let the clock jump."""
    pace: float = 1.0
    """How many times slower than usual goes what nobody waits for: signs of life, and looks at
    others. Simulations of weeks are so much quicker; slots and deadlines stay exact."""
    host_loop: Any = None
    """The loop of the asyncio program that this runtime lives in, if any: ``aio()`` calls there."""
    environ: Mapping[str, str] = field(factory=lambda: dict(os.environ))
    """Where operators' settings come from; read once."""

    def now_us(self) -> int:
        """Wall time in microseconds, as it stands in the database."""
        return int(self.wall() * 1e6)
