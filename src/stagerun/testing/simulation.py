"""Run pipelines in virtual time, on a computer that may misbehave, and look at all they leave."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio
from attrs import define, field, frozen

from stagerun.engine.runtime import Runtime
from stagerun.engine.unwrap import sole
from stagerun.errors import UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.model.status import Result
from stagerun.store import codec
from stagerun.testing.arguments import check_time, check_world, subject
from stagerun.testing.determinism import run_in_virtual_time
from stagerun.testing.faults import CALM, FaultPlan
from stagerun.testing.inspector import Inspector, unsound
from stagerun.testing.machine import BEGIN, Machine, Process
from stagerun.testing.mortal import ProcessDied
from stagerun.testing.nemesis import befall
from stagerun.testing.reading import SimulatedRun, read_runs
from stagerun.testing.stragglers import wake_stragglers

__all__ = ["BrokenPromiseError", "SimulatedRun", "Simulation", "simulate"]

HOUR: Final = 3600.0
_HEIRS: Final = 12.0
"""Seconds in which another process has taken a run over, if there is one."""
_MOST_PACE: Final = 60.0
_MEMBERS: Final = "its members"


class BrokenPromiseError(AssertionError):
    """What a simulation left behind is not what stagerun promises, or not what it must be."""


@frozen(kw_only=True, repr=False)
class Simulation:
    """What a simulated time came to."""

    seed: int
    seconds: float
    """How long it was, on a clock that nobody sets and that stands still in a sleep."""
    runs: Sequence[SimulatedRun]
    """By their age."""
    calls: Mapping[tuple[str, str], int]
    """How often each stage was called with each value (as text; for collect: ``its members``).
    After a crash some are called again."""
    commits: int
    cut: bool
    """Whether the hours were over before the run had ended; its runtime was left then."""
    log: Sequence[str]
    """What happened, a line each: faults, deaths, and what became of the runs."""
    trace: str
    """Sums up every commit, its time and its author. The same seed gives the same trace."""

    def __repr__(self) -> str:
        statuses = Counter(run.status for run in self.runs)
        runs = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "no run"
        return f"<Simulation of {runs}; seed {self.seed}, {self.seconds:g} s, trace {self.trace}>"

    @property
    def run(self) -> SimulatedRun:
        """The last run. (There may be one before it whose start was never answered.)

        Raises:
            UsageError: There is none.
        """
        if not self.runs:
            raise UsageError("there is no run: nothing was ever started")
        return self.runs[-1]

    @property
    def status(self) -> str:
        """Of the last run."""
        return self.run.status

    @property
    def results(self) -> Sequence[Any]:
        """Of the last run."""
        return self.run.results


def simulate(
    what: Pipeline | Schedule | Iterable[Schedule],
    items: Any = None,
    *,
    seed: int = 0,
    hours: float = 24.0,
    faults: FaultPlan = CALM,
    processes: int = 1,
    params: Any = None,
    resume: bool = True,
    begin: float = BEGIN,
    settings: Mapping[str, str] | None = None,
) -> Simulation:
    """Run *what* in virtual time: real engine, real SQL, and a day passes in a moment.

    A pipeline is started once, with *items*, and the simulation ends with the run; schedules are
    served for so many hours. Stages run as they are: ``trio.sleep`` takes no time, a plain ``def``
    runs in the event loop, and what waits for a real socket or thread would wait in vain.

    Args:
        what: A pipeline, or one or several schedules.
        items: What the run is started with: a list or a function; None: the pipeline's source.
        seed: What everything by chance follows from: the order of tasks, back-off, identifiers.
        hours: How long it lasts at most, on a clock that stands still while the computer sleeps.
        faults: What befalls the computer, for example ``FaultPlan.random(seed)``.
        processes: How many processes serve the same database.
        params: As for ``runtime.start()``.
        resume: Whether somebody resumes the run when a crash or a shutdown has interrupted it.
        begin: The time on the wall at the beginning, in seconds since 1970.
        settings: Operators' settings, as environment variables.

    Raises:
        BrokenPromiseError: At some commit something did not hold that stagerun promises.
        UsageError: This is called within a program on trio, or beside another simulation; or an
            argument cannot be; or a fault is for a process that there is not; or a stage was still
            shielded from its cancellation an hour after the end.
    """
    world = World.of(
        what,
        items,
        seed=seed,
        params=params,
        resume=resume,
        processes=processes,
        begin=begin,
        settings=settings,
    )
    return world.simulate(hours, faults)


@define(eq=False)
class World:
    """A machine, what runs on it, and somebody who wants a run done."""

    machine: Machine
    what: Any
    items: Any
    params: Any
    resume: bool
    processes: int
    inspector: Inspector = field(init=False)
    calls: Counter[tuple[str, str]] = field(factory=Counter)
    cut: bool = False
    """Whether the time was over before the run had ended."""

    @classmethod
    def of(
        cls,
        what: Any,
        items: Any,
        *,
        seed: int,
        params: Any = None,
        resume: bool = True,
        processes: int = 1,
        begin: float = BEGIN,
        settings: Mapping[str, str] | None = None,
    ) -> "World":
        """Return a world that has not begun; the arguments are those of ``simulate()``."""
        machine = Machine(Path(), seed=seed, begin=begin, settings=settings or {})
        return cls(machine, what, items, params, resume=resume, processes=processes)

    def __attrs_post_init__(self) -> None:
        self.inspector = Inspector(self.machine)
        self.machine.observers += [self.inspector, self]

    def simulate(self, hours: float, faults: FaultPlan) -> Simulation:
        """Live, and tell what it came to.

        Where schedules are served for long, signs of life and looks at other processes come up to
        a minute apart, so that a day passes quickly; slots and deadlines stay exact.

        Raises:
            BrokenPromiseError: At some commit, or in the end, something was not as promised.
        """
        self.what = subject(self.what)
        check_time(hours, self.machine.begin)
        check_world(self.machine.seed, self.processes, faults)
        with TemporaryDirectory(prefix="stagerun-") as folder:
            machine, seed = self.machine, self.machine.seed
            machine.path = Path(folder) / "runs.db"
            if not isinstance(self.what, Pipeline):
                machine.pace = min(_MOST_PACE, max(1.0, hours))
            try:
                seconds = run_in_virtual_time(lambda: self.live(hours * HOUR, faults), seed=seed)
            except BaseExceptionGroup as group:
                raise _innermost(group) from None
            violations = self.inspector.violations + self.left_behind()
            if violations:
                told = ["", *violations[:5], "What happened:", *machine.log[-40:]]
                raise BrokenPromiseError(f"seed {seed}: " + "\n".join(told))
            return Simulation(
                seed=seed,
                seconds=seconds,
                runs=read_runs(machine.path),
                calls=self.calls,
                commits=self.inspector.commits,
                cut=self.cut,
                log=tuple(machine.log),
                trace=machine.trace,
            )

    async def live(self, seconds: float, faults: FaultPlan) -> float:
        """Live for so long, or until the run has ended; return how long that was."""
        pipelines = [self.what] if isinstance(self.what, Pipeline) else []
        schedules = [self.what] if isinstance(self.what, Schedule) else []
        if not pipelines and not schedules:
            schedules = [*self.what]
        processes = [
            Process(self.machine, number, pipelines, schedules) for number in range(self.processes)
        ]
        leaving, woken = trio.Event(), list[str]()
        async with trio.open_nursery() as beyond:
            beyond.start_soon(wake_stragglers, trio.lowlevel.current_task(), leaving, woken)
            async with trio.open_nursery() as nursery:
                for process in processes:
                    nursery.start_soon(process.live)
                nursery.start_soon(befall, self.machine, processes, faults)
                with trio.move_on_after(seconds) as patience:
                    if pipelines:
                        await self._see_through(processes)
                    else:
                        await trio.sleep_forever()
                if pipelines and patience.cancelled_caught:
                    self.cut = True
                    self.machine.note(f"the time is over, and the run has not ended: {seconds:g} s")
                ended = trio.current_time()
                for process in processes:  # who stands still could not leave
                    process.thaw()
                leaving.set()
                nursery.cancel_scope.cancel()
            beyond.cancel_scope.cancel()
        if woken:
            raise UsageError(woken[0])
        return ended

    async def _see_through(self, processes: Sequence[Process]) -> None:
        """Start the run, and ask again and again until it has ended for good."""
        patience = 60.0
        while True:
            for process in processes:
                with trio.move_on_after(patience), suppress(ProcessDied):
                    result = await process.call(partial(self._result, process))
                    if await self._is_over(process, result):
                        return
            patience = min(2 * patience, HOUR)

    async def _result(self, process: Process, runtime: Runtime) -> Result:
        own = process.own(self.what.name)
        run = await runtime.start(own, self.items, params=self.params, key="simulated")
        return await run.wait()

    async def _is_over(self, process: Process, result: Result) -> bool:
        """Whether nobody goes on with the run; else see to it that somebody does."""
        if result.status != "interrupted" or not (self.resume or self._resumes_itself):
            return True
        await trio.sleep(_HEIRS * self.machine.pace)  # by itself it is resumed by then
        if self.resume:
            with suppress(UsageError):  # somebody was quicker
                await process.call(
                    lambda runtime: runtime.resume(result.id, process.own(self.what.name))
                )
        return False

    @property
    def _resumes_itself(self) -> bool:
        return bool(self.what.on_interrupt == "resume" and self.what.resumes)

    def left_behind(self) -> list[str]:
        """Return what the database must not say now that all is over."""
        with closing(sqlite3.connect(self.machine.path)) as connection:
            return [f"in the end: {problem}" for problem in unsound(connection)]

    # -- as an observer of the machine ----------------------------------------------------------

    def composed(self, process: Process) -> None:
        """See ``Observer.composed``."""

    def committed(self, process: Process, connection: sqlite3.Connection) -> None:
        """See ``Observer.committed``."""

    def called(self, process: Process, stage: str, value: Any) -> None:  # noqa: ARG002 - as there
        """See ``Observer.called``."""
        self.calls[stage, _MEMBERS if isinstance(value, AsyncIterator) else codec.words(value)] += 1


def _innermost(error: BaseException) -> BaseException:
    """Return what went wrong, if it is one thing: nurseries around it are of no interest."""
    while isinstance(error, BaseExceptionGroup) and (only := sole(error)) is not None:
        error = only
    return error
