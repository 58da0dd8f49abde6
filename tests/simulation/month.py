"""A month of five scheduled pipelines on a computer that is closed now and then.

    python -m tests.simulation.month --days 30 --seed 1

Two processes serve the same schedules on one file. The computer sleeps for hours, its network goes
for minutes, its processes are killed and started again. Afterwards all is told from the database:
what became of each run and of each slot, and how long the runs took that nothing had befallen,
beside the same days without faults.
"""

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio
from attrs import asdict, define, field, frozen

from stagerun import Pipeline, Retry, Schedule, stage
from stagerun.testing.determinism import run_in_virtual_time
from stagerun.testing.inspector import unsound
from stagerun.testing.machine import Process
from tests.conftest import sums_hold
from tests.simulation.laptop import Laptop, Network

__all__ = ["Report", "simulate"]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
BEGIN: Final = 1_772_409_600.0
"""2 March 2026, 00:00 UTC: the clocks of Berlin are put forward in that month."""
MARGIN: Final = 60.0
"""Seconds beyond deadline and grace in which others must have settled a run whose process died."""

PACE: Final = 60.0
"""Signs of life come so many times less often than they do in production: days go by quicker."""
OVERLOOKED: Final = 600.0 + 8 * PACE
"""The same, awake, from the last sign of life of a process: the longest downtime, or a look of the
other one, each of which comes so much later than in production."""


@frozen(kw_only=True)
class Report:
    """What a simulated time came to."""

    days: float
    seed: int
    hours_awake: float
    sleeps: int
    losses: int
    kills: int
    runs: dict[str, int]
    """By status."""
    open_at_the_end: int
    overstayed: int
    """Runs that were under way for longer, awake, than their deadline and grace allow."""
    settled_late: int
    """Runs of a dead process that stayed as they were for longer than a living one may overlook it.
    """
    slots: dict[str, int]
    """fired, skipped and missed."""
    slots_lost: int
    """Slots of the calendar of which nothing is known, or too much."""
    unharmed: int
    """Runs that no fault has befallen."""
    unharmed_not_succeeded: int
    seconds: dict[str, list[float]]
    """Of the unharmed runs of each pipeline: the shortest, the median and the longest."""


def simulate(days: float, seed: int, folder: Path, *, faults: bool = True) -> Report:
    """Live through so many days; everything in them follows from the seed."""
    machine = Laptop(folder / f"{seed}-{faults}.db", seed=seed, begin=BEGIN, pace=PACE)
    plan = _Plan(random.Random(seed), machine, days * DAY)
    run_in_virtual_time(partial(_live, plan, faults), seed=seed)
    with closing(sqlite3.connect(machine.path)) as connection:
        sums_hold(connection)
        assert unsound(connection) == []
        return _report(connection, plan, days, seed)


@define(eq=False)
class _Plan:
    """What befalls the machine, and when."""

    chance: random.Random
    machine: Laptop
    seconds: float
    faults: list[tuple[float, float]] = field(factory=list)
    """From when to when on the wall clock each one lasted."""
    naps: list[tuple[float, float]] = field(factory=list)
    """Those of them in which the machine slept."""
    counts: Counter[str] = field(factory=Counter)
    awake: float = 0.0

    async def befall(self, processes: Sequence[Process]) -> None:
        """Let things happen until the time is over."""
        while (left := BEGIN + self.seconds - self.machine.wall()) > 0:
            await trio.sleep(min(left, self.chance.uniform(5 * MINUTE, 75 * MINUTE)))
            since, what = self.machine.wall(), self.chance.random()
            if what < 0.35:
                self.counts["sleeps"] += 1
                self.machine.shut(self.chance.uniform(5 * MINUTE, 9 * HOUR))
                self.naps.append((since, self.machine.wall()))
            elif what < 0.6:
                self.counts["losses"] += 1
                self.machine.network.up = False
                self.machine.network.drop()
                await trio.sleep(self.chance.uniform(1 * MINUTE, 40 * MINUTE))
                self.machine.network.up = True
            else:
                downtime = self.chance.uniform(0, 10 * MINUTE)
                victims = self.chance.choice([processes[:1], processes[1:], processes])
                self.counts["kills"] += len(victims)
                for process in victims:
                    process.kill(downtime)
                await trio.sleep(downtime)
            self.faults.append((since, self.machine.wall()))


async def _live(plan: _Plan, faults: bool) -> None:
    machine = plan.machine
    schedules = _schedules(machine.network)
    async with trio.open_nursery() as nursery:
        processes = [Process(machine, number, schedules=schedules) for number in range(2)]
        for process in processes:
            nursery.start_soon(process.live)
        if faults:
            await plan.befall(processes)
        else:
            await trio.sleep(plan.seconds)
        plan.awake = trio.current_time()
        _pause_all(machine.path)
        await trio.sleep(2 * HOUR)  # longer than any run's deadline
        nursery.cancel_scope.cancel()


