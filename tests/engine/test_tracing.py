# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Spans for a run, its stages and its items, where OpenTelemetry is used."""

import sys

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stagerun import Pipeline, Retry, batch, stage


@pytest.fixture
def spans(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter.get_finished_spans
    provider.shutdown()


def named(spans, name):
    return [span for span in spans() if span.name == name]


async def test_run_stages_and_attempts_stand_below_each_other(autojump_clock, bench, spans) -> None:
    @stage(workers=2)
    async def fetch(number):
        with trace.get_tracer("users").start_as_current_span("request"):
            await trio.sleep(1)
        return number

    @batch(size=2)
    async def store(numbers):
        return numbers

    with trace.get_tracer("users").start_as_current_span("handler") as handler:
        result = await bench.finish(Pipeline("crawl", [fetch, store]), [1, 2])
    assert result.status == "succeeded"
    (run,) = named(spans, "run crawl")
    (first,), attempts = named(spans, "stage fetch"), named(spans, "fetch")
    assert run.parent.span_id == handler.get_span_context().span_id
    assert first.parent.span_id == run.context.span_id
    assert {span.parent.span_id for span in attempts} == {first.context.span_id}
    assert {span.attributes["stagerun.item"] for span in attempts} == {1, 2}
    users = {span.parent.span_id for span in named(spans, "request")}
    assert users == {span.context.span_id for span in attempts}
    (batched,) = named(spans, "store")
    assert sorted(batched.attributes["stagerun.items"]) == [1, 2]
    assert run.attributes["stagerun.status"] == "succeeded"
    assert first.attributes["stagerun.ok"] == 2


async def test_failed_retried_and_cut_attempts_say_so(autojump_clock, bench, spans) -> None:
    @stage(retry=Retry(attempts=2, base=0.1, attempt_deadline=1))
    async def fetch(number):
        if number == 1:
            raise ValueError("password=hunter2")
        await trio.sleep(10)

    result = await bench.finish(Pipeline("crawl", [fetch]), [1, 2])
    assert result.status == "failed"
    attempts = {
        (span.attributes["stagerun.item"], span.attributes["stagerun.attempt"]): span
        for span in named(spans, "fetch")
    }
    assert set(attempts) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert all(span.status.status_code is trace.StatusCode.ERROR for span in attempts.values())
    assert attempts[1, 1].events[0].attributes["exception.message"] == "password=[redacted]"
    assert "cut" in attempts[2, 1].status.description
    (run,) = named(spans, "run crawl")
    assert run.status.status_code is trace.StatusCode.ERROR


async def test_a_run_that_is_not_recorded_has_no_spans(autojump_clock, bench, monkeypatch) -> None:
    began = []

    class Tracer(trace.NoOpTracer):
        def start_span(self, name, *args, **kwargs):
            began.append(name)
            return super().start_span(name, *args, **kwargs)

    monkeypatch.setattr(trace, "get_tracer", lambda _name: Tracer())
    assert (await bench.finish(Pipeline("quiet", [stage(same)]), [1])).status == "succeeded"
    assert began == ["run quiet"]


async def test_without_opentelemetry_nothing_is_loaded(autojump_clock, bench, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert (await bench.finish(Pipeline("quiet", [stage(same)]), [1])).status == "succeeded"
    assert "opentelemetry.trace" not in sys.modules


async def same(number):
    return number


async def test_an_attempt_that_does_not_stop_has_a_span_that_says_so(
    autojump_clock, bench, spans
) -> None:
    @stage(deadline=1)
    async def stubborn(number):
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    await bench.finish(Pipeline("crawl", [stubborn], grace=1), [1])
    (span,) = named(spans, "stubborn")
    assert "left behind" in span.status.description


@pytest.mark.parametrize("moment", ["on_start", "on_end"])
async def test_a_processor_that_raises_fails_no_item(
    autojump_clock, bench, monkeypatch, caplog, moment
) -> None:
    class Bad(SimpleSpanProcessor):
        def on_start(self, span, parent_context=None):
            if moment == "on_start":
                raise ZeroDivisionError

        def on_end(self, span):
            if moment == "on_end":
                raise ZeroDivisionError

    provider = TracerProvider()
    provider.add_span_processor(Bad(InMemorySpanExporter()))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    result = await bench.finish(Pipeline("quiet", [stage(same)]), [1, 2, 3])
    assert (result.status, result.stages[0].ok) == ("succeeded", 3)
    assert caplog.text.count("the run is traced no further") == 1
    provider.shutdown()
