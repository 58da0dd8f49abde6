"""What grows, in which steps, and which bounds were set for it."""

from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from benchmarks.scale.sleepers import measure_sleeping_items, measure_sleeping_runs
from benchmarks.scale.work import (
    measure_items,
    measure_results,
    measure_runs,
    measure_workers,
)

__all__ = ["SERIES", "Series"]

_ITEMS = 10_000
"""Of a figure where something else grows."""
_STORED = 100_000_000
"""Bytes that a stage's results come to at most, if they are more than a hundred."""


@frozen
class Series:
    title: str
    measure: Callable[[int, int, Path], dict[str, float]]
    sizes: tuple[int, ...]
    items: Callable[[int], int]
    """How many items there are at a size."""
    most_mb: float | None = None
    """What the peak at the largest size shall not be above."""
    most_rise_mb: float | None = None
    """By how much it may be above that of the smallest size."""
    told: tuple[str, ...] = ()
    """Which figures it has beside those that all have."""

    def sizes_to(self, largest: int) -> list[int]:
        """Return the sizes up to *largest*: at least one of them."""
        return [size for size in self.sizes if size <= max(largest, self.sizes[0])]


def _as_many(size: int) -> int:
    return size


def _always(_size: int) -> int:
    return _ITEMS


def _bounded(size: int) -> int:
    return max(100, min(_ITEMS, _STORED // size))


_ASLEEP = ("asleep_after", "start_cpu", "quiet_cpu_percent")
_POWERS = tuple(10**power for power in range(7))

SERIES = {
    "items": Series("items of one run", measure_items, _POWERS[3:], _as_many, most_rise_mb=60),
    "runs": Series(
        "runs at once, 10,000 items in all",
        measure_runs,
        _POWERS[:5],
        _always,
        told=("start_seconds", "work_seconds"),
    ),
    "workers": Series("workers of a stage, 10,000 items", measure_workers, _POWERS[:4], _always),
    "results": Series("results of so many bytes", measure_results, _POWERS[2:], _bounded),
    "sleeping-items": Series(
        "sleeping items of one run",
        measure_sleeping_items,
        _POWERS[3:5],
        _as_many,
        most_mb=100,
        told=_ASLEEP,
    ),
    "sleeping-runs": Series(
        "sleeping runs of one item",
        measure_sleeping_runs,
        _POWERS[3:5],
        _as_many,
        most_mb=250,
        told=_ASLEEP,
    ),
}
