"""Crash at every commit of a run, one after the other, and see that each time the same comes out.

A process can be killed at any moment, but what it leaves behind differs only from one commit to the
next. So there are no more cases than these: before each commit, and right after it, when nobody has
heard of it yet.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, frozen

from stagerun.model.pipeline import Pipeline
from stagerun.testing.faults import CALM
from stagerun.testing.machine import Process
from stagerun.testing.simulation import BrokenPromiseError, Simulation, World

__all__ = ["CrashReport", "crash_at_every_commit"]

_HOURS = 24.0 * 30


@frozen(kw_only=True)
class CrashReport:
    """What it came to."""

    undisturbed: Simulation
    crashes: int
    """Cases that were tried; each ended as the undisturbed run did."""
    repeated: Mapping[tuple[str, str], int]
    """What was called more often than without a crash, by stage and value (as text), and how much
    more often at most. Calls are at least once: their outside effects should bear it."""


def crash_at_every_commit(
    pipeline: Pipeline,
    items: Any = None,
    *,
    seed: int = 0,
    params: Any = None,
    compare: Callable[[Sequence[Any]], Any] = list,
    settings: Mapping[str, str] | None = None,
) -> CrashReport:
    """Run *pipeline* undisturbed; then again with a crash before and after each commit.

    After the crash a new process resumes the run. It must end with the same status, the same
    outcome for each item of the first stage, as many outcomes of each kind in the others (whose
    items may come in another order), and the same results; and it must be one run that did it.

    Args:
        pipeline: What is run, as by ``simulate()``.
        items: What it is started with: a list or a function; None: the pipeline's source.
        seed: What everything by chance follows from.
        params: As for ``runtime.start()``.
        compare: What of the results must be the same, for example ``sorted``, or ``len``.
        settings: Operators' settings, as environment variables.

    Raises:
        BrokenPromiseError: In some case something else came out; says in which.
        UsageError: This is called within a program on trio.
    """

    def live(doom: _Doom | None) -> Simulation:
        world = World.of(pipeline, items, seed=seed, params=params, settings=settings)
        if doom is not None:
            world.machine.observers.append(doom)
        return world.simulate(_HOURS, CALM)

    undisturbed = live(None)
    wanted = _outcome(undisturbed, compare)
    repeated = dict[tuple[str, str], int]()
    crashes = 0
    for after in (False, True):
        commit = 1
        while True:
            doom = _Doom(commit, after)
            try:
                crashed = live(doom)
            except BrokenPromiseError as error:
                raise BrokenPromiseError(f"{doom}: {error}") from None
            if not doom.struck:
                break
            found = _outcome(crashed, compare)
            if found != wanted:
                log = "\n".join(crashed.log)
                raise BrokenPromiseError(
                    f"{doom} (seed {seed}), this came out:\n  {found}\nwithout it:\n  {wanted}\n"
                    f"What happened:\n{log}"
                )
            for call, times in crashed.calls.items():
                more = times - undisturbed.calls.get(call, 0)
                if more > repeated.get(call, 0):
                    repeated[call] = more
            crashes += 1
            commit += 1
    return CrashReport(undisturbed=undisturbed, crashes=crashes, repeated=repeated)


@define(eq=False)
class _Doom:
    """Kills the first life of a process at one of its commits."""

    commit: int
    after: bool
    struck: bool = False
    _seen: int = 0

    def __str__(self) -> str:
        return f"killed {'after' if self.after else 'before'} commit {self.commit}"

    def composed(self, process: Process) -> None:
        """See ``Observer.composed``."""
        if not self.struck:
            self._seen += 1
            if not self.after:
                self._strike(process)

    def committed(self, process: Process, connection: sqlite3.Connection) -> None:  # noqa: ARG002 - as there
        """See ``Observer.committed``."""
        if not self.struck and self.after:
            self._strike(process)

    def called(self, process: Process, stage: str, value: Any) -> None:
        """See ``Observer.called``."""

    def _strike(self, process: Process) -> None:
        if self._seen == self.commit:
            self.struck = True
            process.kill(1.0)


def _outcome(simulation: Simulation, compare: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
    if not simulation.runs:
        return {"status": None}
    run = simulation.run
    first, *others = [stage["name"] for stage in run.document["stages"]]
    return {
        "status": run.status,
        "runs that began": max(1, sum(any(each.outcomes.values()) for each in simulation.runs)),
        first: dict(sorted(run.outcomes.get(first, {}).items())),
        "outcomes": {stage: sorted(run.outcomes.get(stage, {}).values()) for stage in others},
        "results": compare(run.results),
    }
