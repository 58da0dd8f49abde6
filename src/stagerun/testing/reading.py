"""What a simulation has left in its database, read when all is over."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import frozen

from stagerun.model.stage import Kind
from stagerun.store import codec, frontier
from stagerun.store.documents import run_document
from stagerun.store.frontier import Place

__all__ = ["SimulatedRun", "read_runs"]


@frozen(kw_only=True, repr=False)
class SimulatedRun:
    """One run, as the database tells of it in the end."""

    document: Mapping[str, Any]
    """As ``stagerun show --json`` gives it."""
    results: Sequence[Any]
    """The last stage's results, in item order."""
    outcomes: Mapping[str, Mapping[int, str]]
    """Of each stage the outcome by item."""

    def __repr__(self) -> str:
        run, message = self.document["id"], self.document["message"]
        generation = f"generation {self.generation}"
        return f"<SimulatedRun {run[:8]}, {generation}: {self.status} ({self.cause}: {message})>"

    @property
    def status(self) -> str:
        """For example ``succeeded``."""
        return str(self.document["status"])

    @property
    def cause(self) -> str | None:
        """Why it ended, from the closed list of causes."""
        cause: str | None = self.document["cause"]
        return cause

    @property
    def generation(self) -> int:
        """How many times it was begun."""
        return int(self.document["generation"])


def read_runs(path: Path) -> tuple[SimulatedRun, ...]:
    """Read all runs of the database at *path*, by their age."""
    with closing(sqlite3.connect(path)) as connection:
        runs = connection.execute("SELECT run, id, generation FROM runs ORDER BY run").fetchall()
        return tuple(
            SimulatedRun(
                document=run_document(identifier)(connection),
                results=_results(connection, run, generation),
                outcomes=_outcomes(connection, identifier),
            )
            for run, identifier, generation in runs
        )


def _results(connection: sqlite3.Connection, run: int, generation: int) -> list[Any]:
    kinds = [
        Kind(kind)
        for (kind,) in connection.execute(
            "SELECT kind FROM stages WHERE run = ? AND generation = ? ORDER BY stage",
            (run, generation),
        )
    ]
    place, after, results = Place.of(run, generation, kinds, len(kinds)), 0, list[Any]()
    while page := frontier.results(place, after)(connection):
        results += [codec.decode(encoded) for _, encoded in page]
        after = page[-1][0]
    return results


def _outcomes(connection: sqlite3.Connection, identifier: str) -> dict[str, dict[int, str]]:
    outcomes = dict[str, dict[int, str]]()
    for stage, item, outcome in connection.execute(
        "SELECT stage, item, outcome FROM item_overview WHERE run = ? ORDER BY generation, item",
        (identifier,),
    ):
        outcomes.setdefault(stage, {})[item] = outcome
    return outcomes
