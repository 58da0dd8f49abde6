"""Compares what a run has left on disk with what had to come of it."""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from stagerun import Pipeline
from stagerun.model.outcome import Outcome
from stagerun.model.stage import Kind
from stagerun.store import codec
from tests.simulation.workloads import Oracle

__all__ = ["Comparison"]


@frozen
class Comparison:
    """One run, beside the oracle."""

    connection: sqlite3.Connection
    oracle: Oracle
    run: int
    whole: bool
    """Whether it has succeeded: else items may be missing, or be cut with it."""
    lenient: bool
    """Whether a process stood still: then an attempt may have been cut that would have done well.
    """
    deadly: bool
    """Whether processes died so often that items may have been given up for it."""

    def differences(self, pipeline: Pipeline, size: int) -> Iterable[str]:
        """Say, stage by stage, which items are missing or too many, or ended otherwise."""
        numbers = {n: n for n in range(1, size + 1)}  # by item
        for index, stage in enumerate(pipeline.stages):
            where = f"run {self.run} of {pipeline.name}, stage {stage.name}"
            if stage.kind is Kind.COLLECT:
                if self.whole:
                    yield from self._sums(where, index, numbers)
                return
            found = self._outcomes(index)
            came = sorted(numbers[item] for item in found if item in numbers)
            if {*found} - {*numbers} or (self.whole and len(came) < len(numbers)):
                given = sorted(numbers.values())
                yield f"{where}: given were {given}, and {came} have outcomes, as {found}"
                return
            for item, outcome in found.items():
                wanted = self._wanted(stage.name, numbers[item])
                if outcome != wanted and not self._excused(outcome):
                    yield f"{where}: {numbers[item]} is {outcome}, and must be {wanted}"
            through = {n for item, n in numbers.items() if found.get(item) == "ok"}
            if stage.kind is Kind.MANY:
                numbers = self._made(index + 1)
                wanted_children = sorted(child for n in through for child in (10 * n, 10 * n + 1))
                complete = [n for n in sorted(numbers.values()) if n // 10 in through]
                if complete != wanted_children:
                    yield f"{where}: made {complete}, and had to make {wanted_children}"
            else:
                numbers = {item: n for item, n in numbers.items() if n in through}

    def _excused(self, outcome: str) -> bool:
        """Whether an item may have ended so whatever its stage does with it."""
        if outcome == "crashed":
            return self.deadly
        return self.lenient or (not self.whole and outcome in ("cancelled", "timed_out"))

    def _wanted(self, stage: str, n: int) -> str:
        if stage == "pack":
            return "failed" if n % 7 == 3 else "ok"
        wanted = self.oracle.expected(stage, n)
        return "ok" if stage == "fan" and wanted == "skipped" else wanted  # it drops nothing

    def _outcomes(self, index: int) -> dict[int, str]:
        return {
            item: Outcome(outcome).label
            for item, outcome in self.connection.execute(
                "SELECT item, outcome FROM items i WHERE run = ? AND stage = ? AND NOT EXISTS"
                " (SELECT 1 FROM superseded s WHERE s.run = i.run AND s.stage <= i.stage"
                "  AND s.stage > 0 AND s.item = i.item) ORDER BY generation",
                (self.run, index),
            )
        }

    def _made(self, index: int) -> dict[int, int]:
        return {
            item: codec.decode(value)["n"]
            for item, value in self.connection.execute(
                "SELECT item, value FROM emissions e WHERE run = ? AND stage = ? AND NOT EXISTS"
                " (SELECT 1 FROM superseded s WHERE s.run = e.run AND s.stage = e.stage"
                "  AND s.item = e.item)",
                (self.run, index),
            )
        }

    def _sums(self, where: str, index: int, numbers: Mapping[int, int]) -> Iterable[str]:
        """A collect stage has given each group's members, each once."""
        groups: dict[int, list[int]] = {}
        for n in numbers.values():
            groups.setdefault(n % 2, []).append(n)
        wanted = sorted(sorted(group) for group in groups.values())
        found = sorted(filter(None, self._results(index)))  # a group may have no ok member
        if found != wanted:
            yield f"{where}: gave {found}, and had to give {wanted}"

    def _results(self, index: int) -> list[Any]:
        return [
            codec.decode(small if small is not None else large)["ns"]
            for small, large in self.connection.execute(
                "SELECT i.result, r.value FROM items i LEFT JOIN results r"
                " USING (run, stage, item, generation)"
                " WHERE i.run = ? AND i.stage = ? AND i.outcome = 0",
                (self.run, index),
            )
        ]
