"""The suite keeps what it measured, and the page is made of what is kept."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots, suite
from benchmarks.__main__ import _BENCHMARKS, _parser
from benchmarks.page import PAGE, page
from benchmarks.process import BenchmarkError
from benchmarks.suite import Benchmark

REPORTS = suite.read(suite.KEPT)


def test_every_benchmark_stands_in_the_suite_with_options_that_it_takes() -> None:
    assert set(suite.ORDER) == set(_BENCHMARKS)
    for name, sizes in suite.ORDER.items():
        for options in sizes:
            assert _parser().parse_args([name, *options]).command == name


def test_reports_are_kept_though_one_cannot_be_measured(tmp_path: Path) -> None:
    def broken(_: Any) -> dict[str, Any]:
        raise BenchmarkError("no figure today")

    benchmarks = {
        "memory": Benchmark(broken, str),
        "offload": Benchmark(lambda given: {"calls": given.calls}, str),
    }
    with pytest.raises(BenchmarkError, match="memory: no figure today"):
        suite.run(benchmarks, _parser(), ["memory", "offload"], quick=True, keep=tmp_path)
    assert suite.read(tmp_path) == {"offload": {"calls": 20}}


def test_the_page_is_what_the_kept_reports_say() -> None:
    assert PAGE.read_text() == page(REPORTS, _BENCHMARKS)


def test_what_was_not_measured_is_said() -> None:
    assert "Not measured yet: `python -m benchmarks overhead`." in page({}, _BENCHMARKS)


@pytest.mark.parametrize("name", [name for name in plots.PLOTS if name in REPORTS])
def test_a_picture_names_what_it_shows(name: str, tmp_path: Path) -> None:
    path = plots.draw(plots.PLOTS[name], REPORTS[name], tmp_path / "plot.svg")
    svg = path.read_text()
    assert svg.count("<text") > 5
    assert (PAGE.parent / "pictures" / f"benchmark-{name}.svg").is_file()


def test_every_picture_of_the_page_is_there() -> None:
    for target in re.findall(r"\]\((pictures/[^)]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).is_file(), target


def test_a_kept_report_says_how_it_was_measured() -> None:
    for name, report in REPORTS.items():
        assert report["benchmark"] == name
        assert report["command"].startswith(f"python -m benchmarks {name}")
        assert report["environment"]["python"]
        assert json.dumps(report)
