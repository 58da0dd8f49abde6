"""stagerun beside other libraries at the same work: items through three steps that do nothing,
everything stored as each of them stores it. Each peer has an environment and processes of its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from attrs import define, field

from benchmarks import environment
from benchmarks.peers.installing import python_for
from benchmarks.peers.killing import trial
from benchmarks.peers.measuring import Sample, sample, summary
from benchmarks.peers.redis import redis_server
from benchmarks.peers.subjects import SUBJECTS, Subject
from benchmarks.peers.table import table
from benchmarks.process import BenchmarkError

__all__ = ["SUBJECTS", "ratios", "run", "table"]


def run(
    names: Sequence[str],
    items: int,
    repeats: int,
    place: Path | None = None,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Measure in rounds, so that a busy minute of the machine meets all of them alike.

    A peer that cannot be installed, or that fails, is a row that says why.
    """
    machine = environment.describe(directory)
    started, stolen_before = perf_counter(), environment.stolen()
    peers = [_Peer(name, SUBJECTS[name], place) for name in SUBJECTS if name in names]
    for peer in peers:
        peer.install()
    for _ in range(repeats):
        for peer in peers:
            peer.measure(items, directory)
    for peer in peers:
        peer.kill(directory)
    results = {peer.name: peer.result(items) for peer in peers}
    return {
        "benchmark": "peers",
        "command": _command(names, items, repeats),
        "environment": machine,
        "items": items,
        "repeats": repeats,
        "seconds": perf_counter() - started,
        "cpu_seconds_stolen": environment.stolen_since(stolen_before),
        "results": results,
        "ratios": ratios(results),
        "goals": {
            f"stagerun/{name}": SUBJECTS[name].goal for name in results if SUBJECTS[name].goal
        },
    }


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """How many times as fast stagerun is, in steps a second."""
    rates = {name: result["median"] for name, result in results.items() if "median" in result}
    if "stagerun" not in rates:
        return {}
    return {
        f"stagerun/{name}": rates["stagerun"] / rate
        for name, rate in rates.items()
        if name != "stagerun"
    }


@define
class _Peer:
    name: str
    subject: Subject
    place: Path | None
    python: Path = Path(sys.executable)
    samples: list[Sample] = field(factory=list)
    trouble: str | None = None
    after_kill: dict[str, Any] | str = ""

    def install(self) -> None:
        try:
            if self.subject.needs_redis:
                redis_server()
            self.python = python_for(self.subject.requirements, self.place)
        except BenchmarkError as error:
            self.trouble = str(error)

    def measure(self, items: int, directory: Path | None) -> None:
        if self.trouble is not None:
            return
        number = self.subject.items(items)
        try:
            self.samples.append(sample(self.subject, self.python, number, directory))
        except BenchmarkError as error:
            self.trouble = str(error)

    def kill(self, directory: Path | None) -> None:
        if self.subject.untried:
            self.after_kill = f"not tried: {self.subject.untried}"
        elif self.trouble is None:
            try:
                kept = trial(self.subject, self.python, directory)
                self.after_kill = kept | {"started_again_with": self.subject.again}
            except BenchmarkError as error:
                self.after_kill = f"not tried: {error}"

    def result(self, items: int) -> dict[str, Any]:
        told = {"title": self.subject.title, "items": self.subject.items(items)}
        if self.trouble is not None:
            return told | {"not_measured": self.trouble}
        return told | summary(self.samples) | {"after_kill": self.after_kill}


def _command(names: Sequence[str], items: int, repeats: int) -> str:
    only = "" if set(names) == set(SUBJECTS) else f" --only {' '.join(names)}"
    return f"python -m benchmarks peers --items {items} --repeats {repeats}{only}"
