"""The simulated parts: seeds of whole systems, bugs on purpose, and a year of schedules."""

import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

from tests.campaign.cores import CORES, on_all_cores
from tests.campaign.part import Part
from tests.simulation import month
from tests.simulation.plants import PLANTS
from tests.simulation.swarm import Verdict, live

__all__ = ["plants", "seeds", "year"]

_SEED = "python -m tests.simulation.swarm"
_TWICE = 50
"""One seed in so many is lived through twice: its traces must be equal."""


def seeds(count: int, first: int) -> Part:
    """Live through *count* seeds, from *first* on."""
    began, counts, violations, virtual = time.perf_counter(), Counter[str](), list[str](), 0.0
    for verdict, again in on_all_cores(_lived, range(first, first + count)):
        virtual += verdict.seconds
        counts += verdict.counts
        violations += [f"{_SEED} --only {verdict.seed}: {each}" for each in verdict.violations]
        if again is not None:
            counts["lived through twice"] += 1
            if again != verdict.trace:
                violations.append(f"{_SEED} --only {verdict.seed}: another trace the second time")
    spent = time.perf_counter() - began
    return Part(
        name="simulation",
        what=(
            "Whole systems in virtual time: one to three processes on one database, the real"
            " engine, rules and SQL, customers that start, cancel and resume runs, stages that"
            " fail, hang and swallow, and a mix of faults that differs from seed to seed. Every"
            " commit is checked against the one before; then the faults end, everything must"
            " become terminal, and each item is compared with what had to come of it."
        ),
        command=f"python -m tests.campaign --seeds {count} --first {first}",
        trials=count,
        violations=tuple(violations),
        seconds=spent,
        counts={
            "virtual hours": round(virtual / 3600),
            "seeds a minute and core": round(count / spent * 60 / CORES, 1),
            **dict(sorted(counts.items())),
        },
    )


def plants(most: int, name: str | None = None) -> Part:
    """Look for each bug on purpose, or for one of them, in up to *most* seeds."""
    began, names = time.perf_counter(), [name] if name else [*PLANTS]
    found = dict(zip(names, on_all_cores(partial(_first_red, most), names), strict=True))
    missed = [each for each, seed in found.items() if seed is None]
    spent = time.perf_counter() - began
    at = [seed + 1 for seed in found.values() if seed is not None]
    return Part(
        name="planted bugs",
        what=(
            "Bugs on purpose, one at a time: the same simulation must find each of them within so"
            " many seeds. A harness that has never found one is not to be believed."
        ),
        command=f"python -m tests.campaign --plant {name or 'all'} --most {most}",
        trials=len(names),
        violations=tuple(f"{_SEED} --seeds {most} --plant {each}: not found" for each in missed),
        seconds=spent,
        counts={
            "found": len(at),
            "seeds needed, median": median(at) if at else 0,
            "seeds needed, most": max(at, default=0),
            "found by seed": ", ".join(f"{each} {seed}" for each, seed in found.items()),
        },
    )


def year(days: float, seed: int, folder: Path) -> Part:
    """Live through so many days of scheduled pipelines."""
    began = time.perf_counter()
    report = month.simulate(days, seed, folder)
    violations = [
        f"{name.replace('_', ' ')}: {getattr(report, name)}"
        for name in (
            "open_at_the_end",
            "overstayed",
            "settled_late",
            "slots_lost",
            "unharmed_not_succeeded",
        )
        if getattr(report, name)
    ]
    command = f"python -m tests.simulation.month --days {days:g} --seed {seed}"
    return Part(
        name="a year of schedules",
        what=(
            "Five scheduled pipelines on two processes of a computer that sleeps for hours, loses"
            " its network and has its processes killed: no run stays open or overstays, no slot is"
            " lost, and what no fault has befallen succeeds."
        ),
        command=command,
        trials=sum(report.runs.values()),
        violations=tuple(f"{command}: {each}" for each in violations),
        seconds=time.perf_counter() - began,
        counts={
            "virtual days": days,
            "hours awake": round(report.hours_awake),
            "sleeps": report.sleeps,
            "losses of the network": report.losses,
            "kills": report.kills,
            "slots": ", ".join(f"{count} {name}" for name, count in report.slots.items()),
            "runs that no fault has befallen": report.unharmed,
        },
    )


def _lived(seed: int) -> tuple[Verdict, str | None]:
    verdict = live(seed)
    return verdict, live(seed).trace if seed % _TWICE == 0 else None


def _first_red(most: int, name: str) -> int | None:
    plant = PLANTS[name]
    red = (seed for seed in range(most) if plant.is_found(live(seed, name).violations))
    return next(red, None)
