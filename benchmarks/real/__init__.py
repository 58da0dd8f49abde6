"""Stages that do something, against the same written by hand with the same stored."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import environment
from benchmarks.process import measure_apart
from benchmarks.real.comparisons import COMPARISONS, MEASURES, Comparison

__all__ = ["COMPARISONS", "MEASURES", "run", "table"]


def run(
    names: Sequence[str], items: int, repeats: int, directory: Path | None = None
) -> dict[str, Any]:
    """Measure in rounds, each side once, so that a busy minute meets both alike."""
    machine = environment.describe(directory)
    began, stolen_before = perf_counter(), environment.stolen()
    chosen = {name: each for name, each in COMPARISONS.items() if name in names}
    samples: dict[str, dict[str, list[float]]] = {
        name: {side: [] for side in each.sides} for name, each in chosen.items()
    }
    for _ in range(repeats):
        for name, sides in samples.items():
            for side, taken in sides.items():
                measure = f"real-{name}-{side.replace(' ', '-')}"
                number = chosen[name].items(items)
                taken.append(measure_apart(measure, number, directory)["seconds"])
    return {
        "benchmark": "real",
        "command": _command(names, items, repeats),
        "environment": machine,
        "repeats": repeats,
        "seconds": perf_counter() - began,
        "cpu_seconds_stolen": environment.stolen_since(stolen_before),
        "results": {name: _result(each, items, samples[name]) for name, each in chosen.items()},
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    heads = "".join(f"{head:>9}" for head in ("items", "median", "min", "max", "ratio"))
    lines.append(f"{'seconds':<64}{heads}  goal")
    for result in report["results"].values():
        first, *others = result["sides"].items()
        lines.append(f"{_line(result, *first)}{result['ratio']:>9.2f}  {_goal(result)}")
        lines += [_line(result, *other) for other in others]
    lines += ["", f"{report['seconds']:.0f} s in all"]
    if report["cpu_seconds_stolen"] is not None:
        lines.append(f"{report['cpu_seconds_stolen']:.0f} CPU s stolen by the machine's host")
    return "\n".join(lines)


def _command(names: Sequence[str], items: int, repeats: int) -> str:
    only = "" if set(names) == set(COMPARISONS) else f" --only {' '.join(names)}"
    return f"python -m benchmarks real --items {items} --repeats {repeats}{only}"


def _result(comparison: Comparison, items: int, samples: dict[str, list[float]]) -> dict[str, Any]:
    sides = {
        side: {
            "median": median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "samples": seconds,
        }
        for side, seconds in samples.items()
    }
    medians = [median(seconds) for seconds in samples.values()]
    return {
        "title": comparison.title,
        "items": comparison.items(items),
        "sides": sides,
        **comparison.judge(*medians),
    }


def _line(result: dict[str, Any], side: str, figures: dict[str, float]) -> str:
    seconds = "".join(f"{figures[key]:>9.2f}" for key in ("median", "min", "max"))
    return f"{result['title'] + ': ' + side:<64}{result['items']:>9,}{seconds}"


def _goal(result: dict[str, Any]) -> str:
    bound = f"at least {result['least']}" if "least" in result else f"at most {result['most']}"
    return f"{bound} of the other's {result['of']}: {'met' if result['met'] else 'MISSED'}"
