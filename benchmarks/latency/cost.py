"""What the watch over the event loop and the live page cost, in processor time for each item."""

import time
from pathlib import Path

import trio

from benchmarks.latency.figure import Figure
from benchmarks.process import measure_apart
from benchmarks.subject import check_stored, run_stagerun
from stagerun.engine.watch import Watch
from stagerun.store.aio import AioStore
from stagerun.store.page import Page

__all__ = ["MEASURES", "cost"]

_ITEMS = 30_000
_STAGES = 3
_WORDS = 2
"""Words of the live page that each attempt writes."""


def cost(repeats: int, directory: Path) -> list[Figure]:
    """Run the pipeline of ``overhead`` with the watch and without, in turns."""
    samples, spent = [], {"latency-watched": list[float](), "latency-bare": list[float]()}
    for number in range(repeats):
        for name in sorted(spent, reverse=number % 2 == 1):
            spent[name].append(measure_apart(name, _ITEMS, directory)["cpu_seconds"])
        samples.append(_percent(*(each[-1] for each in spent.values())))
    where = {
        "the least against the least, %": round(_percent(*map(min, spent.values())), 1),
        "us of an item with the watch, least": round(min(spent["latency-watched"]) / _ITEMS * 1e6),
        "ns of a word in the page": round(_word_seconds() * 1e9),
    }
    title = "processor time for the watch and the live page"
    return [Figure(title, samples, bound=5, judged=0.5, unit="%", where=where)]


def _percent(watched: float, bare: float) -> float:
    words = _word_seconds() * _WORDS * _STAGES * _ITEMS
    return 100 * (watched + words - bare) / bare


def _measure_watched(items: int, directory: Path) -> dict[str, float]:
    path, began = directory / "cost.db", time.process_time()
    run_stagerun(items, path)
    spent = time.process_time() - began
    check_stored(items, path)
    return {"cpu_seconds": spent}


def _measure_bare(items: int, directory: Path) -> dict[str, float]:
    """Measure without the hooks in trio, the ticker, the looks, and the page in a file.

    Items are still written to a page in memory, which ``cost`` adds: there is no switch for it.
    """

    async def tick(_self: Watch) -> None:
        await trio.sleep_forever()

    for kind, name, nothing in (
        (Watch, "begin", lambda _self: None),
        (Watch, "end", lambda _self: None),
        (Watch, "tick", tick),
        (Page, "move", lambda _self, _path: None),
        (AioStore, "watch", lambda _self, _look, _every: None),
    ):
        setattr(kind, name, nothing)
    return _measure_watched(items, directory)


def _word_seconds() -> float:
    numbers, times = Page().numbers, Page().times
    began = time.process_time()
    for number in range(100_000):
        numbers[8], times[9] = number, 1.0
    return (time.process_time() - began) / 200_000


MEASURES = {"latency-watched": _measure_watched, "latency-bare": _measure_bare}
