"""What stagerun costs in time and memory. Run from the project's root."""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks import (
    asking,
    fairness,
    latency,
    memory,
    offload,
    overhead,
    pages,
    peers,
    real,
    responsive,
    scale,
    streams,
    suite,
)
from benchmarks.process import BenchmarkError
from benchmarks.suite import Benchmark, Report


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args(sys.argv[1:] if _named(sys.argv) else ["suite", *sys.argv[1:]])
    try:
        match arguments.command:
            case "measure":
                measure = _MEASURES[arguments.name]
                print(json.dumps(measure(arguments.items, arguments.directory)))
            case "suite":
                chosen = {"quick": arguments.quick, "keep": arguments.keep}
                reports = suite.run(_BENCHMARKS, parser, arguments.only, **chosen)
                if arguments.json:
                    print(json.dumps(reports, indent=2))
            case "page":
                for path in _write_page(suite.read(arguments.keep)):
                    print(path)
            case name:
                report = _BENCHMARKS[name].run(arguments)
                print(json.dumps(report, indent=2) if arguments.json else _table(name, report))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def _named(words: list[str]) -> bool:
    """Whether a command is named, or help is asked for; else all of them are run."""
    return len(words) > 1 and (not words[1].startswith("-") or words[1] in ("-h", "--help"))


def _table(name: str, report: Report) -> str:
    return _BENCHMARKS[name].table(report)


def _write_page(reports: dict[str, Report]) -> list[Path]:
    try:
        page = import_module("benchmarks.page")  # it draws
    except ModuleNotFoundError as error:
        raise BenchmarkError(f"pictures need {error.name}: pip install -e '.[bench]'") from error
    written: list[Path] = page.write(reports, _BENCHMARKS)
    return written


_BENCHMARKS = {
    "overhead": Benchmark(
        lambda given: overhead.run(given.only, given.items, given.repeats, given.directory),
        overhead.table,
    ),
    "fairness": Benchmark(
        lambda given: fairness.run(given.items, given.repeats, given.directory), fairness.table
    ),
    "real": Benchmark(
        lambda given: real.run(given.only, given.items, given.repeats, given.directory),
        real.table,
    ),
    "scale": Benchmark(
        lambda given: scale.run(given.only, given.largest, given.repeats, given.directory),
        scale.table,
    ),
    "memory": Benchmark(lambda given: memory.run(given.items, given.directory), memory.table),
    "asking": Benchmark(lambda given: asking.run(given.runs, given.directory), asking.table),
    "latency": Benchmark(
        lambda given: latency.run(given.only, given.repeats, given.directory), latency.table
    ),
    "offload": Benchmark(lambda given: offload.run(given.calls, given.directory), offload.table),
    "pages": Benchmark(
        lambda given: pages.run(given.runs, given.items, given.repeats, given.directory),
        pages.table,
    ),
    "peers": Benchmark(
        lambda given: peers.run(
            given.only, given.items, given.repeats, given.environment, given.directory
        ),
        peers.table,
    ),
    "responsive": Benchmark(
        lambda given: responsive.run(given.items, given.seconds, given.directory),
        responsive.table,
    ),
    "streams": Benchmark(
        lambda given: streams.run(given.clients, given.seconds, given.directory), streams.table
    ),
}

