"""One measurement in a fresh process of this interpreter, with a directory of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Seconds; a run of stagerun ends itself after 1800.
LONGEST = 1900

# Characters: what it said last says why; before that may stand the log of thousands of runs.
_TOLD = 2_000


class BenchmarkError(Exception):
    """A figure that could not be measured, and why. There is no figure then."""


def measure_apart(name: str, items: int, directory: Path | None) -> dict[str, float]:
    """Run `python -m benchmarks measure NAME` and return what it printed.

    Raises:
        BenchmarkError: as `run_apart`.
    """
    return run_apart("benchmarks", ["measure", name, "--items", str(items)], directory)


def run_apart(
    module: str, arguments: Sequence[str], directory: Path | None, longest: float = LONGEST
) -> dict[str, float]:
    """Run `python -m MODULE ARGUMENTS` with a `--directory` of its own; return what it printed.

    Raises:
        BenchmarkError: it failed, took more than *longest* seconds, or checked itself and found
            that it had not done its work.
    """
    what = " ".join([module, *arguments])
    with tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch:
        command = [sys.executable, "-m", module, *arguments, "--directory", scratch]
        try:
            child = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=longest, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{what} did not end within {longest:g} s") from error
    if child.returncode != 0:
        raise BenchmarkError(f"{what} gave no figure: {child.stderr.strip()[-_TOLD:]}")
    sample: dict[str, float] = json.loads(child.stdout)
    return sample