def _schedules(network: Network) -> list[Schedule]:
    """The systems of five teams, each as it would be set up, with calls that hang."""
    patient = Retry(attempts=3, attempt_deadline=60, base=1, cap=10)

    def calls(name: str, seconds: float, **options: Any) -> Any:
        @stage(name=name, **{"deadline": 200, "retry": patient, **options})
        async def call(item: int) -> int:
            await network.call(seconds + item % 7)
            return item

        return call

    items = list(range(24))
    integrity = Pipeline(
        "integrity",
        [calls("pages", 30, workers=4), calls("check", 5, workers=4)],
        source=items, deadline=1800,
    )  # fmt: skip
    theory = Pipeline(
        "theory",
        [calls("code", 40, workers=6), calls("embed", 10), calls("write", 2, deadline=20)],
        source=items, deadline=1800, least_ok=0.5,
    )  # fmt: skip
    book = Pipeline(
        "book", [calls("chapter", 25)], source=items[:10], deadline=1800, on_interrupt="resume"
    )
    programs = Pipeline(
        "programs", [calls("generate", 20, workers=3)], source=items[:12], deadline=900
    )
    provisioning = Pipeline(
        "provisioning", [calls(f"agent_{n}", 12) for n in range(7)], source=[1], deadline=600
    )
    return [
        Schedule("integrity", integrity, every=30 * MINUTE),
        Schedule("theory", theory, cron="5 * * * *", overlap="queue"),
        Schedule("book", book, cron="30 2,14 * * *", zone="Europe/Berlin"),
        Schedule("programs", programs, every=45 * MINUTE, overlap="cancel_previous"),
        Schedule(
            "provisioning", provisioning, cron="*/20 8-18 * * 1-5", zone="Europe/Berlin", active=2
        ),
    ]


def _pause_all(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE schedules SET paused_at = 1")


# -- what it came to ------------------------------------------------------------------------------


def _report(connection: sqlite3.Connection, plan: _Plan, days: float, seed: int) -> Report:
    runs = connection.execute(
        "SELECT r.pipeline, g.status, g.started_at / 1e6, g.finished_at / 1e6, g.cause,"
        " r.created_at / 1e6 FROM runs r JOIN generations g USING (run, generation)"
    ).fetchall()
    limits = {s.pipeline.name: s.pipeline for s in _schedules(Network())}
    unharmed, troubled, overstayed = dict[str, list[float]](), 0, 0
    for pipeline, status, started_at, finished_at, cause, created_at in runs:
        if finished_at is None or started_at is None:
            continue
        policy = limits[pipeline]
        assert policy.deadline is not None
        awake = finished_at - started_at - _overlap(plan.naps, started_at, finished_at)
        overstayed += awake > policy.deadline + policy.grace + MARGIN
        made_room = pipeline == "programs" and status == "cancelled" and cause == "requested"
        if _overlap(plan.faults, created_at, finished_at) == 0.0 and not made_room:
            troubled += status != "succeeded"
            unharmed.setdefault(pipeline, []).append(finished_at - started_at)
    slots = Counter[str]()
    for decision, missed in connection.execute("SELECT decision, missed FROM slots"):
        slots[decision] += 1
        slots["missed"] += missed
    return Report(
        days=days,
        seed=seed,
        hours_awake=round(plan.awake / HOUR, 1),
        sleeps=plan.counts["sleeps"],
        losses=plan.counts["losses"],
        kills=plan.counts["kills"],
        runs=dict(Counter(status for _, status, *_ in runs)),
        open_at_the_end=sum(finished_at is None for *_, finished_at, _, _ in runs),
        overstayed=overstayed,
        settled_late=_settled_late(connection, plan),
        slots=dict(slots),
        slots_lost=_lost(connection),
        unharmed=sum(map(len, unharmed.values())),
        unharmed_not_succeeded=troubled,
        seconds={
            pipeline: [round(of(each), 1) for of in (min, median, max)]
            for pipeline, each in sorted(unharmed.items())
        },
    )


def _settled_late(connection: sqlite3.Connection, plan: _Plan) -> int:
    rows = connection.execute(
        "SELECT o.alive_at / 1e6, g.finished_at / 1e6 FROM generations g JOIN owners o"
        " ON o.owner = g.owner WHERE g.ended_by <> g.owner"
    ).fetchall()
    return sum(
        finished_at - alive_at - _overlap(plan.naps, alive_at, finished_at) > OVERLOOKED
        for alive_at, finished_at in rows
    )


def _overlap(spans: Sequence[tuple[float, float]], since: float, until: float) -> float:
    """How long *spans* and the time from *since* to *until* have in common."""
    return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in spans)


def _lost(connection: sqlite3.Connection) -> int:
    """Compare what was decided with the calendar: each slot fired, skipped, or counted as missed.

    Returns how many are amiss.
    """
    amiss = 0
    for schedule in _schedules(Network()):
        decided = connection.execute(
            "SELECT k.at, k.missed FROM slots k JOIN schedules s USING (schedule) WHERE s.name = ?"
            " ORDER BY k.slot",
            (schedule.name,),
        ).fetchall()
        if not decided:
            continue
        (first, before), last = decided[0], decided[-1][0]
        due = before + 1 + sum(1 for _ in takewhile(last.__ge__, schedule.slots(first)))
        amiss += abs(due - sum(1 + missed for _, missed in decided))
    return amiss


def main() -> int:
    """Simulate, and print the report beside the same days without faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for faults in (True, False):
            began = time.perf_counter()
            report = simulate(
                given.days if faults else min(given.days, 2),
                given.seed,
                Path(folder),
                faults=faults,
            )
            took = round(time.perf_counter() - began, 1)
            reports.append({"faults": faults, "took": took, **asdict(report)})
    printed: Callable[[dict[str, Any]], str] = json.dumps if given.json else _lines
    print("\n\n".join(map(printed, reports)))
    found = reports[0]
    return int(any(found[what] for what in _MUST_BE_ZERO))


_MUST_BE_ZERO = (
    "open_at_the_end",
    "overstayed",
    "settled_late",
    "slots_lost",
    "unharmed_not_succeeded",
)


def _lines(report: dict[str, Any]) -> str:
    return "\n".join(f"{name:24}{value}" for name, value in report.items())


if __name__ == "__main__":
    sys.exit(main())
