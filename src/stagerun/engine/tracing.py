"""Spans of OpenTelemetry: one for a run, one for each stage, one for each attempt at an item.

For programs that have loaded OpenTelemetry's API and record something with it; all others pay
nothing. An attempt's span is the current one while the stage works, so what the stage calls (a
client that is instrumented, a span of its own) stands below it, in threads too.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio
from attrs import define, field

from stagerun.model.outcome import Outcome
from stagerun.model.status import Counts, Ending, Status
from stagerun.store import codec

if TYPE_CHECKING:
    from contextvars import Context

    from stagerun.engine.desk import Desk
    from stagerun.model.pipeline import Pipeline

__all__ = ["Tracing"]


@define(eq=False)
class Tracing:
    """The spans of one generation of a run."""

    _trace: Any
    """The module ``opentelemetry.trace``."""
    _tracer: Any
    _run: Any
    _stages: dict[str, Any] = field(factory=dict)

    @classmethod
    def begin(
        cls, context: "Context", run: str, pipeline: "Pipeline", generation: int
    ) -> "Tracing | None":
        """Open a run's span, below the span that was current where it was started.

        None: nobody here uses OpenTelemetry, or this run is not recorded.
        """
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return None
        tracer = trace.get_tracer("stagerun")
        span = context.run(
            tracer.start_span,
            f"run {pipeline.name}",
            attributes={
                "stagerun.run": run,
                "stagerun.pipeline": pipeline.name,
                "stagerun.generation": generation,
            },
        )
        return cls(trace, tracer, span) if span.is_recording() else None

    def end(self, ending: Ending) -> None:
        """Close the run's span, and those of stages that have not ended."""
        for name in [*self._stages]:
            self._stages.pop(name).end()
        self._run.set_attribute("stagerun.status", ending.status.value)
        self._run.set_attribute("stagerun.cause", ending.cause.value)
        if ending.status is not Status.SUCCEEDED:
            self._blame(self._run, ending.message)
        self._run.end()

    def stage_begins(self, stage: str) -> Any:
        """Open a stage's span, unless its first attempt was quicker; return it."""
        if stage not in self._stages:
            self._stages[stage] = self._below(
                self._run, f"stage {stage}", attributes={"stagerun.stage": stage}
            )
        return self._stages[stage]

    def stage_ends(self, stage: str, status: str, counts: Counts) -> None:
        """Close a stage's span, with its sums."""
        span = self._stages.pop(stage, None)
        if span is None:
            return
        span.set_attribute("stagerun.status", status)
        for outcome in Outcome:
            span.set_attribute(f"stagerun.{outcome.label}", getattr(counts, outcome.label))
        if status in ("failed", "timed_out"):
            self._blame(span, f"stage {stage} {status}")
        span.end()

    def attempt(self, stage: str, desk: "Desk") -> "_Attempt":
        """Return the span of the attempt in hand, as a context manager around it."""
        numbers = [item.number for item in desk.items]
        span = self._below(
            self.stage_begins(stage),
            stage,
            attributes={
                "stagerun.stage": stage,
                **({"stagerun.items": numbers} if numbers[1:] else {"stagerun.item": numbers[0]}),
                "stagerun.attempt": desk.attempt,
            },
        )
        return _Attempt(self, span)

    def use(self, span: Any) -> Any:
        """Return a context manager that makes a span the current one."""
        return self._trace.use_span(
            span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )

    def end_attempt(self, span: Any, error: BaseException | None) -> None:
        """Close an attempt's span, with what it raised."""
        if isinstance(error, trio.Cancelled):
            self._blame(span, "it was cut: its deadline, or the run stops")
        elif error is not None:
            words = codec.words(error)
            span.add_event(
                "exception",
                {"exception.type": codec.error_name(error), "exception.message": words},
            )
            self._blame(span, words)
        span.end()

    def _below(self, parent: Any, name: str, **options: Any) -> Any:
        context = self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, **options)

    def _blame(self, span: Any, words: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, codec.words(words, 500)))


class _Attempt:
    """Around one attempt: its span is the current one, and ends with it."""

    def __init__(self, tracing: Tracing, span: Any) -> None:
        self._tracing = tracing
        self._span = span
        self._current = tracing.use(span)

    def __enter__(self) -> Self:
        self._current.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._current.__exit__(None, None, None)
        self._tracing.end_attempt(self._span, error)
