"""Spans of OpenTelemetry: one for a run, one for each stage, one for each attempt at an item.

For programs that have loaded OpenTelemetry's API and record something with it; all others pay
nothing. An attempt's span is the current one while the stage works, so what the stage calls (a
client that is instrumented, a span of its own) stands below it, in threads too.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from stagerun.logs import RunLog
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
    """The spans of one generation of a run.

    An error in a program's own processors is said once, and ends the tracing of the run: no item
    fails for it.
    """

    _trace: Any
    """The module ``opentelemetry.trace``."""
    _tracer: Any
    _run: Any
    _log: RunLog
    _stages: dict[str, Any] = field(factory=dict)
    _attempts: dict["Desk", Any] = field(factory=dict)
    """Spans of attempts under way, and their ends."""
    _broken: bool = False

    @classmethod
    def begin(
        cls, context: "Context", log: RunLog, run: str, pipeline: "Pipeline", generation: int
    ) -> "Tracing | None":
        """Open a run's span, below the span that was current where it was started.

        None: nobody here uses OpenTelemetry, or this run is not recorded.
        """
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return None
        about = {
            "stagerun.run": run,
            "stagerun.pipeline": pipeline.name,
            "stagerun.generation": generation,
        }
        try:
            tracer = trace.get_tracer("stagerun")
            span = context.run(tracer.start_span, f"run {pipeline.name}", attributes=about)
            return cls(trace, tracer, span, log) if span.is_recording() else None
        except Exception as error:
            log.warning(_GIVEN_UP, exc_info=error)
            return None

    def end(self, ending: Ending) -> None:
        """Close the run's span, and those of stages that have not ended."""
        with self._guarded():
            for name in [*self._stages]:
                self._stages.pop(name).end()
            self._run.set_attribute("stagerun.status", ending.status.value)
            self._run.set_attribute("stagerun.cause", ending.cause.value)
            if ending.status is not Status.SUCCEEDED:
                self._blame(self._run, ending.message)
            self._run.end()

    def stage_begins(self, stage: str) -> None:
        """Open a stage's span, unless its first attempt was quicker."""
        with self._guarded():
            self._stage(stage)

    def stage_ends(self, stage: str, status: str, counts: Counts) -> None:
        """Close a stage's span, with its sums."""
        with self._guarded():
            span = self._stages.pop(stage, None)
            if span is None:
                return
            span.set_attribute("stagerun.status", status)
            for outcome in Outcome:
                span.set_attribute(f"stagerun.{outcome.label}", getattr(counts, outcome.label))
            if status in ("failed", "timed_out"):
                self._blame(span, f"stage {stage} {status}")
            span.end()

    @contextmanager
    def attempt(self, stage: str, desk: "Desk") -> Iterator[None]:
        """Have a span around the attempt in hand; it is the current one meanwhile."""
        current, error = ExitStack(), None
        with self._guarded():
            numbers = [item.number for item in desk.items]
            about = {"stagerun.stage": stage, "stagerun.attempt": desk.attempt}
            about |= {"stagerun.items": numbers} if numbers[1:] else {"stagerun.item": numbers[0]}
            span = self._below(self._stage(stage), stage, attributes=about)
            self._attempts[desk] = span
            quietly = {"record_exception": False, "set_status_on_exception": False}
            current.enter_context(self._trace.use_span(span, end_on_exit=False, **quietly))
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            with self._guarded():
                current.close()
            self._attempt_ends(desk, error)

    def abandon(self, desk: "Desk") -> None:
        """Close the span of an attempt that does not stop: somebody looks for that very one."""
        with self._guarded():
            span = self._attempts.pop(desk, None)
            if span is not None:
                self._blame(span, "it was cut and does not stop: it is left behind")
                span.end()

    def _attempt_ends(self, desk: "Desk", error: BaseException | None) -> None:
        with self._guarded():
            span = self._attempts.pop(desk, None)
            if span is None:
                return
            if isinstance(error, trio.Cancelled):
                self._blame(span, "it was cut: its deadline, or the run stops")
            elif error is not None:
                words = codec.words(error)
                named = {"exception.type": codec.error_name(error), "exception.message": words}
                span.add_event("exception", named)
                self._blame(span, words)
            span.end()

    def _stage(self, stage: str) -> Any:
        if stage not in self._stages:
            about = {"stagerun.stage": stage}
            self._stages[stage] = self._below(self._run, f"stage {stage}", attributes=about)
        return self._stages[stage]

    def _below(self, parent: Any, name: str, **options: Any) -> Any:
        context = self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, **options)

    def _blame(self, span: Any, words: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, codec.words(words, 500)))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a processor of the program's may raise anything
            if not self._broken:
                self._broken = True
                self._log.warning(_GIVEN_UP, exc_info=error)


_GIVEN_UP = "the run is traced no further: OpenTelemetry raised"
