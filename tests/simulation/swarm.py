"""Whole systems in virtual time, each from a seed: processes, customers, faults, and the truth.

    python -m tests.simulation.swarm --seeds 1000
    python -m tests.simulation.swarm --only 137        # one seed, with all that happened

For three minutes customers start runs, cancel them and resume them, on two or three processes that
share a database, while what the seed says befalls the computer. Then the faults end, and so must
every run; what was interrupted is resumed; and what came of each item is compared with what had to.
"""

import argparse
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, frozen

from stagerun.testing.determinism import run_in_virtual_time
from stagerun.testing.faults import (
    Crash,
    Fault,
    FaultPlan,
    Freeze,
    LostFile,
    Shutdown,
    Sleep,
)
from stagerun.testing.inspector import Inspector, unsound
from stagerun.testing.machine import Machine, Process
from stagerun.testing.nemesis import befall
from tests.conftest import sums_hold
from tests.simulation.customers import Customers
from tests.simulation.ground import Truth
from tests.simulation.judgement import Judgement
from tests.simulation.plants import PLANTS
from tests.simulation.workloads import RUN, Oracle, pipelines

__all__ = ["Verdict", "live"]

SAFETY: Final = 200.0
"""Seconds in which faults come."""
PATIENCE: Final = 100.0
"""Seconds beyond them that a customer waits."""
REAL: Final = 120.0
"""Seconds of real time for one seed, which takes less than one of them."""
_COMES_TOGETHER: Final = 0.6
"""Share of the lost files whose process then stands still."""
_ROBBED_SEEDS: Final = 0.15
"""Share of the seeds in which a process certainly loses its file and stands still."""
_DEADLY_SEEDS: Final = 0.2
"""Share of the seeds in which a process that was killed is killed again and again."""
LIVENESS: Final = 3 * RUN + 60.0
"""Seconds in which all must have ended after that: a run may wait for two others before it."""


@frozen(kw_only=True)
class Verdict:
    """What became of one seed."""

    seed: int
    violations: tuple[str, ...]
    trace: str
    seconds: float
    counts: Counter[str]
    log: tuple[str, ...]


