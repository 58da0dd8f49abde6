"""A figure: what was measured again and again, and the bound it is to keep."""

import math
from collections.abc import Sequence
from typing import Any

from attrs import field, frozen

__all__ = ["Figure", "quantile"]


@frozen
class Figure:
    """*bound* holds for the quantile *judged*; None: no bound was set."""

    title: str
    samples: Sequence[float]
    bound: float | None = None
    judged: float = 1.0
    unit: str = "ms"
    where: dict[str, Any] = field(factory=dict)
    """Where the time goes, for those who want to know."""

    @property
    def met(self) -> bool | None:
        return None if self.bound is None else quantile(self.samples, self.judged) <= self.bound

    def document(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "n": len(self.samples),
            "median": quantile(self.samples, 0.5),
            "p99": quantile(self.samples, 0.99),
            "max": max(self.samples),
            "bound": self.bound,
            "judged": _NAMES[self.judged],
            "met": self.met,
            **({"where": self.where} if self.where else {}),
        }


_NAMES = {0.5: "median", 0.99: "p99", 1.0: "max"}


def quantile(samples: Sequence[float], share: float) -> float:
    """Return it by nearest rank: of fewer than 100 samples the p99 is the largest."""
    return sorted(samples)[math.ceil(share * len(samples)) - 1]
