"""One measurement of one peer: how fast, how soon, with how much."""

import json
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from attrs import frozen

from benchmarks.peers.program import prepared
from benchmarks.peers.subjects import Subject
from benchmarks.process import BenchmarkError

_LONGEST = 300  # seconds for one measurement
_STEPS = 3


@frozen
class Sample:
    steps_per_second: float
    cpu_seconds_per_1000_steps: float
    cold_start_seconds: float
    """From just before the process was started until its first step ran."""
    memory_mb: float


def sample(subject: Subject, python: Path, items: int, directory: Path | None) -> Sample:
    """Run the program once, in a fresh process with a fresh directory.

    Raises:
        BenchmarkError: it failed, took too long, or found that it had not done its work.
    """
    with prepared(subject, python, directory) as program:
        began = time.time()
        with program.started("measure", items) as child:
            try:
                output, _ = child.communicate(timeout=_LONGEST)
            except subprocess.TimeoutExpired as error:
                raise BenchmarkError(f"it did not end within {_LONGEST} s") from error
        if child.returncode != 0:
            raise BenchmarkError(f"it failed: {program.complaint('measure')}")
    told = _last_line(output)
    steps = _STEPS * items
    return Sample(
        steps / told["seconds"],
        1000 * told["cpu_seconds"] / steps,
        told["first_step_at"] - began,
        told["memory_mb"],
    )


def _last_line(output: str) -> dict[str, float]:
    """What it told; libraries may have printed something before."""
    try:
        told: dict[str, float] = json.loads(output.strip().rpartition("\n")[2])
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"it told no figures: {output!r}") from error
    return told


def summary(samples: list[Sample]) -> dict[str, Any]:
    rates = [sample.steps_per_second for sample in samples]
    return {
        "unit": "steps/s",
        "median": median(rates),
        "min": min(rates),
        "max": max(rates),
        "samples": rates,
        "cpu_seconds_per_1000_steps": median(one.cpu_seconds_per_1000_steps for one in samples),
        "cold_start_seconds": median(one.cold_start_seconds for one in samples),
        "memory_mb": median(one.memory_mb for one in samples),
    }