def live(seed: int, plant: str | None = None) -> Verdict:
    """Live through what follows from *seed*; *plant*: with that bug in the engine."""
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="swarm-", dir=folder) as place,
        PLANTS[plant].planted() if plant else nullcontext(),
    ):
        system = _System.of(seed, Path(place) / "runs.db")
        try:
            with _within(REAL):
                seconds = run_in_virtual_time(system.live, seed=seed)
        except Exception as error:  # noqa: BLE001 - whatever comes out of a runtime is a finding
            seconds = 0.0
            system.inspector.violations.append(f"a process failed: {_innermost(error)!r}")
        finally:
            system.truth.close()
        system.compare(died=not seconds)
        machine = system.machine
        return Verdict(
            seed=seed,
            violations=tuple(system.inspector.violations),
            trace=machine.trace,
            seconds=seconds,
            counts=system.counts,
            log=tuple(machine.log),
        )


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` after so many seconds of real time: virtual time may stand still."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"virtual time stands still, or nearly so: {seconds:g} s have passed")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@define(eq=False)
class _System:
    """A machine, its processes, and those who want something of them."""

    machine: Machine
    oracle: Oracle
    truth: Truth
    inspector: Inspector
    dice: random.Random
    plan: FaultPlan
    processes: Sequence[Process]
    customers: Customers

    @classmethod
    def of(cls, seed: int, path: Path) -> "_System":
        dice = random.Random(seed)
        machine = Machine(
            path,
            seed=seed,
            pace=dice.choice([4.0, 8.0]),
            latency=dice.choice([0.0, 0.002, 0.02]),
        )
        count = dice.choice([1, 2, 2, 3])
        plan = FaultPlan.random(
            dice.getrandbits(32), seconds=SAFETY, processes=count, most=dice.choice([3, 10, 30])
        )
        plan, size = FaultPlan((*plan.faults, *_worse(plan, dice))), dice.choice([1, 4, 12])
        if count > 1 and dice.random() < _ROBBED_SEEDS:
            machine.pace, size = 2.0, 30  # others act while its runs have time and work left
            plan = FaultPlan((*plan.faults, *_robbed(dice.randrange(count), dice)))
        inspector = Inspector(machine)
        truth = Truth(machine, inspector)
        oracle = Oracle.of(seed)
        known = pipelines(oracle, truth, lambda: size)
        truth.workers = {each.name: each.workers for one in known for each in one.stages}
        truth.processes = [Process(machine, number, known) for number in range(count)]
        names = {pipeline.name: pipeline for pipeline in known}
        customers = Customers(truth, inspector, truth.processes, names, size)
        machine.observers += [inspector, truth]
        return cls(machine, oracle, truth, inspector, dice, plan, truth.processes, customers)

    async def live(self) -> float:
        """Live to the end; return how many seconds that were."""
        async with trio.open_nursery() as nursery:
            for process in self.processes:
                nursery.start_soon(process.live)
            await trio.sleep(0.5)
            nursery.start_soon(self.truth.watch)
            with trio.move_on_after(SAFETY + PATIENCE):
                async with trio.open_nursery() as under_fire:
                    under_fire.start_soon(befall, self.machine, self.processes, self.plan)
                    for number in range(self.dice.choice([1, 2, 4, 6])):
                        dice = random.Random(f"{number}/{self.machine.seed}")
                        under_fire.start_soon(self.customers.want, dice, 0.8 * SAFETY)
                    await trio.sleep(SAFETY)
            self.machine.note("the faults are over")
            with trio.move_on_after(2 * LIVENESS + len(self.customers.keys) * RUN) as patience:
                await self._settle()
            if patience.cancelled_caught:
                self.inspector.violate("it is over, and somebody waits for ever")
            nursery.cancel_scope.cancel()
        return trio.current_time()

    # -- the end --------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait until all has ended; have resumed what was interrupted, and wait again."""
        since, dice = trio.current_time(), random.Random(self.machine.seed)
        resumed = set[str]()
        while trio.current_time() - since < LIVENESS + len(resumed) * RUN:
            await trio.sleep(5)
            if self.truth.ask("SELECT 1 FROM generations WHERE finished_at IS NULL"):
                continue
            left = [
                run
                for (run,) in self.truth.ask(
                    "SELECT r.id FROM runs r JOIN generations g USING (run, generation)"
                    " JOIN stages s USING (run, generation) WHERE g.status = 'interrupted'"
                    " AND s.stage = 0 AND (r.source <> 'stored' OR s.accepted = r.source_length)"
                )
            ]
            if not left:
                for (run,) in self.truth.ask("SELECT id FROM runs"):
                    await self.customers.insist(dice, partial(self.customers.wait, run))
                return
            for run in left:
                resumed.add(run)
                await self.customers.insist(dice, partial(self.customers.resume, run))
        for row in self.truth.ask(
            "SELECT run, generation, status, cause FROM generations"
            " WHERE finished_at IS NULL OR status = 'interrupted'"
        ):
            self.inspector.violate(f"it is over, and this is not: {row}")

    def compare(self, *, died: bool) -> None:
        """Compare what is on disk with the truth."""
        with closing(sqlite3.connect(self.machine.path)) as connection:
            self.inspector.violations += [f"in the end: {each}" for each in unsound(connection)]
            if died or self.inspector.violations:
                return
            try:
                sums_hold(connection)
            except AssertionError as error:
                self.inspector.violations.append(f"in the end: {error}")
            judgement = Judgement(connection, self.machine, self.oracle, self.customers, self.plan)
            self.inspector.violations += judgement.violations()
        self.counts["calls"] = self.truth.calls
        self.counts["commits"] = self.inspector.commits
        for fault in self.plan.faults:
            self.counts[_NAMES.get(type(fault), type(fault).__name__.lower())] += 1

    @property
    def counts(self) -> Counter[str]:
        """How often what was done and befell."""
        return self.customers.counts


def _worse(plan: FaultPlan, dice: random.Random) -> Iterator[Fault]:
    """Give what makes some of these faults worse.

    A process that has no file any more stands still: so others end what a living process has, and
    it must hear of that. One that was killed is killed again and again, soon after it is back.
    """
    deadly = dice.random() < _DEADLY_SEEDS
    for fault in plan.faults:
        if isinstance(fault, LostFile) and dice.random() < _COMES_TOGETHER:
            at = fault.at + dice.uniform(0, 10)
            yield Freeze(at=at, process=fault.process, seconds=dice.uniform(100, 300))
        if isinstance(fault, Crash) and deadly:
            at = fault.at + fault.downtime
            for _ in range(3):
                at += dice.uniform(2, 10)
                yield Crash(at=at, process=fault.process, downtime=0.5)


def _robbed(process: int, dice: random.Random) -> Iterator[Fault]:
    """Give what has others end the runs of a living process: it loses its file, and stands still.

    Long enough for its silence to be waited for, and no longer: it shall have work when it goes on.
    """
    for _ in range(3):
        at = dice.uniform(0.1, 0.7) * SAFETY
        yield LostFile(at=at, process=process)
        yield Freeze(at=at + 0.1, process=process, seconds=dice.uniform(35, 60))


_NAMES: Final[dict[type[Fault], str]] = {
    Crash: "kills",
    Freeze: "stops",
    Shutdown: "shutdowns",
    Sleep: "sleeps",
}


def main() -> int:
    """Live through many seeds, or one; return 1 if there was a violation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="one seed, with all that happened")
    parser.add_argument("--plant", choices=[*PLANTS], help="with this bug in the engine")
    options = parser.parse_args()
    if options.only is not None:
        verdict = live(options.only, options.plant)
        print("\n".join([*verdict.log, "", *verdict.violations, verdict.trace]))
        return bool(verdict.violations)
    began, virtual, red, counts = time.perf_counter(), 0.0, 0, Counter[str]()
    for seed in range(options.first, options.first + options.seeds):
        verdict = live(seed, options.plant)
        virtual += verdict.seconds
        counts += verdict.counts
        if verdict.violations:
            red += 1
            print(f"seed {seed}: {verdict.violations[0]}", flush=True)
            if options.plant and PLANTS[options.plant].is_found(verdict.violations):
                break
    spent = time.perf_counter() - began
    print(f"{options.seeds} seeds, {red} red; {virtual / 3600:.1f} virtual hours in {spent:.0f} s")
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return bool(red)


_Raw = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    sys.exit(main())
