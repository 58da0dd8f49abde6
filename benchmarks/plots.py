"""The page's pictures: what people would rather look at than read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["PLOTS", "Plot", "draw"]

_OURS, _OTHERS, _GOAL = "#2563eb", "#94a3b8", "#dc2626"
Report = Mapping[str, Any]


@frozen
class Plot:
    says: str
    """What it shows, for whoever cannot see it."""
    paint: Callable[[Figure, Report], None]
    size: tuple[float, float] = (8.0, 3.2)


def draw(plot: Plot, report: Report, path: Path) -> Path:
    """Draw *plot* of *report* into an SVG file."""
    # The same figures give the same bytes, and text stays text.
    with mpl.rc_context({"svg.hashsalt": "stagerun", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=plot.size, layout="constrained")
        plot.paint(figure, report)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def _overhead(figure: Figure, report: Report) -> None:
    rates = [each for each in report["results"].values() if each["unit"] == "items/s"]
    axes = _plain(figure.subplots())
    _bars(axes, rates, "items/s")


def _peers(figure: Figure, report: Report) -> None:
    rates = [each for each in report["results"].values() if "median" in each]
    axes = _plain(figure.subplots())
    _bars(axes, sorted(rates, key=lambda each: each["median"]), "steps/s")
    axes.set_xscale("log")


def _bars(axes: Axes, rates: list[Any], unit: str) -> None:
    """Draw medians as bars, the least and the most as whiskers, the largest on top."""
    rates = sorted(rates, key=lambda each: each["median"])
    medians = [each["median"] for each in rates]
    spread = [
        [each["median"] - each["min"] for each in rates],
        [each["max"] - each["median"] for each in rates],
    ]
    titles = [each["title"] for each in rates]
    colours = [_OURS if title.startswith("stagerun") else _OTHERS for title in titles]
    axes.barh(titles, medians, color=colours, height=0.6)
    axes.errorbar(medians, titles, xerr=spread, fmt="none", ecolor="#1e293b", capsize=3)
    for place, median in enumerate(medians):
        axes.annotate(
            f"{median:,.0f}",
            (rates[place]["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xlabel(unit)
    axes.margins(x=0.14)


def _latency(figure: Figure, report: Report) -> None:
    """Draw a line from the median to the largest for each figure in milliseconds, and its goal."""
    results = {title: each for title, each in report["results"].items() if each["unit"] == "ms"}
    axes = _plain(figure.subplots())
    axes.set_xscale("log")
    for place, each in enumerate(reversed(results.values())):
        median, most = max(each["median"], 0.1), max(each["max"], 0.1)
        axes.plot([median, most], [place, place], color=_OURS, linewidth=2)
        axes.plot([median], [place], "o", color=_OURS)
        if each["bound"] is not None:
            axes.plot([each["bound"]], [place], "|", color=_GOAL, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(results)), [*reversed(results)])
    axes.set_xlabel("ms: median to largest; red: the goal")


def _real(figure: Figure, report: Report) -> None:
    """Draw each ratio, and as a mark what it should be: at most, or for a rate at least."""
    axes = _plain(figure.subplots())
    results = [*reversed(report["results"].values())]
    titles = [each["title"] for each in results]
    axes.barh(titles, [each["ratio"] for each in results], color=_OURS, height=0.5)
    for place, each in enumerate(results):
        goal = each.get("most", each.get("least"))
        axes.plot([goal], [place], "|", color=_GOAL, markersize=18, markeredgewidth=2)
    axes.axvline(1, color="#1e293b", linewidth=1)
    axes.set_xlabel("seconds against the hand-written; commit first: items/s against the default")


def _scale(figure: Figure, report: Report) -> None:
    """Draw what a thousand steps cost, and the memory, as each thing grows."""
    shown = {name: sizes for name, sizes in report["results"].items() if len(sizes) > 1}
    rows = figure.subplots(2, len(shown), squeeze=False)
    for column, (name, sizes) in enumerate(shown.items()):
        for row, (key, unit) in enumerate(_GROWS.items()):
            axes = _plain(rows[row][column])
            x, y = [each["size"] for each in sizes], [each[key]["median"] for each in sizes]
            axes.plot(x, y, "o-", color=_OURS)
            axes.set_xscale("log")
            axes.set_ylim(bottom=0)
            if column == 0:
                axes.set_ylabel(unit)
        rows[1][column].set_xlabel(name)


_GROWS = {"cpu_seconds_per_1000_steps": "CPU s / 1,000 steps", "peak_mb": "peak MB"}


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.grid(visible=True, color="#e2e8f0")
    axes.set_axisbelow(True)
    return axes


PLOTS: Mapping[str, Plot] = {
    "overhead": Plot("Items a second: stagerun beside code written by hand", _overhead),
    "real": Plot("Real stages against the same by hand, and commit first", _real, (9, 3)),
    "scale": Plot("CPU time and memory against items, runs, workers, size", _scale, (9, 4.5)),
    "peers": Plot("Steps a second: stagerun beside other libraries, logarithmic", _peers, (8, 3.8)),
    "latency": Plot("How late things are, against their goals", _latency, (9, 6)),
}
