"""What may befall a computer and the processes on it, as values: a plan of faults is a list."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from stagerun.errors import PolicyError
from stagerun.store.driver import PASSING

__all__ = [
    "CALM",
    "ClockJump",
    "Crash",
    "DiskError",
    "Fault",
    "FaultPlan",
    "Freeze",
    "Lock",
    "LostFile",
    "Shutdown",
    "Sleep",
    "SlowDisk",
]


def _from_zero(fault: "Fault", attribute: Any, value: float) -> None:
    if not 0 <= value < float("inf"):
        option = f"{type(fault).__name__}.{attribute.name}"
        raise PolicyError(option, f"must be seconds from 0, got {value!r}")


def _finite(fault: "Fault", attribute: Any, value: float) -> None:
    _from_zero(fault, attribute, abs(value))


@frozen(kw_only=True)
class Fault:
    """Something that happens so many seconds after the beginning, on a clock that never jumps."""

    at: float = field(validator=_from_zero)


@frozen(kw_only=True)
class Crash(Fault):
    """A process is killed, as by kill -9, and started again after a while."""

    process: int = 0
    downtime: float = field(default=1.0, validator=_from_zero)


@frozen(kw_only=True)
class Shutdown(Fault):
    """A process is asked to leave, as by SIGTERM, and started again after a while."""

    process: int = 0
    downtime: float = field(default=1.0, validator=_from_zero)


@frozen(kw_only=True)
class Freeze(Fault):
    """A process is stopped, as by SIGSTOP, and goes on later. Time goes on without it."""

    process: int = 0
    seconds: float = field(default=10.0, validator=_from_zero)


@frozen(kw_only=True)
class Sleep(Fault):
    """The computer is shut and opened again: only the clock on the wall has gone on."""

    seconds: float = field(default=3600.0, validator=_from_zero)


@frozen(kw_only=True)
class ClockJump(Fault):
    """Somebody sets the clock on the wall forward, or back."""

    seconds: float = field(default=-3600.0, validator=_finite)


@frozen(kw_only=True)
class Lock(Fault):
    """Somebody else holds the database's write lock for so long."""

    seconds: float = field(default=10.0, validator=_from_zero)


@frozen(kw_only=True)
class SlowDisk(Fault):
    """For so many seconds each commit takes *each* seconds."""

    seconds: float = field(default=30.0, validator=_from_zero)
    each: float = field(default=0.5, validator=_from_zero)


@frozen(kw_only=True)
class DiskError(Fault):
    """For so long the disk refuses each commit. *error*: by SQLite's name of it."""

    seconds: float = field(default=10.0, validator=_from_zero)
    error: str = field(default="SQLITE_IOERR_WRITE")

    @error.validator
    def _check_error(self, _attribute: Any, value: str) -> None:
        if not value.startswith(PASSING):
            known = ", ".join(PASSING)
            raise PolicyError("DiskError.error", f"must begin with one of {known}, got {value!r}")


@frozen(kw_only=True)
class LostFile(Fault):
    """Somebody deletes the file that a process keeps locked to show that it lives."""

    process: int = 0


_Draw = Callable[[random.Random, float, int], Fault]
_DRAWS: Final[Mapping[str, _Draw]] = {
    "crash": lambda dice, at, process: Crash(
        at=at,
        process=process,
        downtime=dice.choice([0.0, dice.uniform(0, 2), dice.uniform(0, 60), dice.uniform(0, 300)]),
    ),
    "shutdown": lambda dice, at, process: Shutdown(
        at=at, process=process, downtime=dice.uniform(0, 20)
    ),
    "freeze": lambda dice, at, process: Freeze(
        at=at, process=process, seconds=dice.choice([dice.uniform(0, 3), dice.uniform(0, 60)])
    ),
    "sleep": lambda dice, at, _: Sleep(at=at, seconds=10 ** dice.uniform(1, 5.4)),
    "clock": lambda dice, at, _: ClockJump(
        at=at, seconds=dice.choice([-1, 1]) * 10 ** dice.uniform(0, 6)
    ),
    "lock": lambda dice, at, _: Lock(
        at=at, seconds=dice.choice([dice.uniform(0, 1), dice.uniform(0, 30), dice.uniform(0, 120)])
    ),
    "slow disk": lambda dice, at, _: SlowDisk(
        at=at, seconds=dice.uniform(1, 30), each=dice.uniform(0.01, 0.9)
    ),
    "disk error": lambda dice, at, _: DiskError(
        at=at,
        seconds=dice.uniform(0, 10),
        error=dice.choice(["SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_FULL"]),
    ),
    "lost file": lambda _, at, process: LostFile(at=at, process=process),
}


def _by_time(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    faults = tuple(faults)
    for each in faults:
        if not isinstance(each, Fault):
            raise PolicyError("FaultPlan.faults", f"must be faults, such as a Crash, got {each!r}")
    return tuple(sorted(faults, key=lambda fault: fault.at))


@frozen
class FaultPlan:
    """Faults in the order of their times, and the seed that they came from, if any."""

    faults: tuple[Fault, ...] = field(default=(), converter=_by_time)

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        seconds: float = 3600.0,
        processes: int = 1,
        most: int = 10,
        kinds: Sequence[str] | None = None,
    ) -> "FaultPlan":
        """Draw a plan: which kinds of faults there are differs from seed to seed, and how many.

        Mixing all kinds always would let one hide what another one shows.

        Args:
            seed: What the plan follows from.
            seconds: Within which time the faults come.
            processes: How many processes there are to befall.
            most: How many faults there are at most.
            kinds: Those to draw from: crash, shutdown, freeze, sleep, clock, lock, slow disk, disk
                error, lost file. None: all.
        """
        known = [*_DRAWS]
        for kind in kinds or ():
            if kind not in _DRAWS:
                raise PolicyError("FaultPlan.kinds", f"{kind!r} is not one of {', '.join(known)}")
        for option, value, least in (("seconds", seconds, 0), ("processes", processes, 1)):
            if not least <= value < float("inf"):
                raise PolicyError(f"FaultPlan.{option}", f"must be {least} or more, got {value!r}")
        dice = random.Random(seed)  # noqa: S311 - it shall follow from the seed
        weights = {kind: dice.choice([0, 0, 1, 5]) for kind in kinds or known}
        mix = [kind for kind, weight in weights.items() for _ in range(weight)]
        count = dice.randint(min(1, most), most) if mix else 0
        return cls(
            _DRAWS[dice.choice(mix)](dice, dice.uniform(0, seconds), dice.randrange(processes))
            for _ in range(count)
        )

    @property
    def end(self) -> float:
        """When the last fault is over, in seconds from the beginning."""
        return max((fault.at + getattr(fault, "seconds", 0.0) for fault in self.faults), default=0)


CALM: Final = FaultPlan()
"""Nothing happens."""
