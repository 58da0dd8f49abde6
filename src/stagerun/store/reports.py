"""Smaller questions of the commands: which run is the newest, which pipelines have runs."""

import sqlite3

from stagerun.errors import UsageError
from stagerun.store.documents import find_run
from stagerun.store.driver import Question

__all__ = ["LATEST", "pipeline_names", "run_identifier"]

LATEST = "latest"
"""The word for the newest run; no identifier begins like it."""


def run_identifier(given: str) -> Question[str]:
    """Ask for the whole identifier of a run: of the newest one, or by the beginning of it.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> str:
        if given == LATEST:
            row = connection.execute(
                "SELECT id FROM runs ORDER BY created_at DESC, run DESC LIMIT 1"
            ).fetchone()
            if row is None:
                raise UsageError("there is no run in this database yet")
        else:
            run = find_run(connection, given)
            row = connection.execute("SELECT id FROM runs WHERE run = ?", (run,)).fetchone()
        return str(row[0])

    return ask


def pipeline_names() -> Question[list[str]]:
    """Ask for the names of the pipelines that have runs."""

    def ask(connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute("SELECT DISTINCT pipeline FROM runs ORDER BY pipeline")
        return [name for (name,) in rows.fetchall()]

    return ask
