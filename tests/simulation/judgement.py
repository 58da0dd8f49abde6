"""Compares what is on disk, when all has ended, with what had to come of it."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from stagerun.testing.faults import DiskError, Fault, FaultPlan, Freeze, Lock, LostFile, SlowDisk
from stagerun.testing.machine import Machine
from tests.simulation.comparison import Comparison
from tests.simulation.customers import Customers
from tests.simulation.workloads import RUN, Oracle

__all__ = ["Judgement"]

_ROUNDED: Final = 0.002
"""Seconds by which two times in the log may be wrong."""
_CONDEMNED: Final = 3
"""Deaths with an item in hand before that is given up."""
_DEADLY: Final = ("is killed", "stands still", "is deleted", "without a word")
_HINDRANCES: Final = (Freeze, Lock, DiskError, SlowDisk, LostFile)
"""What may keep a process from ending a run in time."""


@frozen
class Judgement:
    """One seed's end."""

    connection: sqlite3.Connection
    machine: Machine
    oracle: Oracle
    customers: Customers
    plan: FaultPlan

    def violations(self) -> Iterable[str]:
        """Say what is not as it has to be."""
        yield from self._told()
        yield from self._too_early()
        for each in self._compare_runs():
            yield f"in the end: {each}"

    def _told(self) -> Iterable[str]:
        for (run, generation), status in self.customers.truth.told.items():
            row = self.connection.execute(
                "SELECT g.status FROM generations g JOIN runs r USING (run)"
                " WHERE r.id = ? AND g.generation = ?",
                (run, generation),
            ).fetchone()
            if row != (status,):
                yield f"run {run}: told {status}, on disk {row}"

    def _too_early(self) -> Iterable[str]:
        """No run ends by its deadline before that, on a clock that nobody sets.

        And other processes, which are the last to see to it, do so only where something has kept
        the run's own process from it.
        """
        became = dict[tuple[str, str], float]()
        for at, which, status in self._statuses():
            became[which, status] = at
            since = became.get((which, "queued" if "for its turn" in status else "running"))
            if status.startswith("timed_out") and since is not None:
                lasted, by_others = at - since, "did not end it" in status
                # One that stands still cannot put its deadline right after a sleep: others end it.
                if lasted < RUN - _ROUNDED and not (by_others and self._struck(at, at, Freeze)):
                    yield f"{which} ended by its deadline, after {lasted:.1f} s: {status}"
                if by_others and not self._struck(since, at, *_HINDRANCES):
                    yield f"{which} ended by others, though nothing hindered its process: {status}"

    def _compare_runs(self) -> Iterable[str]:
        spans = dict[int, tuple[float, float]]()
        for at, which, _ in self._statuses():
            run = int(which.split()[1].rstrip(","))
            spans[run] = (spans.get(run, (at, at))[0], at)
        for run, identifier, name, key, status, cause in self.connection.execute(
            "SELECT r.run, r.id, r.pipeline, r.request_key, g.status, g.cause"
            " FROM runs r JOIN generations g USING (run, generation)"
        ).fetchall():
            self.customers.counts["runs"] += 1
            self.customers.counts[f"ended {status}"] += 1
            if key is None:
                if status != "interrupted":
                    yield f"run {run} of {name} is {status}, and no customer's key leads to it"
                continue
            if status == "failed" and cause not in ("least_ok", "survivors"):
                yield f"run {run} of {name} failed, {cause}"
            if status == "cancelled" and identifier not in self.customers.unwanted:
                yield f"run {run} of {name} is cancelled, and nobody has asked for that"
            comparison = Comparison(
                self.connection,
                self.oracle,
                run,
                whole=status == "succeeded",
                lenient=self._struck(*spans[run], Freeze),
                deadly=self._deaths(*spans[run]) >= _CONDEMNED,
            )
            yield from comparison.differences(self.customers.known[name], self.customers.size)

    def _statuses(self) -> Iterator[tuple[float, str, str]]:
        """Give when which generation became what."""
        for line in self.machine.log:
            at, _, what = line.partition(" ")
            which, _, status = what.partition(": ")
            if which.startswith("run ") and ", generation " in which:
                yield float(at), which, status

    def _struck(self, since: float, until: float, *kinds: type[Fault]) -> bool:
        """Whether such a fault lasted in that time, or a part of it."""
        return any(
            fault.at <= until and since <= fault.at + getattr(fault, "seconds", 0.0)
            for fault in self.plan.faults
            if isinstance(fault, kinds)
        )

    def _deaths(self, since: float, until: float) -> int:
        """How often somebody could take a process for dead in that time."""
        return sum(
            since <= at <= until and any(word in line for word in _DEADLY)
            for at, line in self.machine.harm
        )
