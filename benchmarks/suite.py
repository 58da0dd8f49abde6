"""All benchmarks, one after the other; their reports are kept, and the page is made of them."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.process import ROOT, BenchmarkError

__all__ = ["KEPT", "ORDER", "Benchmark", "Report", "read", "run"]

Report = dict[str, Any]
KEPT = ROOT / "benchmarks" / "results"

ORDER: Mapping[str, tuple[list[str], list[str]]] = {
    "overhead": (["--items", "20000", "--repeats", "7"], ["--items", "2000", "--repeats", "1"]),
    "real": (["--repeats", "3"], ["--items", "200", "--repeats", "1"]),
    "peers": (
        ["--items", "400", "--repeats", "3"],
        ["--items", "20", "--repeats", "1", "--only", "stagerun", "gather"],
    ),
    "scale": (["--repeats", "1"], ["--repeats", "1", "--largest", "1000"]),
    "memory": ([], ["--items", "2000"]),
    "fairness": (["--repeats", "1"], ["--repeats", "1", "--items", "20000"]),
    "latency": (["--repeats", "4"], ["--repeats", "2", "--only", "opening", "visible"]),
    "asking": ([], ["--runs", "2"]),
    "responsive": ([], ["--items", "20", "--seconds", "1"]),
    "streams": ([], ["--clients", "20", "--seconds", "2"]),
    "pages": ([], ["--runs", "1000", "--items", "2000", "--repeats", "2"]),
    "offload": ([], ["--calls", "20"]),
}
"""With their options: for figures to be kept, and for a look whether everything runs."""


@frozen
class Benchmark:
    run: Callable[[Namespace], Report]
    table: Callable[[Report], str]


def run(
    benchmarks: Mapping[str, Benchmark],
    parser: ArgumentParser,
    names: Iterable[str],
    *,
    quick: bool,
    keep: Path,
) -> dict[str, Report]:
    """Run the benchmarks *names*, and keep each one's report as soon as there is one.

    Raises:
        BenchmarkError: Some could not be measured. The others were.
    """
    keep.mkdir(parents=True, exist_ok=True)
    reports, failed = dict[str, Report](), list[str]()
    for name in names:
        options = ORDER[name][quick]
        print(f"== {name} {' '.join(options)}", file=sys.stderr, flush=True)
        try:
            report = benchmarks[name].run(parser.parse_args([name, *options]))
        except BenchmarkError as error:
            failed.append(f"{name}: {error}")
            continue
        reports[name] = report
        (keep / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        print(benchmarks[name].table(report), file=sys.stderr, flush=True)
    if failed:
        raise BenchmarkError("; ".join(failed))
    return reports


def read(keep: Path) -> dict[str, Report]:
    """Return the reports that are kept in a folder."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(keep.glob("*.json"))}
