"""Writes RELIABILITY.md: what the campaign did, what it found, and what it cannot show."""

import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from attrs import asdict

from tests.campaign.part import Part

__all__ = ["environment", "keep", "page", "read"]

_LIMITS = """\
## What this does not show

- One computer, Linux, a local disk. Network file systems are refused, not tested; macOS was not
  tried, and no real laptop was closed: its sleep is a shim that moves the clocks.
- The simulation runs the engine, its rules and its SQL. The driver around them (aiosqlite, its
  thread, its retries on a disk that errs) is met by the real processes, the kills and the disk's
  faults; trio and SQLite themselves are taken as they are.
- In the simulation a process that is stopped keeps deciding in memory and commits later; a process
  that is killed still runs the `finally` of its stages.
- A disk that lies about what it has synced, or flips bits in the middle of a file, is found by
  nobody here: SQLite keeps no checksums.
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


def read(paths: Sequence[Path]) -> list[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """Read parts from such files, each with its environment; of a name the last one counts."""
    found = dict[str, tuple[Mapping[str, str], Mapping[str, Any]]]()
    for path in paths:
        told = msgspec.json.decode(path.read_bytes())
        found |= {part["name"]: (told["environment"], part) for part in told["parts"]}
    return [*found.values()]


def page(found: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> str:
    """Return the page."""
    violations = sum(len(part["violations"]) for _, part in found)
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
    for _, part in found:
        name = f"[{part['name']}](#{part['name'].replace(' ', '-')})"
        count = len(part["violations"])
        lines.append(f"| {name} | {part['trials']:,} | {count} | {_time(part['seconds'])} |")
    lines += ["", f"Violations in all: **{violations}**.", ""]
    for world, part in found:
        lines += [f"## {part['name']}", "", part["what"], "", f"    {part['command']}", ""]
        lines += [f"- {name}: {_shown(value)}" for name, value in part["counts"].items()]
        if part["skipped"]:
            lines.append(f"- not done: {part['skipped']}")
        lines += [f"- VIOLATION: `{each}`" for each in part["violations"]]
        lines += [
            "",
            (
                f"<sub>{world['date']}, commit {world['commit']}, Python {world['python']}, trio"
                f" {world['trio']}, aiosqlite {world['aiosqlite']}, SQLite {world['sqlite']},"
                f" {world['system']}</sub>"
            ),
            "",
        ]
    return "\n".join([*lines, _LIMITS])


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
