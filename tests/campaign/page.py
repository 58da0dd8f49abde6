"""Writes RELIABILITY.md: what the campaign did, what it found, and what it cannot show."""

import os
import platform
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from attrs import asdict

from tests.campaign.part import Part

__all__ = ["environment", "keep", "page", "read"]

Found = Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]
"""One part as often as it was done, each time with the environment."""

_LIMITS = """\
## What this does not show

- One computer, Linux, a local disk. Network file systems are refused, not tested; macOS was not
  tried, and no real laptop was closed: its sleep is a shim that moves the clocks.
- The simulation runs the engine, its rules and its SQL. The driver around them (aiosqlite, its
  thread, its retries on a disk that errs) is met by the real processes, the kills and the disk's
  faults; trio and SQLite themselves are taken as they are.
- In the simulation a process that is stopped keeps deciding in memory and commits later; a process
  that is killed still runs the `finally` of its stages, and a source goes on giving while its
  process is stopped.
- A disk that lies about what it has synced, or flips bits in the middle of a file, is found by
  nobody here: SQLite keeps no checksums.
- Of HTTP, httpx and httpcore are taken as they are. One thing is known: where an upstream sends a
  second answer unasked, right behind the first, it can be taken for that of the next call on the
  same connection.
- C code that holds the interpreter holds everything: bounds count from when it lets go.
- "0 violations" is a count of trials, not a proof. The planted bugs say what the simulation sees.
"""


def environment() -> dict[str, str]:
    """Return what the figures depend on."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "trio": version("trio"),
        "aiosqlite": version("aiosqlite"),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        "command": "python -m tests.campaign " + " ".join(sys.argv[1:]),
    }


def keep(parts: Sequence[Part], path: Path) -> None:
    """Write what was found to a file, for a page to be made of."""
    told = {"environment": environment(), "parts": [asdict(part) for part in parts]}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told)))


def read(paths: Sequence[Path]) -> list[Found]:
    """Read parts from such files: each part once, with all the times that it was done."""
    found = dict[str, list[tuple[Mapping[str, str], Mapping[str, Any]]]]()
    for path in paths:
        told = msgspec.json.decode(path.read_bytes())
        for part in told["parts"]:
            found.setdefault(part["name"], []).append((told["environment"], part))
    return [*found.values()]


def page(found: Sequence[Found]) -> str:
    """Return the page."""
    violations = sum(len(part["violations"]) for times in found for _, part in times)
    lines = [
        "# What was done to stagerun, and what came of it",
        "",
        (
            "This page is written by the campaign itself; what each part does stands in"
            " [tests/campaign](tests/campaign). Every figure has the command that makes it again."
        ),
        "",
        "| part | trials | violations | time |",
        "|---|---:|---:|---:|",
    ]
    for times in found:
        name = times[0][1]["name"]
        count = sum(len(part["violations"]) for _, part in times)
        trials, seconds = (sum(part[what] for _, part in times) for what in ("trials", "seconds"))
        link = f"[{name}](#{name.replace(' ', '-')})"
        lines.append(f"| {link} | {trials:,} | {count} | {_time(seconds)} |")
    lines += ["", f"Violations in all: **{violations}**.", ""]
    for times in found:
        lines += _section(times)
    return "\n".join([*lines, _LIMITS])


def _section(times: Found) -> Iterator[str]:
    """Tell of one part, which may have been done several times."""
    (world, part), parts = times[-1], [part for _, part in times]
    yield from [f"## {part['name']}", "", part["what"], ""]
    yield from [f"    {command}" for command in dict.fromkeys(each["command"] for each in parts)]
    yield ""
    counts = Counter[str]()
    for each in parts:
        counts.update({name: n for name, n in each["counts"].items() if isinstance(n, int)})
    for name, value in (part["counts"] | counts).items():
        once = len(times) > 1 and name not in counts
        yield f"- {name}: {_shown(value)}{' (the last time)' if once else ''}"
    if part["skipped"]:
        yield f"- not done: {part['skipped']}"
    yield from [f"- VIOLATION: `{line}`" for each in parts for line in each["violations"]]
    commits = ", ".join(dict.fromkeys(world["commit"] for world, _ in times))
    yield from [
        "",
        (
            f"<sub>{world['date']}, commit {commits}, Python {world['python']}, trio"
            f" {world['trio']}, aiosqlite {world['aiosqlite']}, SQLite {world['sqlite']},"
            f" {world['system']}</sub>"
        ),
        "",
    ]


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
