"""Items a second: stagerun with everything stored, beside what it costs to write it by hand."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from attrs import frozen

from benchmarks import environment
from benchmarks.baselines import (
    STAGES,
    measure_asyncio,
    measure_sqlite,
    measure_trio,
    measure_trio_stored,
)
from benchmarks.process import measure_apart
from benchmarks.subject import measure_stagerun


@frozen
class Subject:
    title: str
    unit: str
    measure: Callable[[int, Path], dict[str, float]]


SUBJECTS = {
    "trio": Subject("hand-written trio, nothing stored", "items/s", measure_trio),
    "trio-stored": Subject(
        "hand-written trio, a row per item and stage", "items/s", measure_trio_stored
    ),
    "asyncio": Subject("hand-written asyncio, nothing stored", "items/s", measure_asyncio),
    "sqlite": Subject("SQLite alone, 500 rows a transaction", "rows/s", measure_sqlite),
    "stagerun": Subject("stagerun, everything stored", "items/s", measure_stagerun),
}


def run(
    names: list[str], items: int, repeats: int, directory: Path | None = None
) -> dict[str, Any]:
    """Measure in rounds, so that a busy minute of the machine meets all of them alike."""
    machine = environment.describe(directory)
    started, stolen_before = perf_counter(), environment.stolen()
    rates: dict[str, list[float]] = {name: [] for name in SUBJECTS if name in names}
    for _ in range(repeats):
        for name, samples in rates.items():
            seconds = measure_apart(name, items, directory)["seconds"]
            samples.append(items * _units_an_item(name) / seconds)
    results = {name: _summary(name, samples) for name, samples in rates.items()}
    return {
        "benchmark": "overhead",
        "command": _command(names, items, repeats),
        "environment": machine,
        "items": items,
        "repeats": repeats,
        "seconds": perf_counter() - started,
        "cpu_seconds_stolen": environment.stolen_since(stolen_before),
        "results": results,
        "ratios": _ratios({name: median(samples) for name, samples in rates.items()}),
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines.append(f"{'':<46}{'median':>10}{'min':>10}{'max':>10}")
    for result in report["results"].values():
        figures = "".join(f"{result[key]:>10,.0f}" for key in ("median", "min", "max"))
        lines.append(f"{result['title']:<46}{figures} {result['unit']}")
    lines += ["", f"{report['seconds']:.0f} s in all"]
    if report["cpu_seconds_stolen"] is not None:
        lines.append(f"{report['cpu_seconds_stolen']:.0f} CPU s stolen by the machine's host")
    lines += [f"{name:<46}{ratio:>10.2f}" for name, ratio in report["ratios"].items()]
    return "\n".join(lines)


def _command(names: list[str], items: int, repeats: int) -> str:
    only = "" if set(names) == set(SUBJECTS) else f" --only {' '.join(names)}"
    return f"python -m benchmarks overhead --items {items} --repeats {repeats}{only}"


def _summary(name: str, samples: list[float]) -> dict[str, Any]:
    return {
        "title": SUBJECTS[name].title,
        "unit": SUBJECTS[name].unit,
        "median": median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": samples,
    }


def _ratios(medians: dict[str, float]) -> dict[str, float]:
    """What stagerun reaches of each baseline; of SQLite's, in rows a second."""
    if "stagerun" not in medians:
        return {}
    return {
        f"stagerun/{name}": medians["stagerun"] * _units_an_item(name) / rate
        for name, rate in medians.items()
        if name != "stagerun"
    }


def _units_an_item(name: str) -> int:
    return len(STAGES) if SUBJECTS[name].unit == "rows/s" else 1
