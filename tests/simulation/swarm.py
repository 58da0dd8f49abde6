"""Whole systems in virtual time, each from a seed: processes, customers, faults, and the truth.

    python -m tests.simulation.swarm --seeds 1000
    python -m tests.simulation.swarm --only 137        # one seed, with all that happened

For three minutes customers start runs, cancel them and resume them, on two or three processes that
share a database, while what the seed says befalls the computer. Then the faults end, and so must
every run; what was interrupted is resumed; and what came of each item is compared with what had to.
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from stagerun import Pipeline, UsageError
from stagerun.engine.runtime import Runtime
from stagerun.testing.determinism import run_in_virtual_time
from stagerun.testing.faults import Crash, Fault, FaultPlan, Freeze, LostFile, Shutdown, Sleep
from stagerun.testing.inspector import Inspector, unsound
from stagerun.testing.machine import Machine, Process
from stagerun.testing.mortal import ProcessDied
from stagerun.testing.nemesis import befall
from tests.conftest import sums_hold
from tests.simulation.comparison import Comparison
from tests.simulation.ground import Truth
from tests.simulation.plants import PLANTS
from tests.simulation.workloads import RUN, Oracle, pipelines

__all__ = ["Verdict", "live"]

SAFETY: Final = 200.0
"""Seconds in which faults come."""
PATIENCE: Final = 100.0
"""Seconds beyond them that a customer waits."""
_COMES_TOGETHER: Final = 0.4
"""Share of the lost files whose process then stands still."""
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
        PLANTS[plant]() if plant else nullcontext(),
    ):
        system = _System.of(seed, Path(place) / "runs.db")
        try:
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
    processes: list[Process] = field(factory=list)
    known: dict[str, Pipeline] = field(factory=dict)
    sizes: dict[str, int] = field(factory=dict)
    counts: Counter[str] = field(factory=Counter)
    keys: dict[str, str] = field(factory=dict)
    """Of each key that a customer used, the pipeline."""

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
        plan = FaultPlan((*plan.faults, *_worse(plan, dice)))
        inspector = Inspector(machine)
        truth = Truth(machine, inspector)
        system = cls(machine, Oracle.of(seed), truth, inspector, dice, plan)
        size = dice.choice([1, 4, 12])
        known = pipelines(system.oracle, truth, lambda: size)
        system.known = {pipeline.name: pipeline for pipeline in known}
        system.sizes = {pipeline.name: size for pipeline in known}
        truth.workers = {each.name: each.workers for one in known for each in one.stages}
        system.processes = [Process(machine, number, known) for number in range(count)]
        truth.processes = system.processes
        machine.observers += [inspector, truth]
        return system

    async def live(self) -> float:
        """Live to the end; return how many seconds that were."""
        async with trio.open_nursery() as nursery:
            for process in self.processes:
                nursery.start_soon(process.live)
            await trio.sleep(0.5)
            nursery.start_soon(self.truth.watch)
            with trio.move_on_after(SAFETY + PATIENCE):
                async with trio.open_nursery() as customers:
                    customers.start_soon(befall, self.machine, self.processes, self.plan)
                    for number in range(self.dice.choice([1, 2, 4, 6])):
                        customers.start_soon(
                            self._customer, random.Random(f"{number}/{self.machine.seed}")
                        )
                    await trio.sleep(SAFETY)
            self.machine.note("the faults are over")
            await self._settle()
            nursery.cancel_scope.cancel()
        return trio.current_time()

    # -- customers ------------------------------------------------------------------------------

    async def _customer(self, dice: random.Random) -> None:
        """Want runs, one after the other, insist on each, and do with it what customers do."""
        await trio.sleep(dice.uniform(0, 0.5 * SAFETY))
        while trio.current_time() < 0.8 * SAFETY:
            key = f"{dice.getrandbits(32):08x}"
            name = dice.choice(sorted(self.sizes))
            self.keys[key] = name
            run = await self._insist(dice, partial(self._start, key, name, dice.random() < 0.3))
            self.counts["started"] += 1
            for _ in range(dice.choice([0, 1, 2])):
                await trio.sleep(dice.choice([dice.uniform(0, 5), dice.uniform(0, 60)]))
                what = dice.choice([self._cancel, self._resume, self._wait, self._look])
                await self._insist(dice, partial(what, run))
            await trio.sleep(dice.uniform(0, 60))

    async def _insist(self, dice: random.Random, ask: Any) -> Any:
        """Ask one process after the other until one has answered."""
        while True:
            process = dice.choice(self.processes)
            with trio.move_on_after(60):
                try:
                    return await process.call(partial(ask, process))
                except ProcessDied:
                    self.counts["unknown"] += 1
            await trio.sleep(1)

    async def _start(
        self, key: str, name: str, in_line: bool, process: Process, runtime: Runtime
    ) -> str:
        own = process.own(name)
        items = None
        if own.source is None:
            items = [{"n": n} for n in range(1, self.sizes[name] + 1)]
        line = "line" if in_line else None
        run = await runtime.start(own, items, key=key, concurrency_key=line)
        if not self.truth.ask("SELECT 1 FROM runs WHERE id = ?", run.id):
            self.inspector.violate(f"run {run.id} was started, and is not on disk")
        return run.id

    async def _cancel(self, run: str, _process: Process, runtime: Runtime) -> None:
        answer = await runtime.cancel(run)
        self.counts["cancelled"] += 1
        ((generation,),) = self.truth.ask("SELECT generation FROM runs WHERE id = ?", run)
        if answer["became"] == "cancelling":
            self.truth.cancelled[run] = (generation, trio.current_time())

    async def _resume(self, run: str, process: Process, runtime: Runtime) -> None:
        ((name,),) = self.truth.ask("SELECT pipeline FROM runs WHERE id = ?", run)
        with suppress(UsageError):  # it has not ended, or has succeeded
            await runtime.resume(run, process.own(name))
            self.counts["resumed"] += 1

    async def _wait(self, run: str, _process: Process, runtime: Runtime) -> None:
        result = await (await runtime.find(run)).wait()
        self.truth.told[run, result.generation] = result.status
        self.truth.compare_told(run, result.generation, result.status, result.stages)

    async def _look(self, run: str, _process: Process, runtime: Runtime) -> None:
        handle = await runtime.find(run)
        for _ in range(20):
            told = (handle.generation, handle.status, handle.counts)
            self.truth.compare_told(run, *told)
            await trio.sleep(0.5)

    # -- the end --------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait until all has ended; have resumed what was interrupted, and wait again."""
        since = trio.current_time()
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
                return
            for run in left:
                resumed.add(run)
                await self._insist(random.Random(1), partial(self._resume, run))
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
            self._compare_told(connection)
            self.inspector.violations += self._too_early()
            self.inspector.violations += [
                f"in the end: {each}" for each in self._compare_runs(connection)
            ]
        self.counts["calls"] = self.truth.calls
        self.counts["commits"] = self.inspector.commits
        self.counts["runs"] = len(self.keys)
        for fault in self.plan.faults:
            self.counts[_NAMES.get(type(fault), type(fault).__name__.lower())] += 1

    def _compare_told(self, connection: sqlite3.Connection) -> None:
        for (run, generation), status in self.truth.told.items():
            row = connection.execute(
                "SELECT g.status FROM generations g JOIN runs r USING (run)"
                " WHERE r.id = ? AND g.generation = ?",
                (run, generation),
            ).fetchone()
            if row != (status,):
                self.inspector.violations.append(f"run {run}: told {status}, on disk {row}")

    def _too_early(self) -> Iterable[str]:
        """No run ends by its deadline before that, on a clock that nobody sets."""
        begun = dict[str, float]()
        for line in self.machine.log:
            at, _, what = line.partition(" ")
            which, _, status = what.partition(": ")
            if status == "running":
                begun[which] = float(at)
            elif status.startswith("timed_out") and which in begun:
                lasted = float(at) - begun[which]
                # One that stands still cannot put its deadline right after a sleep: others end it.
                stopped = "did not end it" in status and any(
                    isinstance(fault, Freeze) and fault.at < float(at) < fault.at + fault.seconds
                    for fault in self.plan.faults
                )
                if lasted < RUN and not stopped:
                    yield f"{which} ended by its deadline, after {lasted:.1f} s: {status}"

    def _compare_runs(self, connection: sqlite3.Connection) -> Iterable[str]:
        lenient = any(isinstance(fault, Freeze) for fault in self.plan.faults)
        for run, name, key, status, cause in connection.execute(
            "SELECT r.run, r.pipeline, r.request_key, g.status, g.cause"
            " FROM runs r JOIN generations g USING (run, generation)"
        ).fetchall():
            self.counts[f"ended {status}"] += 1
            began = key is not None or status != "interrupted"
            if key is None and began:
                yield f"run {run} of {name} is {status}, and no customer's key leads to it"
            if status == "failed" and cause not in ("least_ok", "survivors"):
                yield f"run {run} of {name} failed, {cause}"
            if key is not None and status == "succeeded":
                comparison = Comparison(connection, self.oracle, run, lenient=lenient)
                yield from comparison.differences(self.known[name], self.sizes[name])


def _worse(plan: FaultPlan, dice: random.Random) -> Iterator[Fault]:
    """Give what makes some of these faults worse: a process that has no file any more stands still.

    So others end what a living process has, and it must hear of that.
    """
    for fault in plan.faults:
        if isinstance(fault, LostFile) and dice.random() < _COMES_TOGETHER:
            at = fault.at + dice.uniform(0, 10)
            yield Freeze(at=at, process=fault.process, seconds=dice.uniform(60, 200))


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
            if options.plant:
                break
    spent = time.perf_counter() - began
    print(f"{options.seeds} seeds, {red} red; {virtual / 3600:.1f} virtual hours in {spent:.0f} s")
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return bool(red)


_Raw = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    sys.exit(main())
