"""The commands that only read: ``runs``, ``show`` and ``stats``. No event loop is needed."""

import difflib
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import frozen

from stagerun.cli.exits import SUCCEEDED
from stagerun.cli.tables import print_details, print_runs, print_statistics
from stagerun.cli.terminal import closed_pipes_ignored, console, write_json
from stagerun.errors import StoreError, UsageError
from stagerun.model.outcome import Outcome
from stagerun.store import documents, reports
from stagerun.store.driver import Question
from stagerun.store.opening import explain, read_only

__all__ = ["Reader", "list_runs", "microseconds_ago", "reading", "show_run", "show_statistics"]

T = TypeVar("T")

_FAILURES: Final = 5
"""Failed items that are shown with their cause."""


@frozen
class Reader:
    """An open database that is only read."""

    _connection: sqlite3.Connection
    _path: Path

    def ask(self, question: Question[T]) -> T:
        """Answer *question* from one committed state of the database.

        Raises:
            UsageError: What is asked about does not exist.
            StoreError: The database cannot be read any more.
        """
        try:
            self._connection.execute("BEGIN")
            try:
                return question(self._connection)
            finally:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(explain(error, self._path)) from error

    def document(self, given: str) -> dict[str, Any]:
        """Return a run's document, by its identifier, the beginning of it, or ``latest``."""
        return self.ask(lambda c: documents.run_document(reports.run_identifier(given)(c))(c))

    def failures(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the first items of a run that did not succeed, with their causes."""
        fine = (Outcome.OK, Outcome.CANCELLED, Outcome.SKIPPED)
        identifier, generation = document["id"], document["generation"]
        return self.ask(
            lambda c: documents.item_list(
                documents.find_run(c, identifier), generation, limit=_FAILURES, but=fine
            )(c)
        )


@contextmanager
def reading(database: Path) -> Iterator[Reader]:
    """Open *database* for reading.

    Raises:
        StoreError: There is none, it is not one of stagerun's, or its version is newer.
    """
    connection = read_only(database)
    try:
        yield Reader(connection, database)
    finally:
        connection.close()


def list_runs(
    database: Path,
    *,
    status: str | None,
    pipeline: str | None,
    labels: Mapping[str, str],
    older_than: float | None,
    finished_since: float | None,
    limit: int,
    as_json: bool,
) -> int:
    """Print the newest runs that pass every filter; ages are in seconds."""
    question = documents.run_list(
        status=status,
        pipeline=pipeline,
        labels=labels,
        created_before=None if older_than is None else microseconds_ago(older_than),
        finished_since=None if finished_since is None else microseconds_ago(finished_since),
        limit=limit,
    )
    with reading(database) as reader:
        runs = reader.ask(question)
    if as_json:
        write_json({"runs": runs}, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            print_runs(console(), runs)
    return SUCCEEDED


def show_run(database: Path, run: str, *, as_json: bool) -> int:
    """Print all about one run."""
    with reading(database) as reader:
        document = reader.document(run)
        failures = reader.failures(document)
    if as_json:
        write_json(document, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            print_details(console(), document, failures)
    return SUCCEEDED


def show_statistics(database: Path, pipeline: str, *, since: float, as_json: bool) -> int:
    """Print durations and endings of a pipeline's runs that ended in the last *since* seconds.

    Raises:
        UsageError: No run of such a pipeline is known.
    """
    with reading(database) as reader:
        known = reader.ask(reports.pipeline_names())
        if pipeline not in known:
            close = difflib.get_close_matches(pipeline, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"no run of a pipeline {pipeline!r} is known; {hint}")
        document = reader.ask(documents.statistics(pipeline, microseconds_ago(since)))
    if as_json:
        write_json(document, sys.stdout)
    else:
        with closed_pipes_ignored(sys.stdout):
            print_statistics(console(), document)
    return SUCCEEDED


def microseconds_ago(seconds: float) -> int:
    """Return the moment *seconds* ago as the database writes it."""
    return int((time.time() - seconds) * 1e6)
