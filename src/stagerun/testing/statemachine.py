"""A state machine for hypothesis: runs are started, cancelled, resumed, and their processes killed.

Needs ``stagerun[testing]``. Subclass ``RunMachine``, say what is to run, and add rules of your own.
"""

import sqlite3
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import trio
from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from stagerun.engine.handle import Run
from stagerun.engine.runtime import Runtime
from stagerun.errors import UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.testing.faults import Fault, FaultPlan
from stagerun.testing.inspector import Inspector, unsound
from stagerun.testing.machine import Machine, Process
from stagerun.testing.mortal import ProcessDied
from stagerun.testing.nemesis import befall
from stagerun.testing.reading import SimulatedRun, read_runs
from stagerun.testing.simulation import BrokenPromiseError
from stagerun.testing.stepwise import Stepwise
from stagerun.testing.strategies import plain_faults

__all__ = ["RunMachine", "StartedRun"]

T = TypeVar("T")

_LATENCY: Final = 0.002
"""Seconds that a commit takes in the mean: so that something can come in between."""
_DAY: Final = 24 * 3600.0
_FAULTS_END: Final = 3600.0
_MOST_PAUSE: Final = 60.0


@define(eq=False)
class StartedRun:
    """A run that somebody has asked for, and what they were told of it."""

    key: str
    items: Any
    id: str | None = None
    """None: no process has lived long enough to say that the run is on disk."""
    told: dict[int, str] = field(factory=dict)
    """What ``wait()`` said of each generation: its status."""


