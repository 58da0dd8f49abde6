"""What stagerun costs in time and memory. Run from the project's root."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import asking, latency, memory, offload, overhead, pages, peers, responsive, streams
from benchmarks.process import BenchmarkError


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if arguments.command == "measure":
            measure = _MEASURES[arguments.name]
            print(json.dumps(measure(arguments.items, arguments.directory)))
        else:
            run, table = _COMMANDS[arguments.command]
            report = run(arguments)
            print(json.dumps(report, indent=2) if arguments.json else table(report))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


_Report = dict[str, Any]
_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], _Report], Callable[[_Report], str]]] = {
    "overhead": (
        lambda given: overhead.run(given.only, given.items, given.repeats, given.directory),
        overhead.table,
    ),
    "memory": (lambda given: memory.run(given.items, given.directory), memory.table),
    "asking": (lambda given: asking.run(given.runs, given.directory), asking.table),
    "latency": (
        lambda given: latency.run(given.only, given.repeats, given.directory),
        latency.table,
    ),
    "offload": (lambda given: offload.run(given.calls, given.directory), offload.table),
    "pages": (
        lambda given: pages.run(given.runs, given.items, given.repeats, given.directory),
        pages.table,
    ),
    "peers": (
        lambda given: peers.run(
            given.only, given.items, given.repeats, given.environment, given.directory
        ),
        peers.table,
    ),
    "responsive": (
        lambda given: responsive.run(given.items, given.seconds, given.directory),
        responsive.table,
    ),
    "streams": (
        lambda given: streams.run(given.clients, given.seconds, given.directory),
        streams.table,
    ),
}

_MEASURES = {
    **{name: subject.measure for name, subject in overhead.SUBJECTS.items()},
    memory.NAME: memory.measure,
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

    where = "where the databases go (default: the system's temporary directory)"
    for command in (speed, resident, requests, late, elsewhere, lists, others, web, live):
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
