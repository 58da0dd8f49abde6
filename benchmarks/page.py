"""Writes docs/benchmarks.md: the words are in page.md, the figures in the reports that are kept."""

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks import plots
from benchmarks.process import ROOT
from benchmarks.suite import Benchmark, Report

__all__ = ["PAGE", "page", "write"]

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "pictures"
_WORDS = Path(__file__).with_name("page.md")
_PLACE = re.compile(r"^\{(table|picture) ([a-z]+)\}$", re.MULTILINE)


def page(reports: Mapping[str, Report], benchmarks: Mapping[str, Benchmark]) -> str:
    """Return the page: each ``{table NAME}`` is what that benchmark prints."""

    def filled(place: "re.Match[str]") -> str:
        what, name = place.groups()
        if name not in reports:
            return f"Not measured yet: `python -m benchmarks {name}`."
        if what == "picture":
            return f"![{plots.PLOTS[name].says}](pictures/benchmark-{name}.svg)"
        return f"```text\n{benchmarks[name].table(reports[name]).rstrip()}\n```"

    return _PLACE.sub(filled, _WORDS.read_text())


def write(reports: Mapping[str, Report], benchmarks: Mapping[str, Benchmark]) -> list[Path]:
    """Write the page and its pictures; return what was written."""
    written = [PAGE]
    PAGE.write_text(page(reports, benchmarks))
    for name, plot in plots.PLOTS.items():
        if name in reports:
            written.append(plots.draw(plot, reports[name], PICTURES / f"benchmark-{name}.svg"))
    return written
