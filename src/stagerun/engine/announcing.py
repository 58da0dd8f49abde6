"""From a notice to the alert that people get: in words, and without secrets."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from stagerun.model.alert import Alert
from stagerun.model.sights import RunSeen
from stagerun.redaction import PUT, is_secret_name
from stagerun.rules.notices import Notice
from stagerun.store.codec import words
from stagerun.store.documents import iso

__all__ = ["announced"]

_SUMMARY: Final = 1_000
"""Characters of a summary."""


def announced(notice: Notice, alerts: str, identifier: str, now: int) -> Alert:
    """Return the alert of a notice. *now*: microseconds."""
    return Alert(
        id=identifier,
        alerts=alerts,
        rule=notice.rule,
        summary=" ".join(words(notice.summary, _SUMMARY).split()),
        raised_at=datetime.fromtimestamp(now / 1e6, UTC),
        run=None if notice.run is None else _run(notice.run),
        facts=_clean(notice.facts),
    )


def _run(run: RunSeen) -> dict[str, Any]:
    """Return a run as alerts tell of it: as its own document does, and shorter."""
    return {
        "id": run.id,
        "pipeline": run.pipeline,
        "generation": run.generation,
        "status": run.status,
        "verdict": run.verdict,
        "cause": run.cause,
        "code": run.code,
        "message": None if run.message is None else words(run.message),
        "step": run.step,
        "percent": run.percent,
        "labels": _clean(run.labels),
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
    }


def _clean(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: PUT if is_secret_name(name) else words(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
