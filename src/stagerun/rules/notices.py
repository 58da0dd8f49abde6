"""What rules ask for, given what is seen at one moment: pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from stagerun.model.alert import Rule
from stagerun.model.sights import Blocked, Degraded, RunSeen, Sights
from stagerun.rules.why import time_span

__all__ = ["Notice", "notices"]

_NAMED: Final = 5
"""Pipelines that are named where there are many."""


@frozen
class Notice:
    """Something that a rule asks for."""

    rule: str
    key: str
    """The same for the same thing: it is told once."""
    words: str
    """What it is counted under where it is not told."""
    summary: str
    run: RunSeen | None = None
    facts: Mapping[str, Any] = field(factory=dict)
    lasts: bool = True
    """Whether it is a condition, seen again and again; else it has happened, once."""


def notices(sights: Sights, rules: Sequence[Rule]) -> Iterator[Notice]:
    """Return what *rules* ask for, in their order; the same thing may be in it twice."""
    for rule in rules:
        match rule.kind:
            case "ended":
                yield from _ended(rule, sights.ended)
            case "running":
                yield from _running(rule, sights.under_way)
            case "older":
                yield from _older(rule, sights.under_way)
            case "stalled":
                yield from _stalled(rule, sights.under_way)
            case "store_degraded":
                yield from _degraded(rule, sights.degraded)
            case "loop_blocked":
                yield from _blocked(rule, sights.blocked)


def _of(rule: Rule, runs: Iterable[RunSeen]) -> Iterator[RunSeen]:
    for run in runs:
        fits = rule.pipeline is None or rule.pipeline == run.pipeline
        if fits and rule.labels.items() <= run.labels.items():
            yield run


def _ended(rule: Rule, runs: Iterable[RunSeen]) -> Iterator[Notice]:
    for run in _of(rule, runs):
        if rule.statuses and run.status not in rule.statuses:
            continue
        yield Notice(
            "ended",
            key=f"ended:{run.id}:{run.generation}",
            words=f"pipeline {run.pipeline} ended {run.status}",
            summary=f"{_name(run)} ended {run.status} ({run.cause}): {run.message or 'no message'}",
            run=run,
            lasts=False,
        )


def _running(rule: Rule, runs: Iterable[RunSeen]) -> Iterator[Notice]:
    found = [run for run in _of(rule, runs) if run.status == "running"]
    if len(found) <= rule.limit:
        return
    by_pipeline: dict[str, int] = {}
    for run in found:
        by_pipeline[run.pipeline] = by_pipeline.get(run.pipeline, 0) + 1
    most = sorted(by_pipeline.items(), key=lambda each: -each[1])[:_NAMED]
    which = ", ".join(f"{count} of {pipeline}" for pipeline, count in most)
    filters = (rule.pipeline, *sorted(rule.labels.items()))
    yield Notice(
        "running",
        key=f"running:{rule.limit:g}:{filters!r}",
        words="many runs at once",
        summary=f"{len(found)} runs are running, more than {rule.limit:g}: {which}",
        facts={"running": len(found), "limit": rule.limit, "by_pipeline": by_pipeline},
    )


def _older(rule: Rule, runs: Iterable[RunSeen]) -> Iterator[Notice]:
    for run in _of(rule, runs):
        if run.status == "running" and run.age > rule.limit:
            step = f", at step {run.step}" if run.step else ""
            yield Notice(
                "older",
                key=f"older:{rule.limit:g}:{run.id}:{run.generation}",
                words=f"pipeline {run.pipeline} running for long",
                summary=f"{_name(run)} has been running for {time_span(run.age)}, more than"
                f" {time_span(rule.limit)}{step}",
                run=run,
                facts={"seconds": run.age, "limit": rule.limit},
            )


def _stalled(rule: Rule, runs: Iterable[RunSeen]) -> Iterator[Notice]:
    for run in _of(rule, runs):
        if run.verdict == "stalled":
            yield Notice(
                "stalled",
                key=f"stalled:{run.id}:{run.generation}",
                words=f"pipeline {run.pipeline} stalled",
                summary=f"{_name(run)} is stalled: no outcome, report or heartbeat for"
                f" {time_span(run.unmoved)}; `stagerun why {run.id[:8]}` says what it waits for",
                run=run,
                facts={"seconds": run.unmoved},
            )


def _degraded(rule: Rule, degraded: Degraded | None) -> Iterator[Notice]:
    if degraded is not None and degraded.seconds >= rule.limit:
        yield Notice(
            "store_degraded",
            key=f"store_degraded:{rule.limit:g}",
            words="the database is in trouble",
            summary=f"the database is in trouble: {degraded.why}",
            facts={"seconds": degraded.seconds},
        )


def _blocked(rule: Rule, blocked: Iterable[Blocked]) -> Iterator[Notice]:
    for each in blocked:
        if each.seconds < rule.limit:
            continue
        by = "" if each.by is None else f": {each.by}"
        yield Notice(
            "loop_blocked",
            key=f"loop_blocked:{rule.limit:g}:{each.owner}",
            words="a blocked event loop",
            summary=f"the event loop of {each.who} has been blocked for"
            f" {time_span(each.seconds)}{by}",
            facts={"seconds": each.seconds, "process": each.who},
        )


def _name(run: RunSeen) -> str:
    again = f" (generation {run.generation})" if run.generation > 1 else ""
    return f"run {run.id[:8]} of pipeline {run.pipeline}{again}"
