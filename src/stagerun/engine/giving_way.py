"""A busy event loop gives way to the store's thread, as any other busy thread would.

CPython asks a thread for its lock when another one has waited for it for 5 ms in which
nobody has let go of it. trio lets go of it in each round, for the microseconds of a look at its
sockets: too short for anybody to take it, and whoever waits begins to wait anew. So a loop whose
rounds are shorter than 5 ms keeps the lock for itself for as long as it has something to do, and
nothing of it gets to the disk. (CPython 3.11, Python/ceval_gil.h, take_gil; the same up to 3.14.)

So the loop pauses after 5 ms; and, while much waits for the disk, whenever the store's thread comes
back from SQLite, which says beforehand when that will be.
"""

import time
from collections.abc import Callable

import trio

from stagerun.engine.env import Env
from stagerun.store.demand import Demand

__all__ = ["MOMENT", "SHORT_TURN", "TURN", "GivingWay"]

TURN = 0.005
"""Seconds for which the loop may be busy without a pause: CPython's own measure."""
SHORT_TURN = 0.001
"""The same while somebody waits for the store: a small run, beside a large one that fills it."""
MOMENT = 0.0002
"""And while its thread wants the lock at this moment, with much waiting behind it."""
_PAUSE = 0.0001
"""Seconds of a pause: long enough for a thread to wake up and take the lock."""
_LONG_PAUSE = 0.0005
"""Of one in short turns: long enough for a small commit."""


class GivingWay(trio.abc.Instrument):
    """Pauses a loop that has had no pause of its own for a turn; *turn* tells how long that is.

    It is asked after a short turn, and before that when *demand* says that the lock is wanted.
    """

    def __init__(self, env: Env, demand: Demand, turn: Callable[[], float]) -> None:
        self._demand = demand
        self._turn = turn
        self._clock = env.monotonic
        self._paused_at = env.monotonic()
        self._waits_since = 0.0

    def before_io_wait(self, timeout: float) -> None:
        """Hear that the loop looks at its sockets now, and may wait."""
        now = self._waits_since = self._clock()
        busy = now - self._paused_at
        wanted = busy > SHORT_TURN or (now > self._demand.due and busy > MOMENT)
        if wanted and timeout < _PAUSE and busy > (turn := self._turn()):
            time.sleep(_LONG_PAUSE if turn == SHORT_TURN else _PAUSE)
            self._paused_at = self._clock()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - as above
        """Hear that it goes on: if it has waited indeed, that was a pause."""
        now = self._clock()
        if now - self._waits_since > _PAUSE:
            self._paused_at = now
