"""Whether a side has stored what the case leaves behind: else its figure is none."""

import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.process import BenchmarkError
from benchmarks.real.cases import Stored

__all__ = ["check_stored"]


def check_stored(path: Path, query: str, expected: Stored) -> None:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        stored = Stored(*connection.execute(query).fetchone())
    if stored != expected:
        raise BenchmarkError(f"{path.name} should hold {expected}, it holds {stored}")
