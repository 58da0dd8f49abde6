"""Strategies for hypothesis: faults, items, and pipelines whose outcome is known.

What they draw shrinks: to few faults, each as plain as it can be, to short pipelines of plain
stages. Needs ``stagerun[testing]``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from hypothesis import strategies as st

from stagerun.errors import PolicyError
from stagerun.testing.cases import Doing, PipelineCase, StageCase
from stagerun.testing.faults import (
    ClockJump,
    Crash,
    DiskError,
    Fault,
    FaultPlan,
    Freeze,
    Lock,
    LostFile,
    Shutdown,
    Sleep,
    SlowDisk,
)

__all__ = ["durations", "fault_plans", "faults", "items", "pipelines", "plain_faults", "values"]

_Faults = st.SearchStrategy[Fault]


def fault_plans(
    *,
    seconds: float = 3600.0,
    processes: int = 1,
    kinds: Sequence[str] | None = None,
    most: int = 6,
) -> st.SearchStrategy[FaultPlan]:
    """Plans of what befalls a computer; they shrink to none, or to the few faults that matter.

    Args:
        seconds: Within which time the faults begin.
        processes: How many processes there are to befall.
        kinds: Those to draw from, as for ``FaultPlan.random()``; None: all.
        most: Faults in a plan at most.
    """
    single = faults(seconds=seconds, processes=processes, kinds=kinds)
    return st.lists(single, max_size=most).map(FaultPlan)


def faults(
    *, seconds: float = 3600.0, processes: int = 1, kinds: Sequence[str] | None = None
) -> _Faults:
    """Single faults; arguments as for ``fault_plans()``. A crash is the plainest of them.

    Raises:
        PolicyError: There is no such kind.
    """
    for kind in kinds or ():
        if kind not in _FAULTS:
            known = ", ".join(_FAULTS)
            raise PolicyError("faults.kinds", f"{kind!r} is not one of {known}")
    at, process = _moments(seconds), st.integers(0, processes - 1)
    wanted = [make for kind, make in _FAULTS.items() if kinds is None or kind in kinds]
    return st.one_of([make(at, process) for make in wanted])


def _moments(seconds: float) -> st.SearchStrategy[float]:
    return st.integers(0, round(seconds * 1000)).map(lambda milliseconds: milliseconds / 1000)


def durations(most: float, *, least: float = 0.0) -> st.SearchStrategy[float]:
    """Seconds, as often short as long; they shrink to *least*."""
    steps = [most / 4**power for power in range(10)]
    return st.sampled_from(sorted({least, *[round(step, 3) for step in steps if step > least]}))


_FAULTS: Final[Mapping[str, Callable[[st.SearchStrategy[float], st.SearchStrategy[int]], Any]]] = {
    "crash": lambda at, process: st.builds(Crash, at=at, process=process, downtime=durations(60)),
    "shutdown": lambda at, process: st.builds(
        Shutdown, at=at, process=process, downtime=durations(20)
    ),
    "freeze": lambda at, process: st.builds(Freeze, at=at, process=process, seconds=durations(60)),
    "sleep": lambda at, _: st.builds(Sleep, at=at, seconds=durations(250_000)),
    "clock": lambda at, _: st.builds(
        ClockJump, at=at, seconds=st.integers(-1_000_000, 1_000_000).map(float)
    ),
    "lock": lambda at, _: st.builds(Lock, at=at, seconds=durations(30)),
    "slow disk": lambda at, _: st.builds(
        SlowDisk, at=at, seconds=durations(30), each=durations(0.9, least=0.01)
    ),
    "disk error": lambda at, _: st.builds(
        DiskError,
        at=at,
        seconds=durations(10),
        error=st.sampled_from(["SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_FULL"]),
    ),
    "lost file": lambda at, process: st.builds(LostFile, at=at, process=process),
}


def plain_faults(processes: int = 1, kinds: Sequence[str] | None = None) -> list[Fault]:
    """Return faults of each kind in a few sizes, the plainest ones first; all strike at once."""
    all_of_them = list[Fault]()
    for kind in _PLAIN if kinds is None else kinds:
        make, sizes = _PLAIN[kind]
        for size in sizes:
            all_of_them += dict.fromkeys(make(size, each) for each in range(processes))
    return all_of_them


_SECONDS: Final = (0.0, 0.01, 0.3, 3.0, 30.0)
_PLAIN: Final[Mapping[str, tuple[Callable[[Any, int], Fault], Sequence[Any]]]] = {
    "crash": (lambda size, each: Crash(at=0, process=each, downtime=size), _SECONDS),
    "shutdown": (lambda size, each: Shutdown(at=0, process=each, downtime=size), _SECONDS),
    "freeze": (lambda size, each: Freeze(at=0, process=each, seconds=size), _SECONDS[1:]),
    "lock": (lambda size, _: Lock(at=0, seconds=size), _SECONDS[1:]),
    "slow disk": (lambda size, _: SlowDisk(at=0, seconds=30, each=size), (0.01, 0.1, 0.9)),
    "disk error": (
        lambda size, _: DiskError(at=0, seconds=3, error=size),
        ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_FULL"),
    ),
    "sleep": (lambda size, _: Sleep(at=0, seconds=size), (10.0, 3600.0, 250_000.0)),
    "clock": (
        lambda size, _: ClockJump(at=0, seconds=size),
        (10.0, -10.0, 3600.0, -3600.0, 1e6, -1e6),
    ),
    "lost file": (lambda _, each: LostFile(at=0, process=each), (None,)),
}


def values() -> st.SearchStrategy[Any]:
    """Whatever comes back from the database as it was: what JSON can say, and bytes."""
    plain = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.binary(max_size=20)
    )
    return st.recursive(
        plain,
        lambda parts: (
            st.lists(parts, max_size=4)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), parts)
        ),
        max_leaves=8,
    )


def items(
    each: st.SearchStrategy[Any] | None = None, *, most: int = 20
) -> st.SearchStrategy[list[Any]]:
    """Lists of what a run is started with: of *each*, at most so many; None: of ``values()``."""
    return st.lists(values() if each is None else each, max_size=most)


@st.composite
def pipelines(
    draw: st.DrawFn,
    *,
    stages: int = 4,
    kinds: Sequence[str] = ("each", "many", "batch", "collect"),
    endings: Sequence[str] = ("returns", "drops", "fails", "hangs"),
) -> PipelineCase:
    """Pipelines of made-up stages, with items, and with what must come of them.

    Args:
        draw: Given by hypothesis.
        stages: So many at most.
        kinds: Of stages. The first stage is none that collects.
        endings: How stages end with some items.
    """
    count = draw(st.integers(1, stages))
    chosen = [
        draw(st.sampled_from([kind for kind in kinds if number or kind != "collect"]))
        for number in range(count)
    ]
    return PipelineCase(
        stages=tuple(draw(_STAGES[kind](endings)) for kind in chosen),
        items=tuple(draw(st.lists(st.integers(0, 9), max_size=12))),
    )


_WORK: Final = (0.0, 0.1, 1.0, 5.0)
"""Seconds for an attempt: mostly long enough for something to befall it."""


def _doings(endings: Sequence[str], *, failures: int) -> st.SearchStrategy[tuple[Doing, ...]]:
    one = st.builds(
        Doing,
        seconds=st.sampled_from(_WORK),
        failures=st.integers(0, failures),
        ending=st.sampled_from(endings),
    )
    return st.lists(one, min_size=1, max_size=4).map(tuple)


def _stages(
    kind: str,
    endings: Sequence[str],
    *,
    without: Sequence[str] = (),
    failures: int = 3,
    **more: st.SearchStrategy[Any],
) -> st.SearchStrategy[StageCase]:
    possible = [ending for ending in endings if ending not in without] or ["returns"]
    return st.builds(
        StageCase,
        kind=st.just(kind),
        doings=_doings(possible, failures=failures),
        workers=st.integers(1, 4),
        attempts=st.integers(1, 3),
        deadline=st.sampled_from([60.0, 120.0]),
        **more,
    )


_STAGES: Final[Mapping[str, Callable[[Sequence[str]], st.SearchStrategy[StageCase]]]] = {
    "each": partial(_stages, "each", keyed=st.booleans()),
    "many": partial(_stages, "many", without=["drops"], children=st.integers(0, 3)),
    # What becomes of one item of a batch must not depend on who else is in it.
    "batch": partial(_stages, "batch", without=["hangs"], failures=0, size=st.integers(1, 5)),
    "collect": partial(_stages, "collect", without=["drops"], groups=st.integers(1, 3)),
}
