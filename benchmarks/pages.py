"""How soon the questions behind lists and charts are answered in a large database."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.crowd import Crowd, crowd
from benchmarks.latency.figure import quantile
from stagerun.store.charts import charts, durations
from stagerun.store.documents import run_document
from stagerun.store.driver import Question
from stagerun.store.feed import feed
from stagerun.store.itemlist import item_page, log_page
from stagerun.store.listing import label_names, pipelines, run_page, status_counts
from stagerun.store.opening import read_only

_PAGE_BOUND = 200.0
_Ask = Callable[[], Question[Any]]


def run(runs: int, items: int, repeats: int, directory: Path | None) -> dict[str, Any]:
    """Ask each question *repeats* times of *runs* runs, of which one has *items* items."""
    with tempfile.TemporaryDirectory(prefix="stagerun-benchmark-", dir=directory) as scratch:
        began = time.perf_counter()
        with crowd(Path(scratch), runs, items) as made:
            built = time.perf_counter() - began
            with closing(read_only(made.path)) as connection:
                results = {}
                for name, bound, make in _questions(made, runs, items):
                    samples = []
                    for _ in range(repeats):
                        question = make()
                        began = time.perf_counter()
                        connection.execute("BEGIN")
                        question(connection)
                        connection.execute("COMMIT")
                        samples.append((time.perf_counter() - began) * 1000)
                    p50, p95 = quantile(samples, 0.5), quantile(samples, 0.95)
                    results[name] = {"p50": p50, "p95": p95, "bound": bound, "met": p95 <= bound}
    return {
        "benchmark": "pages",
        "command": f"python -m benchmarks pages --runs {runs} --items {items} --repeats {repeats}",
        "environment": environment.describe(directory),
        "seconds_to_build": built,
        "results": results,
    }


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines.append(f"{'milliseconds':<44}{'p50':>8}{'p95':>8}{'goal':>8}")
    for name, figure in report["results"].items():
        missed = "" if figure["met"] else "  missed"
        numbers = f"{figure['p50']:>8.1f}{figure['p95']:>8.1f}{figure['bound']:>8.0f}"
        lines.append(f"{name:<44}{numbers}{missed}")
    return "\n".join(lines)


def _questions(made: Crowd, runs: int, items: int) -> Iterator[tuple[str, float, _Ask]]:
    chance = random.Random(1)
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "succeeded": {"status": "succeeded"},
        "failed": {"status": "failed"},
        "running": {"status": "running"},
        "queued": {"status": "queued"},
        "interrupted": {"status": "interrupted"},
        "a pipeline": {"pipeline": "crawl"},
        "a rare pipeline": {"pipeline": "rare"},
        "a label of most": {"labels": {"environment": "production"}},
        "a label of some": {"labels": {"tenant": "tenant-31"}},
        "a rare label": {"labels": {"incident": "INC-7"}},
        "pipeline and status": {"pipeline": "crawl", "status": "failed"},
        "pipeline and status, none": {"pipeline": "doomed", "status": "succeeded"},
        "label of most and status": {
            "labels": {"environment": "production"},
            "status": "failed",
        },
        "label of most and pipeline": {
            "labels": {"environment": "production"},
            "pipeline": "doomed",
        },
        "two labels, none": {"labels": {"team": "team-3", "environment": "staging"}},
        "rare label and pipeline": {"labels": {"incident": "INC-7"}, "pipeline": "crawl"},
    }
    for name, chosen in filters.items():
        yield f"runs: {name}", _PAGE_BOUND, partial(run_page, **chosen)
        yield f"runs: {name}, deep", _PAGE_BOUND, partial(_deep_page, chance, runs, chosen)
    large = made.large
    yield "runs: 500 on a page", _PAGE_BOUND, lambda: run_page(limit=500)
    yield "counts by status", _PAGE_BOUND, status_counts
    yield "pipelines", _PAGE_BOUND, pipelines
    yield "labels", _PAGE_BOUND, label_names
    yield "durations of a pipeline", _PAGE_BOUND, lambda: durations("crawl", 100)
    yield "a run", _PAGE_BOUND, lambda: run_document(large)
    yield "items", _PAGE_BOUND, lambda: item_page(large)
    bad, good = ("failed", "timed_out"), ("ok",)
    yield "items, deep", _PAGE_BOUND, partial(_deep_items, chance, items, large, ())
    yield "items: failed", _PAGE_BOUND, lambda: item_page(large, outcomes=bad)
    yield "items: failed, deep", _PAGE_BOUND, partial(_deep_items, chance, items, large, bad)
    yield "items: ok, deep", _PAGE_BOUND, partial(_deep_items, chance, items, large, good)
    yield "log lines", _PAGE_BOUND, lambda: log_page(large)
    yield "events, from the beginning", _PAGE_BOUND, lambda: feed(1, 0)
    yield "events, at the end", _PAGE_BOUND, lambda: feed(1, 995)
    yield "charts: the largest run", 400.0, lambda: charts(large)
    yield "charts: 100,000 items", 400.0, lambda: charts(made.middle)
    yield "charts: 10,000 items in three stages", 60.0, lambda: charts(made.small)
    yield "charts: a run under way", 60.0, lambda: charts(made.running)


def _deep_page(chance: random.Random, runs: int, chosen: dict[str, Any]) -> Question[Any]:
    return run_page(**chosen, after=str(chance.randrange(1, runs)))


def _deep_items(
    chance: random.Random, items: int, large: str, outcomes: Sequence[str]
) -> Question[Any]:
    return item_page(large, outcomes=outcomes, after=f"0.{chance.randrange(items)}")
