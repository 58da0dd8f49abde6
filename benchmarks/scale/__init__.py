"""How cost grows: with items, runs at once, workers, the size of results, and sleepers."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import environment
from benchmarks.process import BenchmarkError, run_apart
from benchmarks.scale.series import SERIES, Series

__all__ = ["SERIES", "run", "table"]

_LONGEST = 600.0
"""Seconds for a figure. A size that takes longer is told to be beyond measure."""
_Sample = dict[str, float] | BenchmarkError
_Samples = dict[tuple[str, int], list[_Sample]]


def run(
    names: Sequence[str], largest: int, repeats: int, directory: Path | None = None
) -> dict[str, Any]:
    """Measure each size up to *largest* once a round, each in a fresh process."""
    machine = environment.describe(directory)
    began, stolen_before = perf_counter(), environment.stolen()
    chosen = {name: series for name, series in SERIES.items() if name in names}
    samples: _Samples = {
        (name, size): [] for name, series in chosen.items() for size in series.sizes_to(largest)
    }
    for _ in range(repeats):
        for (name, size), taken in samples.items():
            taken.append(_measured(name, size, directory))
    results = {
        name: [_figure(size, taken) for (series, size), taken in samples.items() if series == name]
        for name in chosen
    }
    return {
        "benchmark": "scale",
        "command": _command(names, largest, repeats),
        "environment": machine,
        "repeats": repeats,
        "seconds": perf_counter() - began,
        "cpu_seconds_stolen": environment.stolen_since(stolen_before),
        "results": results,
        "goals": [goal for name in chosen for goal in _goals(chosen[name], results[name])],
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"]]
    for name, figures in report["results"].items():
        lines += ["", *_block(SERIES[name], figures)]
    lines += ["", *(_verdict(goal) for goal in report["goals"])]
    lines += ["", f"{report['seconds']:.0f} s in all"]
    if report["cpu_seconds_stolen"] is not None:
        lines.append(f"{report['cpu_seconds_stolen']:.0f} CPU s stolen by the machine's host")
    return "\n".join(lines)


def _command(names: Sequence[str], largest: int, repeats: int) -> str:
    only = "" if set(names) == set(SERIES) else f" --only {' '.join(names)}"
    return f"python -m benchmarks scale --largest {largest} --repeats {repeats}{only}"


def _measured(name: str, size: int, directory: Path | None) -> _Sample:
    """Measure once. What cannot be measured is told, and is no reason to lose the others."""
    sizes = ["--size", str(size), "--items", str(SERIES[name].items(size))]
    try:
        return run_apart("benchmarks.scale", [name, *sizes], directory, _LONGEST)
    except BenchmarkError as error:
        return error


def _figure(size: int, taken: Sequence[_Sample]) -> dict[str, Any]:
    for sample in taken:
        if isinstance(sample, BenchmarkError):
            return {"size": size, "not_measured": str(sample).splitlines()[-1]}
    figures = [sample for sample in taken if isinstance(sample, dict)]
    return {"size": size, **{key: _summary([each[key] for each in figures]) for key in figures[0]}}


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _goals(series: Series, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge the medians; only the largest size of all has a goal."""
    ends = figures[0], figures[-1]
    if ends[1]["size"] != series.sizes[-1] or any("not_measured" in end for end in ends):
        return []
    first, last = (end["peak_mb"]["median"] for end in ends)
    size = f"{series.sizes[-1]:,} {series.title}"
    judged = [
        (f"{size}: peak, MB", last, series.most_mb),
        (f"{size}: peak above that of {series.sizes[0]:,}, MB", last - first, series.most_rise_mb),
    ]
    return [
        {"title": title, "figure": figure, "bound": bound, "met": figure <= bound}
        for title, figure, bound in judged
        if bound is not None
    ]


_COLUMNS = {
    "steps/s": ("steps_per_second", 0),
    "CPU s/1000": ("cpu_seconds_per_1000_steps", 4),
    "peak MB": ("peak_mb", 1),
    "growth MB": ("growth_mb", 1),
    "B/item": ("bytes_per_item", 0),
    "B/step": ("bytes_per_step", 0),
}


def _block(series: Series, figures: list[dict[str, Any]]) -> list[str]:
    columns = {**_COLUMNS, **{key.replace("_", " "): (key, 2) for key in series.told}}
    widths = {head: max(12, len(head) + 2) for head in columns}
    heads = "".join(f"{head:>{width}}" for head, width in widths.items())
    lines = [f"{series.title:<34}{heads}{'steps/s, min-max':>22}"]
    for figure in figures:
        if "not_measured" in figure:
            lines.append(f"{figure['size']:>34,} not measured: {figure['not_measured']}")
            continue
        cells = "".join(
            f"{figure[key]['median']:>{widths[head]},.{digits}f}"
            for head, (key, digits) in columns.items()
        )
        rate = figure["steps_per_second"]
        between = f"{rate['min']:,.0f}-{rate['max']:,.0f}"
        lines.append(f"{figure['size']:>34,}{cells}{between:>22}")
    return lines


def _verdict(goal: dict[str, Any]) -> str:
    verdict = "met" if goal["met"] else "MISSED"
    return f"{goal['title']:<66}{goal['figure']:>9.1f}{goal['bound']:>7,} {verdict}"
