"""What the model is asked for, as types: it answers with JSON that fits them, or is asked again.

Names come from a model, so they may be anything. What becomes of them are identifiers that SQLite
takes, each once; nothing else that a model says decides how a statement reads.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from attrs import frozen

__all__ = ["Column", "Customer", "Design", "Kind", "Table", "rows_type", "tables_of"]

Kind = Literal["text", "integer", "real"]
TYPES: Final[dict[Kind, Any]] = {"text": str | None, "integer": int | None, "real": float | None}
OURS: Final = ("id", "page", "source", "spoken", "hits", "from_address")
"""Columns that each table has by itself, and names that questions to it need (asking.py)."""
MOST_ROWS: Final = 6
"""Of one page in one table."""


@frozen
class Customer:
    """Whose site it is."""

    name: str
    summary: str
    topics: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10)]


@frozen
class Column:
    name: str
    kind: Kind


@frozen
class Table:
    name: str
    about: str
    columns: Annotated[list[Column], msgspec.Meta(min_length=1, max_length=6)]


@frozen
class Design:
    """The tables as the model would have them."""

    tables: Annotated[list[Table], msgspec.Meta(min_length=1, max_length=4)]


def tables_of(design: Design) -> list[Table]:
    """Return the tables with names that can be used, each once."""
    taken = ["pages", "about"]
    tables = []
    for table in design.tables:
        name = _name(table.name, "table", taken)
        of_columns = [*OURS]
        columns = [Column(_name(c.name, "column", of_columns), c.kind) for c in table.columns]
        tables.append(Table(name, table.about, columns))
    return tables


def _name(given: str, otherwise: str, taken: list[str]) -> str:
    """Return a plain name like the one that is given, and note it as taken."""
    plain = unicodedata.normalize("NFKD", given).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:40]
    if not stem or stem[0].isdigit() or stem.startswith("sqlite_"):
        stem = f"{otherwise}_{stem}".rstrip("_")
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.append(name)
    return name


def rows_type(tables: Sequence[Table]) -> Any:
    """Return the type of the rows that one page gives: for each table a list of its rows."""
    bounds = msgspec.Meta(max_length=MOST_ROWS)
    fields = []
    for table in tables:
        columns = [(column.name, TYPES[column.kind]) for column in table.columns]
        row = msgspec.defstruct(f"row_of_{table.name}", columns)
        fields.append((table.name, Annotated[list[row], bounds]))  # type: ignore[valid-type] # made above
    return msgspec.defstruct("rows", fields)