_MEASURES: dict[str, Callable[[int, Path], dict[str, float]]] = {
    **{name: subject.measure for name, subject in overhead.SUBJECTS.items()},
    memory.NAME: memory.measure,
    **fairness.MEASURES,
    **real.MEASURES,
    **latency.MEASURES,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    speed = commands.add_parser("overhead", help="items/s of stagerun and of hand-written code")
    speed.add_argument("--items", type=_positive, default=20_000)
    speed.add_argument("--repeats", type=_positive, default=5)
    names = list(overhead.SUBJECTS)
    only = "measure these alone; ratios need both of their sides"
    speed.add_argument("--only", nargs="+", choices=names, default=names, help=only)

    resident = commands.add_parser("memory", help="resident memory with 1,000 items and with many")
    resident.add_argument("--items", type=_positive, default=1_000_000)

    requests = commands.add_parser("asking", help="cancel and why, asked of another process")
    requests.add_argument("--runs", type=_positive, default=20)

    late = commands.add_parser("latency", help="how late things are, against their goals")
    late.add_argument("--repeats", type=_positive, default=20)
    scenes = list(latency.SCENARIOS)
    late.add_argument("--only", nargs="+", choices=scenes, default=scenes, help="measure these")

    elsewhere = commands.add_parser("offload", help="calls in processes, threads and asyncio")
    elsewhere.add_argument("--calls", type=_positive, default=1000)

    lists = commands.add_parser("pages", help="lists and charts in a large database")
    lists.add_argument("--runs", type=_positive, default=100_000)
    lists.add_argument("--items", type=_positive, default=1_000_000)
    lists.add_argument("--repeats", type=_positive, default=20)

    others = commands.add_parser("peers", help="the same work with other libraries")
    others.add_argument("--items", type=_positive, default=500)
    others.add_argument("--repeats", type=_positive, default=3)
    known = list(peers.SUBJECTS)
    others.add_argument("--only", nargs="+", choices=known, default=known, help=only)
    installed = "where the peers are installed (default: the user's cache directory)"
    others.add_argument("--environment", type=Path, help=installed)

    web = commands.add_parser("responsive", help="a web service while its stages block")
    web.add_argument("--items", type=_positive, default=200)
    web.add_argument("--seconds", type=float, default=5.0)

    live = commands.add_parser("streams", help="many clients that follow one run's events")
    live.add_argument("--clients", type=_positive, default=500)
    live.add_argument("--seconds", type=float, default=15.0)

    beside = commands.add_parser("fairness", help="small runs beside a very large one")
    beside.add_argument("--items", type=_positive, default=1_000_000)
    beside.add_argument("--repeats", type=_positive, default=3)

    earnest = commands.add_parser("real", help="stages that do something, against hand-written")
    earnest.add_argument("--items", type=_positive, default=20_000)
    earnest.add_argument("--repeats", type=_positive, default=5)
    pairs = list(real.COMPARISONS)
    earnest.add_argument("--only", nargs="+", choices=pairs, default=pairs, help="measure these")

    growth = commands.add_parser("scale", help="how cost grows with items, runs, workers, results")
    growth.add_argument("--largest", type=_positive, default=1_000_000, help="no larger sizes")
    growth.add_argument("--repeats", type=_positive, default=3)
    series = list(scale.SERIES)
    growth.add_argument("--only", nargs="+", choices=series, default=series, help="measure these")

    everything = commands.add_parser("suite", help="all of them; also when none is named")
    everything.add_argument("--quick", action="store_true", help="small: does everything run?")
    ordered = list(suite.ORDER)
    everything.add_argument("--only", nargs="+", choices=ordered, default=ordered)
    everything.add_argument("--json", action="store_true", help="print all reports at the end")
    written = commands.add_parser("page", help="write docs/benchmarks.md from the kept reports")
    for command in (everything, written):
        command.add_argument("--keep", type=Path, default=suite.KEPT, help="the reports' folder")

    where = "where the databases go (default: the system's temporary directory)"
    reporting = (speed, resident, requests, late, elsewhere, lists, others, web, live)
    for command in (*reporting, beside, earnest, growth):
        command.add_argument("--json", action="store_true")
        command.add_argument("--directory", type=Path, help=where)

    # Others start this one, in a fresh process for every figure.
    single = commands.add_parser("measure", help="one measurement, in this process")
    single.add_argument("name", choices=list(_MEASURES))
    single.add_argument("--items", type=_positive, required=True)
    single.add_argument("--directory", type=Path, required=True)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
