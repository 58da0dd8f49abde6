"""What is in the database afterwards: a figure without all of its rows is none."""

import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.process import BenchmarkError
from benchmarks.scale.metering import FILE

__all__ = ["check_stored"]

_RUNS = "SELECT count(*) FROM generations WHERE status = 'succeeded'"
_OUTCOMES = """
    SELECT count(*) FROM items LEFT JOIN results USING (run, stage, item, generation)
    WHERE outcome = 0 AND length(coalesce(result, value)) >= ?
"""


def check_stored(directory: Path, runs: int, steps: int, size: int = 1) -> None:
    """Refuse anything but *runs* that succeeded and *steps* results of at least *size* bytes."""
    uri = f"{(directory / FILE).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (ended,) = connection.execute(_RUNS).fetchone()
        (ok,) = connection.execute(_OUTCOMES, (size,)).fetchone()
    if (ended, ok) != (runs, steps):
        raise BenchmarkError(
            f"there should be {runs} runs with {steps} results of {size} bytes or more, "
            f"there are {ended} with {ok}"
        )
