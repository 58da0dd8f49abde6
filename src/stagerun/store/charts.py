"""What is drawn of a run, and of the runs of a pipeline: numbers, bounded however large it is."""

import sqlite3
from typing import Any

from stagerun.rules.liveness import Thresholds
from stagerun.store.documents import heads, iso
from stagerun.store.driver import Question
from stagerun.store.faults import faults
from stagerun.store.measures import durations_of, measure, throughput_of
from stagerun.store.pace import measured
from stagerun.store.subject import subject
from stagerun.store.timeline import timeline
from stagerun.store.verdicts import Looks

__all__ = ["charts", "durations"]


def charts(
    identifier: str, *, now: int | None = None, limits: Thresholds | None = None
) -> Question[dict[str, Any]]:
    """Ask for what is drawn of a run.

    ``outcomes`` are the sums of its stages. ``pace``, ``throughput`` and ``timeline`` are of its
    current generation; ``stages`` (how long items took) and ``errors`` of all outcomes that count,
    superseded ones excepted. ``sampled`` says that the run is so large that not all of them were
    read: then quantiles and histograms are of a sample, and so are counts of errors and, where
    progress events are no longer kept, of the throughput.

    Args:
        identifier: The run's, or the beginning of it.
        now: The reader's time in microseconds; None: the clock's.
        limits: From when on a run is called stalled or slow; None: as the environment says.

    Raises:
        UsageError: There is no such run, or more than one.
    """

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        run = subject(connection, identifier, limits, now)
        read = measure(connection, run)
        errors, some = faults(connection, run)
        return {
            "run": run.id,
            "generation": run.generation,
            "status": run.status,
            "now": iso(run.now),
            "sampled": some or read.sampled,
            "pace": measured(connection, run),
            "throughput": throughput_of(read),
            "timeline": timeline(connection, read),
            "stages": [durations_of(each) for each in read.stages],
            "errors": errors,
            "outcomes": {stage.name: stage.sums for stage in run.stages},
        }

    return ask


def durations(
    pipeline: str, limit: int = 100, *, limits: Thresholds | None = None
) -> Question[dict[str, Any]]:
    """Ask how long a pipeline's last runs took, the newest last, and their deadline, in seconds.

    From the begin of a run's current generation to its end, or to its last commit while it is
    under way; None before it begins. The deadline is that of the newest run which has one.
    """

    def ask(connection: sqlite3.Connection) -> dict[str, Any]:
        rows = connection.execute(
            "SELECT last.run, g.started_at, coalesce(g.finished_at, g.updated_at), g.deadline_at"
            " FROM (SELECT run, generation FROM runs WHERE pipeline = ? ORDER BY run DESC LIMIT ?)"
            " last CROSS JOIN generations g"
            " ON g.run = last.run AND g.generation = last.generation",
            (pipeline, limit),
        ).fetchall()
        known = heads(connection, [run for run, *_ in rows], Looks(connection, limits))
        deadlines = [
            deadline - begun for _, begun, _, deadline in rows if begun and deadline is not None
        ]
        return {
            "pipeline": pipeline,
            "deadline": _rounded(deadlines[0] / 1e6) if deadlines else None,
            "runs": [
                {
                    "id": head["id"],
                    "status": head["status"],
                    "created_at": head["created_at"],
                    "seconds": None if begun is None else max(0, end - begun) / 1e6,
                    "generation": head["generation"],
                }
                for head, (_, begun, end, _) in reversed([*zip(known, rows, strict=True)])
            ],
        }

    return ask


def _rounded(seconds: float) -> float:
    """Return a deadline as it was declared: it is kept as a moment, which is put right at times."""
    return round(seconds, 1 if seconds >= 10 else 2)
