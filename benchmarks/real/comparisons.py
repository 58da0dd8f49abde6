"""Which two are measured against each other, at how many items, and what was wanted."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.real.by_hand import measure_by_hand
from benchmarks.real.cases import CASES, NOTHING, Case
from benchmarks.real.with_stagerun import measure_with_stagerun

__all__ = ["COMPARISONS", "MEASURES", "Comparison"]

_Measure = Callable[[int, Path], dict[str, float]]


@frozen
class Comparison:
    title: str
    sides: Mapping[str, _Measure]
    """The first one is judged, the second one is what it is judged by."""
    share: float = 1.0
    """Of the items that were asked for: some items are more work."""
    most_seconds: float | None = None
    """How many times the other's seconds it may take."""
    least_rate: float | None = None
    """Which share of the other's items a second it shall reach."""

    def items(self, asked: int) -> int:
        return max(1, round(self.share * asked))

    def judge(self, first: float, second: float) -> dict[str, Any]:
        """Return the ratio of these two times, and whether it is what was wanted."""
        if self.least_rate is not None:
            rate = second / first
            met = rate >= self.least_rate
            return {"ratio": rate, "of": "items/s", "least": self.least_rate, "met": met}
        ratio = first / second
        met = self.most_seconds is None or ratio <= self.most_seconds
        return {"ratio": ratio, "of": "seconds", "most": self.most_seconds, "met": met}


def _against_hand(case: Case, share: float = 1.0) -> Comparison:
    sides = {
        "stagerun": partial(measure_with_stagerun, case),
        "by hand": partial(measure_by_hand, case),
    }
    return Comparison(case.title, sides, share, most_seconds=1.3)


_SHARES = {"large": 0.2, "children": 0.1}
COMPARISONS = {
    **{name: _against_hand(case, _SHARES.get(name, 1.0)) for name, case in CASES.items()},
    "commit-first": Comparison(
        "stages that do nothing, each result on disk first",
        {
            "commit first": partial(measure_with_stagerun, NOTHING, commit_first=True),
            "default": partial(measure_with_stagerun, NOTHING),
        },
        least_rate=0.7,
    ),
}
MEASURES = {
    f"real-{name}-{side.replace(' ', '-')}": measure
    for name, comparison in COMPARISONS.items()
    for side, measure in comparison.sides.items()
}
