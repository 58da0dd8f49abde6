"""The data set: one SQLite file, there as a whole or not at all.

about(name, value)                    whose it is
pages(id, address, title, text)       what was read
TABLE(id, page, column, ...)          what was made of it; `page` is where a row is from
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from attrs import frozen

from examples.provisioning.designs import Column, Customer, Kind, Table
from examples.provisioning.pages import Page

__all__ = ["DataSet", "Row", "faults", "reading", "tables_in", "write"]

PAGES: Final = Table(
    "pages",
    "the pages of the site",
    [Column("title", "text"), Column("text", "text"), Column("address", "text")],
)
LARGEST_INTEGER: Final = 2**63 - 1


@frozen
class Row:
    """A row, and the number of the page that it is from, from 1."""

    page: int
    values: dict[str, Any]


@frozen
class DataSet:
    """All that a file is made of."""

    customer: Customer
    pages: list[Page]
    tables: list[Table]
    rows: dict[str, list[Row]]


def write(data_set: DataSet, path: Path) -> dict[str, int]:
    """Write the file at once, in the place of one that is there; return rows by table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}.*.part"):  # of one that was killed
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with closing(sqlite3.connect(part)) as connection, connection:
            connection.execute("PRAGMA synchronous = FULL")
            _fill(connection, data_set)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, outlives a power cut
    finally:
        os.close(folder)
    return expected(data_set)


def expected(data_set: DataSet) -> dict[str, int]:
    """Return how many rows each table is to have."""
    counts = {table.name: len(data_set.rows.get(table.name, ())) for table in data_set.tables}
    return {PAGES.name: len(data_set.pages), **counts}


def _fill(connection: sqlite3.Connection, data_set: DataSet) -> None:
    connection.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT) STRICT")
    told = {"name": data_set.customer.name, "summary": data_set.customer.summary}
    told |= {f"table {table.name}": table.about for table in data_set.tables}
    connection.executemany("INSERT INTO about VALUES (?, ?)", told.items())
    columns = ", ".join(_declared(column) for column in PAGES.columns)
    connection.execute(f"CREATE TABLE pages (id INTEGER PRIMARY KEY, {columns}) STRICT")
    rows = [(None, page.title, page.text, page.address) for page in data_set.pages]
    connection.executemany("INSERT INTO pages VALUES (?, ?, ?, ?)", rows)
    for table in data_set.tables:
        columns = ", ".join(_declared(column) for column in table.columns)
        connection.execute(
            f'CREATE TABLE "{table.name}" (id INTEGER PRIMARY KEY,'
            f" page INTEGER NOT NULL REFERENCES pages, {columns}) STRICT"
        )
        marks = ", ".join("?" for _ in range(len(table.columns) + 2))
        connection.executemany(
            f'INSERT INTO "{table.name}" VALUES ({marks})',
            [
                (None, row.page, *(_storable(row.values.get(c.name)) for c in table.columns))
                for row in data_set.rows.get(table.name, ())
            ],
        )


def _declared(column: Column) -> str:
    return f'"{column.name}" {column.kind.upper()}'


def _storable(value: Any) -> Any:
    """A model's number may be larger than any column; nothing is better than a wrong one."""
    too_large = isinstance(value, int) and abs(value) > LARGEST_INTEGER
    return None if too_large else value


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a data set for reading, and for nothing else.

    Raises:
        sqlite3.OperationalError: There is no such file.
    """
    if not path.is_file():
        raise sqlite3.OperationalError(f"the data set {path} is not there: it was moved or deleted")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    with closing(connection):
        connection.row_factory = sqlite3.Row
        yield connection


def tables_in(connection: sqlite3.Connection) -> list[Table]:
    """Return the tables of a data set that can be asked about, as the file has them."""
    about = dict(connection.execute("SELECT name, value FROM about").fetchall())
    names = [name.removeprefix("table ") for name in about if name.startswith("table ")]
    return [PAGES, *(Table(n, about[f"table {n}"], _columns(connection, n)) for n in names)]


def _columns(connection: sqlite3.Connection, table: str) -> list[Column]:
    kinds: dict[str, Kind] = {"TEXT": "text", "INTEGER": "integer", "REAL": "real"}
    query = "SELECT name, type FROM pragma_table_info(?) WHERE name NOT IN ('id', 'page')"
    return [Column(name, kinds[kind]) for name, kind in connection.execute(query, (table,))]


def faults(path: Path, counts: Mapping[str, int]) -> Sequence[str]:
    """Return in sentences what is wrong with a data set that should have so many rows."""
    found = []
    with reading(path) as connection:
        for (said,) in connection.execute("PRAGMA integrity_check").fetchall():
            if said != "ok":
                found.append(f"the file is damaged: {said}")
        for table, row, *_ in connection.execute("PRAGMA foreign_key_check").fetchall():
            found.append(f"row {row} of {table} is from no page")
        there = {table.name for table in tables_in(connection)}
        for name in sorted(there | counts.keys()):
            if name not in there or name not in counts:
                found.append(f"table {name} is {'not asked for' if name in there else 'missing'}")
                continue
            (rows,) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()
            if rows != counts[name]:
                found.append(f"table {name} has {rows} rows, not {counts[name]}")
    if not any(count for name, count in counts.items() if name != PAGES.name):
        found.append("nothing was made of the pages: no table has a row")
    return found
