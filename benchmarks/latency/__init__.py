"""How late things are: dead owners settled, runs cancelled, deadlines kept, blocks reported."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks import environment
from benchmarks.latency import cost, deaths, loop, opening, orphans, repeated, visible
from benchmarks.latency.figure import Figure

__all__ = ["MEASURES", "SCENARIOS", "run", "table"]


@frozen
class _Scenario:
    measure: Callable[[int, Path], list[Figure]]
    share: float = 1.0
    """Of the repeats that were asked for: those that take long have fewer."""

    def figures(self, repeats: int, directory: Path) -> list[Figure]:
        return self.measure(max(1, round(repeats * self.share)), directory)


SCENARIOS = {
    "opening": _Scenario(opening.opening),
    "visible": _Scenario(visible.visible),
    "start": _Scenario(deaths.start),
    "beside": _Scenario(deaths.beside),
    "orphans": _Scenario(orphans.orphans, 0.25),
    "cancel": _Scenario(loop.cancel, 2),
    "overshoot": _Scenario(loop.overshoot, 0.25),
    "overdue": _Scenario(loop.overdue),
    "blocked": _Scenario(loop.blocked),
    "resume": _Scenario(repeated.resume, 0.25),
    "cost": _Scenario(cost.cost),
}
MEASURES = {
    **loop.MEASURES,
    **cost.MEASURES,
    **visible.MEASURES,
    repeated.NAME: repeated.measure,
}


def run(names: Sequence[str], repeats: int, directory: Path | None = None) -> dict[str, Any]:
    """Measure one after the other, each with databases of its own."""
    machine, stolen_before = environment.describe(directory), environment.stolen()
    results: dict[str, Any] = {}
    for name in (name for name in SCENARIOS if name in names):
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch:
            figures = SCENARIOS[name].figures(repeats, Path(scratch))
        for figure in figures:
            results[figure.title] = figure.document() | {"load": round(load, 2)}
    only = "" if set(names) == set(SCENARIOS) else f" --only {' '.join(names)}"
    return {
        "benchmark": "latency",
        "command": f"python -m benchmarks latency --repeats {repeats}{only}",
        "environment": machine,
        "cpu_seconds_stolen": environment.stolen_since(stolen_before),
        "results": results,
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    heads = ("n", "median", "p99", "max", "goal", "", "load")
    lines.append(f"{'':<58}" + "".join(f"{head:>9}" for head in heads))
    for title, result in report["results"].items():
        digits = 0 if result["unit"] == "ms" else 2
        figures = "".join(f"{result[key]:>9,.{digits}f}" for key in ("median", "p99", "max"))
        bound, verdict = "", ""
        if result["bound"] is not None:
            bound, verdict = f"{result['bound']:,}", "met" if result["met"] else "MISSED"
        name = f"{title}, {result['unit']}"
        lines.append(
            f"{name:<58}{result['n']:>9}{figures}{bound:>9}{verdict:>9}{result['load']:>9.1f}"
        )
        lines += [f"    {what}: {value}" for what, value in result.get("where", {}).items()]
    if report["cpu_seconds_stolen"] is not None:
        lines.append(f"{report['cpu_seconds_stolen']:.0f} CPU s stolen by the machine's host")
    return "\n".join(lines)