class RunMachine(RuleBasedStateMachine):
    """Start, cancel and resume runs of one pipeline, in processes that are killed and frozen.

    All is virtual but the engine and its database. A rule asks for something, and waits for a
    while, whatever comes of it; faults strike, and time goes on with the next rule.

    At every commit it is checked that what has ended stays as it was, that sums and percentages do
    not go back, and that nobody takes a run from a process that lives; after every rule, that what
    was acknowledged is there; and in the end, when nothing befalls the computer any more, that all
    runs end.

    Example::

        class CrawlMachine(RunMachine):
            pipeline = crawl
            items = st.lists(st.integers(0, 9), max_size=5)

        TestCrawl = CrawlMachine.TestCase
    """

    pipeline: Pipeline
    """What is run. To be said by the subclass; a property, where each example needs a new one."""
    items: st.SearchStrategy[Any] = st.lists(st.integers(0, 9), max_size=6)
    """What runs are started with."""
    processes: int = 2
    """How many processes there are, on one database."""
    kinds: Sequence[str] | None = None
    """Kinds of faults, as for ``FaultPlan.random()``; None: all."""
    operators_settings: Mapping[str, str] = {}
    """Environment variables, as operators set them."""

    runs: Bundle[StartedRun] = Bundle("runs")

    _PROCESS = st.runner().flatmap(lambda self: st.integers(0, self.processes - 1))
    # Drawn in one go: a step of few draws is one that hypothesis can leave out.
    _FAULT = st.runner().flatmap(
        lambda self: st.sampled_from(plain_faults(self.processes, self.kinds))
    )
    # A second is the plainest: what is asked for is done by then, so that steps can be left out.
    _WAIT = st.sampled_from([1.0, 0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 3.0, 10.0, 30.0])

    # -- what people do -------------------------------------------------------------------------

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        """Start the processes. All by chance (the order of tasks, back-off) follows from *seed*."""
        self._longest = 2 * (self.pipeline.deadline or _DAY) + _FAULTS_END
        self.started = list[StartedRun]()
        self._outside = sys.exception()
        self._folder = TemporaryDirectory(prefix="stagerun-")
        path = Path(self._folder.name) / "runs.db"
        self.machine = Machine(path, seed=seed, latency=_LATENCY, settings=self.operators_settings)
        self.inspector = Inspector(self.machine)
        self.dooms = _Dooms()
        self.machine.observers += [self.inspector, self.dooms]
        self.living = [
            Process(self.machine, number, [self.pipeline]) for number in range(self.processes)
        ]
        self._program = Stepwise(seed=seed)
        for process in self.living:
            self._program.nursery.start_soon(process.live)
        self.step(trio.testing.wait_all_tasks_blocked)

    @rule(target=runs, items=st.runner().flatmap(lambda self: self.items), by=_PROCESS, wait=_WAIT)
    def start(self, items: Any, by: int, wait: float) -> StartedRun:
        """Start a run in process *by*."""
        started = StartedRun(f"run {len(self.started)}", items)
        self.started.append(started)
        self.ask(by, partial(self._start, started, by))
        self.wait(wait)
        return started

    @rule(run=runs, by=_PROCESS, wait=_WAIT)
    def start_again(self, run: StartedRun, by: int, wait: float) -> None:
        """Start a run that was started before: by its key, it is the same one."""
        self.ask(by, partial(self._start, run, by))
        self.wait(wait)

    @rule(run=runs, by=_PROCESS, wait=_WAIT)
    def cancel(self, run: StartedRun, by: int, wait: float) -> None:
        """Cancel a run, from whatever process; nothing, if nobody was told that it is there."""
        if run.id is not None:
            identifier = run.id
            self.ask(by, lambda runtime: runtime.cancel(identifier))
        self.wait(wait)

    @rule(run=runs, failed=st.booleans(), by=_PROCESS, wait=_WAIT)
    def resume(self, run: StartedRun, failed: bool, by: int, wait: float) -> None:
        """Have a process go on with a run, if it has ended and there is something to do."""
        if run.id is not None:
            self.ask(by, partial(self._resume, run, run.id, failed, by))
        self.wait(wait)

    @rule(seconds=_WAIT)
    def wait(self, seconds: float) -> None:
        """Let time go on."""
        self.step(partial(trio.sleep, seconds))

    # -- what befalls them ----------------------------------------------------------------------

    @rule(process=_PROCESS, commits=st.integers(1, 20), after=st.booleans())
    def kill_at_commit(self, process: int, commits: int, after: bool) -> None:
        """Kill a process before, or right after, its n-th commit from now on."""
        self.dooms.planned[process] = (commits, after)

    @rule(fault=_FAULT)
    def befall(self, fault: Fault) -> None:
        """Have something befall a process, or the computer: a crash, for example, or a freeze."""
        self._begin(befall, self.machine, self.living, FaultPlan([fault]))

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        """Raise ``BrokenPromiseError`` if anything is not as stagerun promises it."""
        statuses = dict[tuple[str, int], str]()
        if self.machine.path.exists():
            with closing(sqlite3.connect(self.machine.path)) as connection:
                statuses = _statuses(connection)
        violations = [*self.inspector.violations]
        known = {identifier for identifier, _ in statuses}
        for run in self.started:
            if run.id is not None and run.id not in known:
                violations.append(f"{run.key} was acknowledged as {run.id}, and is not there")
            violations += [
                f"{run.key}, generation {generation}: told as {status},"
                f" and is {statuses.get((run.id or '', generation))}"
                for generation, status in run.told.items()
                if statuses.get((run.id or "", generation)) != status
            ]
        if violations:
            told = [*violations[:5], "What happened:", *self.machine.log[-40:]]
            raise BrokenPromiseError("\n".join(told))

    def ended(self, run: SimulatedRun, started: StartedRun | None) -> None:
        """Look at a run in the end, when all have ended. Does nothing; made to be overridden.

        *started* is what was asked for; None: nobody was told of the run (or its start died).
        """

    def teardown(self) -> None:
        """Let the faults end, wait until all runs have, and look at all that is left."""
        if not hasattr(self, "_program"):
            return
        try:
            if sys.exception() is self._outside:  # else a failure is on its way already
                self.dooms.planned.clear()
                self.step(self._until_all_have_ended)
                self._look_at_the_end()
        finally:
            self._program.close()
            self._folder.cleanup()

    # -- for rules of one's own -----------------------------------------------------------------

    def step(self, do: Callable[[], Awaitable[T]]) -> T:
        """Run an async function of the simulated world to its end; others go on meanwhile."""
        return self._program.step(do)

    def ask(self, by: int, do: Callable[[Runtime], Awaitable[Any]]) -> None:
        """Ask the runtime of process *by* for something, once it is there; do not wait for it.

        When the process dies over it, nobody learns what came of it. What *do* raises fails the
        test at the next step.
        """

        async def client() -> None:
            with suppress(ProcessDied):
                await self.living[by].call(do)

        self._begin(client)

    def _begin(self, task: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Begin with something, as far as it gets while the clock stands still."""
        self._program.nursery.start_soon(task, *arguments)
        self.step(trio.testing.wait_all_tasks_blocked)

    # -- the parts of the rules -----------------------------------------------------------------

    async def _start(self, started: StartedRun, by: int, runtime: Runtime) -> None:
        own = self.living[by].own(self.pipeline.name)
        run = await runtime.start(own, started.items, key=started.key)
        if started.id not in (None, run.id):
            self.inspector.violate(f"{started.key} is {started.id}, and now also {run.id}")
        started.id = run.id
        await self._hear(started, run)

    async def _resume(
        self, started: StartedRun, identifier: str, failed: bool, by: int, runtime: Runtime
    ) -> None:
        own = self.living[by].own(self.pipeline.name)
        try:
            run = await runtime.resume(identifier, own, failed=failed)
        except UsageError:  # it is under way, or there is nothing to do
            return
        await self._hear(started, run)

    async def _hear(self, started: StartedRun, run: Run) -> None:
        result = await run.wait()
        before = started.told.setdefault(run.generation, result.status)
        if before != result.status:
            what = f"{started.key}, generation {run.generation}"
            self.inspector.violate(f"{what}: told as {before}, then as {result.status}")

    # -- the end --------------------------------------------------------------------------------

    async def _until_all_have_ended(self) -> None:
        longest = self._longest
        pause, calm = 1.0, 0
        with trio.move_on_after(longest):
            while calm < 2:  # twice: what was asked for while nobody served has begun by then
                await trio.sleep(pause)
                pause = min(1.5 * pause, _MOST_PAUSE)
                calm = calm + 1 if self._is_calm() and not self._under_way() else 0
        for each in self._under_way():
            self.inspector.violate(f"{each}, {longest:.0f} s after the last thing that was done")

    def _is_calm(self) -> bool:
        machine = self.machine
        return not (machine.refusals or machine.slowness) and all(
            process.serving and not process.frozen for process in self.living
        )

    def _under_way(self) -> list[str]:
        with closing(sqlite3.connect(self.machine.path)) as connection:
            return [
                f"run {identifier}, generation {generation} is still {status}"
                for (identifier, generation), status in _statuses(connection).items()
                if status in ("queued", "running")
            ]

    def _look_at_the_end(self) -> None:
        with closing(sqlite3.connect(self.machine.path)) as connection:
            for problem in unsound(connection):
                self.inspector.violate(f"in the end: {problem}")
        self.nothing_is_broken()
        started = {run.id: run for run in self.started}
        for run in read_runs(self.machine.path):
            self.ended(run, started.get(run.document["id"]))


@define(eq=False)
class _Dooms:
    """Kills processes at certain of their commits."""

    planned: dict[int, tuple[int, bool]] = field(factory=dict)
    """By process: in how many commits, and whether after it."""

    def composed(self, process: Process) -> None:
        """See ``Observer.composed``."""
        if process.number in self.planned:
            commits, after = self.planned[process.number]
            self.planned[process.number] = (commits - 1, after)
            if commits == 1 and not after:
                self._strike(process)

    def committed(self, process: Process, connection: sqlite3.Connection) -> None:  # noqa: ARG002 - as there
        """See ``Observer.committed``."""
        if self.planned.get(process.number, (1, False))[0] <= 0:
            self._strike(process)

    def called(self, process: Process, stage: str, value: Any) -> None:
        """See ``Observer.called``."""

    def _strike(self, process: Process) -> None:
        del self.planned[process.number]
        process.kill(1.0)


def _statuses(connection: sqlite3.Connection) -> dict[tuple[str, int], str]:
    """Return the status of each generation of each run."""
    query = "SELECT r.id, g.generation, g.status FROM generations g JOIN runs r ON r.run = g.run"
    return {(run, generation): status for run, generation, status in connection.execute(query)}
