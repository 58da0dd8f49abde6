"""Questions to a data set: the model says what to look up, and nothing but that is looked up.

A model does not write SQL here. It fills in a form, which has room for no table but those that are
there; the statement is ours, one SELECT, on a connection that can do nothing else, bounded in time
and rows. Each answer names the rows that it rests upon, and the pages which those are from.
"""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import trio
from attrs import frozen

from examples.models.client import Models
from examples.provisioning.dataset import reading, tables_in
from examples.provisioning.designs import Table

__all__ = ["Answer", "Check", "Cited", "ask", "checks", "look_up"]

SECONDS: Final = 5.0
MOST_ROWS: Final = 5
"""That an answer cites."""
LONGEST_VALUE: Final = 300
MOST_WORDS: Final = 3
"""That a check asks for."""
SYSTEM: Final = """Say what to look up in a data set, to answer the question of the user.
table: which of the tables to look into. words: what the rows have to speak of; none for all rows.
want: whether to tell which rows those are, or how many. The tables are:
"""


@frozen
class Query:
    """What to look up."""

    table: str
    want: Literal["which rows", "how many"]
    words: list[str]


@frozen
class Cited:
    """A row that an answer rests upon."""

    table: str
    id: int
    page: str
    """The address that the row is from."""
    values: dict[str, Any]


@frozen
class Answer:
    question: str
    answer: str
    query: str
    """The statement that was run, with a question mark for each of the words."""
    words: list[str]
    rows: list[Cited]


async def ask(models: Models, path: Path, question: str) -> Answer:
    """Answer a question out of a data set.

    Raises:
        InvalidAnswerError, HttpError: The model did not say what to look up.
        sqlite3.Error: The data set cannot be read, or not in time.
    """
    tables = await trio.to_thread.run_sync(_tables, path)
    told = "\n".join(f"{t.name}({', '.join(c.name for c in t.columns)}): {t.about}" for t in tables)
    form = await models.chat(question, system=SYSTEM + told, schema=_form(tables))
    query = Query(form.table, form.want, form.words)
    return await trio.to_thread.run_sync(partial(look_up, path, question, query))


@frozen
class Check:
    """A question whose answer is known: rows of that table that have all of the words."""

    table: str
    words: list[str]

    @property
    def question(self) -> str:
        return f"{' '.join(self.words)}: which rows of {self.table} speak of that?"

    def is_right(self, answer: Answer) -> bool:
        """Whether one of the rows is cited."""
        told = [_spoken(cited.values) for cited in answer.rows if cited.table == self.table]
        return any(all(word in spoken for word in self.words) for spoken in told)


def checks(path: Path) -> list[Check]:
    """Return one for each table: it asks for the words that the fewest of its rows have."""
    made = []
    with reading(path) as connection:
        tables = tables_in(connection)
        for table in tables:
            rows = connection.execute(f'SELECT * FROM "{table.name}" ORDER BY id').fetchall()
            spoken = [_words(_spoken(_values(table, row)), tables) for row in rows]
            often = Counter(word for words in spoken for word in words)
            told = [
                sorted(words, key=lambda word: (often[word], word)) for words in spoken if words
            ]
            if told:
                made.append(Check(table.name, told[len(told) // 2][:MOST_WORDS]))
    return made


def _words(text: str, tables: Sequence[Table]) -> set[str]:
    """Return what can be asked for: no numbers, nothing short, and no name of a table."""
    names = [table.name for table in tables]
    words = re.findall(r"[^\W\d_]{4,}", text)
    return {word for word in words if not any(name in word for name in names)}


def _tables(path: Path) -> list[Table]:
    with reading(path) as connection:
        return tables_in(connection)


def _form(tables: Sequence[Table]) -> Any:
    """Return `Query`, as a type that has room for no table but these."""
    return msgspec.defstruct(
        "look_up",
        [
            ("table", Literal[tuple(table.name for table in tables)]),
            ("want", Literal["which rows", "how many"]),
            ("words", Annotated[list[str], msgspec.Meta(max_length=8)]),
        ],
    )


def look_up(path: Path, question: str, query: Query) -> Answer:
    """Look into the table that is asked for; where nothing there speaks of the words, the others.

    Rows that have more of the words come first.
    """
    words = [_folded(word) for word in query.words if word.strip()]
    with reading(path) as connection:
        tables = sorted(tables_in(connection), key=lambda table: table.name != query.table)
        until = time.monotonic() + SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        connection.create_function("folded", 1, _folded, deterministic=True)
        connection.set_authorizer(_only_reading)
        for table in tables:
            found = _found(table, len(words))
            (count,) = connection.execute(f"SELECT count(*) FROM ({found})", words).fetchone()
            if count:
                cited = _cited(connection, table, found, words)
                said = _sentence(cited, count, query)
                return Answer(question, said, found, words, cited)
    return Answer(question, "Nothing in the data set speaks of that.", "", words, [])


def _found(table: Table, words: int) -> str:
    """Return the one SELECT: the rows that have any of so many words, and how many they have."""
    texts = " || ' ' || ".join(f"coalesce(\"{column.name}\", '')" for column in table.columns)
    hits = " + ".join(["(instr(spoken, ?) > 0)"] * words) or "1"
    page = "id" if table.name == "pages" else "page"
    return (
        f"SELECT *, {hits} AS hits FROM"
        f' (SELECT *, {page} AS source, folded({texts}) AS spoken FROM "{table.name}")'
        " WHERE hits > 0"
    )


def _cited(
    connection: sqlite3.Connection, table: Table, found: str, words: Sequence[str]
) -> list[Cited]:
    listed = (
        f"SELECT found.*, pages.address AS from_address FROM ({found}) AS found"
        f" JOIN pages ON pages.id = found.source ORDER BY hits DESC, found.id LIMIT {MOST_ROWS}"
    )
    return [
        Cited(
            table=table.name,
            id=row["id"],
            page=row["from_address"],
            values=_values(table, row),
        )
        for row in connection.execute(listed, words)
    ]


def _sentence(cited: Sequence[Cited], count: int, query: Query) -> str:
    first = cited[0]
    told = ", ".join(str(value)[:100] for value in first.values.values() if value is not None)
    if query.want == "how many":
        return f"{count} of {first.table}, among them {first.id}: {told} ({first.page})."
    others = f" {count - 1} more of its rows speak of it." if count > 1 else ""
    return f"{first.table} {first.id}: {told} ({first.page}).{others}"


def _values(table: Table, row: sqlite3.Row) -> dict[str, Any]:
    return {column.name: _short(row[column.name]) for column in table.columns}


def _spoken(values: dict[str, Any]) -> str:
    return _folded(" ".join(str(value) for value in values.values() if value is not None))


def _folded(text: Any) -> str:
    return str(text or "").casefold()


def _short(value: Any) -> Any:
    return value[:LONGEST_VALUE] if isinstance(value, str) else value


def _only_reading(action: int, *_: str | None) -> int:
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
