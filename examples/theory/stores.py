"""Two stores, a SQLite file each: the codes of the fragments, and their vectors.

Rows are known by run, interview and fragment, so a write that is made twice is made once. A write
waits for whoever has the file locked, for as long as its stage lets it. When that time is over it
writes no more: what is told as timed out does not appear later.

A fragment counts when both stores have it; then its row in `codes.db` says `synced`. Of a lost
interview there is no row at all.
"""

import json
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from stagerun import CancellationToken

__all__ = ["save_codes", "save_vector", "sync"]

CODES: Final = """
    CREATE TABLE IF NOT EXISTS fragments (
        run TEXT, interview TEXT, number INTEGER, text TEXT, codes TEXT,
        synced INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (run, interview, number)
    )
"""
VECTORS: Final = """
    CREATE TABLE IF NOT EXISTS vectors (
        run TEXT, interview TEXT, number INTEGER, vector BLOB,
        PRIMARY KEY (run, interview, number)
    )
"""
GLANCE: Final = 0.1
"""Seconds between two looks at the token while the file is locked."""

Key = tuple[str, str, int]
"""Run, interview, and number of the fragment."""


def save_codes(
    folder: Path, key: Key, text: str, codes: Sequence[str], token: CancellationToken
) -> None:
    with _writing(folder / "codes.db", CODES, token) as connection:
        row = (*key, text, json.dumps(codes))
        connection.execute("INSERT OR REPLACE INTO fragments VALUES (?, ?, ?, ?, ?, 0)", row)


def save_vector(folder: Path, key: Key, vector: Sequence[float], token: CancellationToken) -> None:
    with _writing(folder / "vectors.db", VECTORS, token) as connection:
        row = (*key, array("f", vector).tobytes())
        connection.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", row)


def sync(
    folder: Path, run: str, interview: str, numbers: Sequence[int], token: CancellationToken
) -> None:
    """Say of these fragments of an interview, and of no others, that both stores have them."""
    with _writing(folder / "codes.db", CODES, token) as connection:
        mark = "UPDATE fragments SET synced = ? WHERE run = ? AND interview = ?"
        connection.execute(mark, (0, run, interview))
        rows = [(1, run, interview, number) for number in numbers]
        connection.executemany(f"{mark} AND number = ?", rows)


@contextmanager
def _writing(file: Path, schema: str, token: CancellationToken) -> Iterator[sqlite3.Connection]:
    """One transaction; it is void when the token is cancelled before its end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=GLANCE, isolation_level=None)) as connection:
        _patiently(connection, "BEGIN IMMEDIATE", token)
        connection.execute(schema)
        yield connection
        _patiently(connection, "COMMIT", token)


def _patiently(connection: sqlite3.Connection, statement: str, token: CancellationToken) -> None:
    while True:
        token.raise_if_cancelled()
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            return
