"""Lists of runs, page by page, and what one can choose them by. Each answer is bounded.

Pages go by the number of a run, which grows in the order of creation: so none is seen twice or
missed however many are added meanwhile, and a deep page costs as little as the first one.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from stagerun.errors import UsageError
from stagerun.model.outcome import Outcome
from stagerun.model.status import Status
from stagerun.rules.liveness import Thresholds
from stagerun.store.documents import heads
from stagerun.store.driver import Question
from stagerun.store.selection import NEWEST, Selection, matching
from stagerun.store.verdicts import Looks

__all__ = ["label_names", "pipeline_names", "pipelines", "run_page", "status_counts"]

_NAMES: Final = 200
"""Names of labels, or of pipelines, that are told at most."""
_VALUES: Final = 50
"""Values of a label that are told at most."""
_OUTCOMES: Final = ("accepted", *(outcome.label for outcome in Outcome))


def run_page(
    *,
    status: str | None = None,
    pipeline: str | None = None,
    labels: Mapping[str, str] | None = None,
    after: str | None = None,
    limit: int = 50,
    limits: Thresholds | None = None,
) -> Question[tuple[list[dict[str, Any]], str | None]]:
    """Ask for a page of runs, the newest first, and where the next one begins; None: nowhere.

    A run whose process has died counts as ``interrupted`` before anybody has settled it. Each
    document has what ``run_list`` gives, and ``outcomes``: what its stages have accepted, and the
    sums of their six outcomes.

    Args:
        status: Only runs of this status.
        pipeline: Only runs of the pipeline of this name.
        labels: Only runs that have all these labels.
        after: Where the page begins, as the one before has told.
        limit: Runs on the page at most.
        limits: From when on a run is called stalled or slow; None: as the environment says.

    Raises:
        UsageError: There is no such status, or *after* was told by no page.
    """
    selection = Selection(status=status, pipeline=pipeline, labels=labels or {})
    below = NEWEST if after is None else _number(after)

    def ask(connection: sqlite3.Connection) -> tuple[list[dict[str, Any]], str | None]:
        looks = Looks(connection, limits)
        numbers = matching(connection, selection, looks, below, limit + 1)
        page = numbers[:limit]
        sums = _sums(connection, page)
        documents = [
            head | {"outcomes": sums.get(number)}
            for number, head in zip(page, heads(connection, page, looks), strict=True)
        ]
        return documents, str(page[-1]) if len(numbers) > limit else None

    return ask


def status_counts() -> Question[dict[str, int]]:
    """Ask how many runs there are of each status; a dead process's are ``interrupted``."""

    def ask(connection: sqlite3.Connection) -> dict[str, int]:
        counts = {status.value: 0 for status in Status}
        for status, count in connection.execute(
            "SELECT status, count(*) FROM generations GROUP BY status"
        ).fetchall():
            counts[status] += count
        for status, count in connection.execute(  # generations that are not the current one
            "SELECT b.status, count(*) FROM generations g INDEXED BY generations_again"
            " CROSS JOIN generations b ON b.run = g.run AND b.generation = g.generation - 1"
            " WHERE g.generation > 1 GROUP BY b.status"
        ).fetchall():
            counts[status] -= count
        for owner in Looks(connection).dead:
            for status in (Status.QUEUED.value, Status.RUNNING.value):
                (count,) = connection.execute(
                    "SELECT count(*) FROM generations WHERE owner = ? AND status = ?",
                    (owner, status),
                ).fetchone()
                counts[status] -= count
                counts[Status.INTERRUPTED.value] += count
        return counts

    return ask


def pipeline_names() -> Question[list[str]]:
    """Ask for the names of the pipelines that have runs, in order."""
    return lambda connection: _steps(
        connection, "SELECT min(pipeline) FROM runs WHERE pipeline {} ?", (), _NAMES
    )


def pipelines(limits: Thresholds | None = None) -> Question[list[dict[str, Any]]]:
    """Ask for the pipelines that have runs: how many, the last one, and the stages it had.

    *limits*: as for a page of runs.
    """

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        looks, documents = Looks(connection, limits), []
        for name in pipeline_names()(connection):
            count, last = connection.execute(
                "SELECT count(*), max(run) FROM runs WHERE pipeline = ?", (name,)
            ).fetchone()
            stages = connection.execute(
                "SELECT s.name, s.kind, s.workers, s.deadline / 1e6 FROM runs r JOIN stages s"
                " ON s.run = r.run AND s.generation = r.generation"
                " WHERE r.run = ? ORDER BY s.stage",
                (last,),
            ).fetchall()
            (head,) = heads(connection, [last], looks)
            columns = ("name", "kind", "workers", "deadline")
            documents.append(
                {
                    "name": name,
                    "runs": count,
                    "last": head,
                    "stages": [dict(zip(columns, stage, strict=True)) for stage in stages],
                }
            )
        return documents

    return ask


def label_names(name: str | None = None) -> Question[list[dict[str, Any]]]:
    """Ask which labels runs have, or for the one of a name; each with its first values."""

    def ask(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        every = "SELECT min(name) FROM labels WHERE name {} ?"
        names = [name] if name is not None else _steps(connection, every, (), _NAMES)
        sql = "SELECT min(value) FROM labels WHERE name = ? AND value {} ?"
        found = [
            {"name": each, "values": _steps(connection, sql, (each,), _VALUES)} for each in names
        ]
        return [each for each in found if each["values"]]

    return ask


def _number(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < len(str(NEWEST))):
        raise UsageError(
            f"there is no page after {cursor[:40]!r}: give `next` of the page before, or nothing"
        )
    return int(cursor)


def _sums(connection: sqlite3.Connection, runs: list[int]) -> dict[int, dict[str, int]]:
    """Return the sums over the stages of each run's current generation."""
    if not runs:
        return {}  # SQLite reads every run to find out that none is among none
    rows = connection.execute(
        f"SELECT r.run, {', '.join(f'sum(s.{column})' for column in _OUTCOMES)}"  # noqa: S608 - constants and marks
        " FROM runs r JOIN stages s ON s.run = r.run AND s.generation = r.generation"
        f" WHERE r.run IN ({', '.join('?' * len(runs))}) GROUP BY r.run",
        runs,
    ).fetchall()
    return {run: dict(zip(_OUTCOMES, sums, strict=True)) for run, *sums in rows}


def _steps(
    connection: sqlite3.Connection, sql: str, values: tuple[Any, ...], most: int
) -> list[str]:
    """Return the distinct texts of an index, stepping from each to the next greater one.

    DISTINCT would read the whole index.
    """
    found: list[str] = []
    (text,) = connection.execute(sql.format(">="), (*values, "")).fetchone()
    while text is not None and len(found) < most:
        found.append(text)
        (text,) = connection.execute(sql.format(">"), (*values, text)).fetchone()
    return found
