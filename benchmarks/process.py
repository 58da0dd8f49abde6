"""One measurement in a fresh process of this interpreter, with a directory of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Seconds; a run of stagerun ends itself after 1800.
LONGEST = 1900


class BenchmarkError(Exception):
    """A figure that could not be measured, and why. There is no figure then."""


def measure_apart(name: str, items: int, directory: Path | None) -> dict[str, float]:
    """Run `python -m benchmarks measure NAME` and return what it printed.

    Raises:
        BenchmarkError: it failed, took more than `LONGEST` seconds, or checked itself and found
            that it had not done its work.
    """
    with tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch:
        command = [sys.executable, "-m", "benchmarks", "measure", name]
        command += ["--items", str(items), "--directory", scratch]
        try:
            child = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{name} did not end within {LONGEST} s") from error
    if child.returncode != 0:
        raise BenchmarkError(f"{name} gave no figure: {child.stderr.strip()}")
    sample: dict[str, float] = json.loads(child.stdout)
    return sample
