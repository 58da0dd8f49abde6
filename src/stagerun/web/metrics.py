"""``GET /metrics``: what Prometheus reads. The extra ``metrics`` brings the library for it."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from starlette.requests import Request
from starlette.responses import Response

from stagerun.engine.health import Lateness
from stagerun.engine.memory import memory
from stagerun.errors import StoreError
from stagerun.store.gauges import EDGES, Figures, Gauges
from stagerun.store.schedulelist import ScheduleFigures, schedule_figures
from stagerun.web.backend import Backend
from stagerun.web.problems import Problem

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["Metrics"]

_FRESH: Final = 5.0
"""Seconds for which figures of the database are shown again."""
_PATIENCE: Final = 5.0
"""Seconds in which they must be there: Prometheus waits for 10."""
_PIPELINES: Final = 100
"""Pipelines that have series of their own; the smaller ones share the label ``other``."""
_STAGES: Final = 500
"""Stages of pipelines, likewise."""
_SCHEDULES: Final = 100
"""Schedules that have series of their own, the first by name; the others have none."""
_OTHER: Final = "other"


class Streams(Protocol):
    """What is told of streams of events, and of the loop that serves them."""

    @property
    def open(self) -> int: ...

    @property
    def late(self) -> Lateness: ...


class Metrics:
    """What a process tells of itself, and of the whole database.

    Every process on one database tells the same of that: sums over processes are for the others.
    """

    def __init__(self, backend: Backend, streams: Streams) -> None:
        self._backend = backend
        self._streams = streams
        self._gauges = Gauges()
        self._asking = anyio.Lock()
        self._figures = Figures()
        self._schedules: Sequence[ScheduleFigures] = ()
        self._asked_at = -math.inf

    async def scrape(self, request: Request) -> Response:
        """Answer with all figures, in the format that is asked for.

        Raises:
            Problem: The library is not installed.
        """
        if find_spec("prometheus_client") is None:
            raise Problem(501, _MISSING, kind="extra")
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra

        figures = await self._of_database()
        families = [] if figures is None else [*_families(figures)]
        families += [] if figures is None else _of_schedules(self._schedules)
        readable = _gauge("database_readable", "1 when it has just been read.", figures is not None)
        registry: Any = _Registry([*families, readable, *self._of_process()])
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    async def _of_database(self) -> Figures | None:
        """Return the figures of the database, asked for only now and then; None: not to be had."""
        with anyio.move_on_after(_PATIENCE):
            async with self._asking:
                while anyio.current_time() - self._asked_at >= _FRESH:
                    try:
                        figures, schedules = await self._backend.pool.ask(self._ask)
                    except StoreError:  # the others are wanted just then
                        return None
                    if figures.complete:
                        self._figures, self._schedules = bounded(figures), schedules
                        self._asked_at = anyio.current_time()
                return self._figures
        return None  # what has been summed up is kept for the next time

    def _ask(self, connection: Any) -> tuple[Figures, Sequence[ScheduleFigures]]:
        return self._gauges.figures()(connection), schedule_figures(_SCHEDULES)(connection)

    def _of_process(self) -> "Iterator[Metric]":
        now, health = self._backend.runtime.statistics(), self._backend.runtime.health()
        used, limit = memory()
        yield _gauge("process_runs", "Runs under way in this process.", now.runs)
        yield _gauge("process_items_in_flight", "Items that its stages work on.", now.in_flight)
        yield _gauge("survivors", "Cut threads and tasks that have not stopped.", now.survivors)
        yield _gauge("loop_lag_seconds", f"How late the event loop of stages is; {_WORST}.",
                     now.loop_lag)  # fmt: skip
        yield _gauge("host_loop_lag_seconds", f"The same of the server's event loop; {_WORST}.",
                     self._streams.late.worst)  # fmt: skip
        yield _gauge("store_healthy", "1 while the database takes commits.", health.status == "ok")
        yield _gauge("store_waiting_rows", "Records that wait for a commit.", health.waiting)
        yield _gauge("store_lag_seconds", "How long the commit under way has taken; 0: none is.",
                     health.commit_lag)  # fmt: skip
        yield _gauge("streams_open", "Streams of events that are open.", self._streams.open)
        if used is not None:
            yield _gauge("process_memory_bytes", "Resident memory of this process.", used)
        if limit is not None:
            yield _gauge("process_memory_limit_bytes", "How much it may use at most.", limit)


_MISSING = "the library for metrics is not installed: pip install 'stagerun[metrics]'"
_WORST = "the worst of the last half minute"
_KEPT = "of the runs that are kept, by their current generation"


def bounded(figures: Figures) -> Figures:
    """Return the figures with the smaller pipelines and stages put together: series are dear."""
    sizes = Counter[str]()
    for (pipeline, _), count in figures.runs.items():
        sizes[pipeline] += count
    large = {*sorted(sizes, key=lambda each: (-sizes[each], each))[:_PIPELINES]}
    stages = sorted({(pipeline, stage) for pipeline, stage, _ in figures.items})
    shown = {*[place for place in stages if place[0] in large][:_STAGES]}

    def name(pipeline: str) -> str:
        return pipeline if pipeline in large else _OTHER

    found = Figures()
    for (pipeline, status), count in figures.runs.items():
        found.runs[name(pipeline), status] += count
    for (pipeline, bucket), count in figures.durations.items():
        found.durations[name(pipeline), bucket] += count
    for (pipeline, stage, outcome), count in figures.items.items():
        known = stage if (pipeline, stage) in shown else _OTHER
        found.items[name(pipeline), known, outcome] += count
    for part in ("seconds", "waiting", "in_flight"):
        for pipeline, count in getattr(figures, part).items():
            getattr(found, part)[name(pipeline)] += count
    return found


def _families(figures: Figures) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeHistogramMetricFamily  # noqa: PLC0415 - an extra

    yield _gauges("runs", f"Runs by status, {_KEPT}.", ("pipeline", "status"), figures.runs.items())
    places = ("pipeline", "stage", "outcome")
    yield _gauges("items", f"Items by outcome, {_KEPT}.", places, figures.items.items())
    for name, words, counts in (
        ("queue_depth", "Items that wait at a stage of a run under way.", figures.waiting),
        ("items_in_flight", "Items that a stage works on, in all processes.", figures.in_flight),
    ):
        by_pipeline = [((pipeline,), float(count)) for pipeline, count in counts.items()]
        yield _gauges(name, words, ("pipeline",), by_pipeline)
    durations = GaugeHistogramMetricFamily(
        "stagerun_run_duration_seconds",
        f"Durations of ended runs, {_KEPT}: they grow fewer when runs are deleted.",
        labels=("pipeline",),
    )
    for pipeline, seconds in sorted(figures.seconds.items()):
        durations.add_metric((pipeline,), _buckets(figures, pipeline), float(seconds))
    yield durations


def _of_schedules(schedules: Sequence[ScheduleFigures]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - an extra

    if not schedules:
        return
    coming = [
        ((each.name,), each.next_at / 1e6 - time.time())
        for each in schedules
        if each.next_at is not None
    ]
    words = "Seconds until the next slot; below 0: it is due, and nobody serves it."
    yield _gauges("schedule_next_seconds", words, ("schedule",), coming)
    slots = CounterMetricFamily(
        "stagerun_schedule_slots",
        "Slots by what became of them: fired, skipped, or missed since nobody was there.",
        labels=("schedule", "decision"),
    )
    for each in schedules:
        for decision, count in each.slots.items():
            slots.add_metric((each.name, decision), count)
    yield slots


def _buckets(figures: Figures, pipeline: str) -> list[tuple[str, float]]:
    buckets, below = [], 0
    for number, edge in enumerate([*map(float, EDGES), float("inf")]):
        below += figures.durations[pipeline, number]
        buckets.append(("+Inf" if edge == float("inf") else str(edge), float(below)))
    return buckets


def _gauges(
    name: str,
    words: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - an extra

    family = GaugeMetricFamily(f"stagerun_{name}", words, labels=labels)
    for place, value in sorted(values):
        family.add_metric(place, float(value))
    return family


def _gauge(name: str, words: str, value: float) -> "Metric":
    return _gauges(name, words, (), [((), value)])


class _Registry:
    """What an encoder reads from: made for one answer, and known to nobody else."""

    def __init__(self, families: "list[Metric]") -> None:
        self._families = families

    def collect(self) -> "list[Metric]":
        return self._families
