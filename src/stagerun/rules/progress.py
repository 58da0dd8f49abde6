"""The percentage of a run: weighted over its stages, from counts alone."""

from collections.abc import Sequence
from typing import Final

from stagerun.model.status import Counts

__all__ = ["MOST_PERCENT", "percent"]

MOST_PERCENT: Final = 99.9
"""Of a run that has not succeeded, or not again."""


def percent(
    weights: Sequence[float], counts: Sequence[Counts], source_length: int | None
) -> float | None:
    """Return the percentage from 0 to 99.9, or None while the source's length is unknown.

    A stage's part is the part of the stage before it times the share of what it accepted that is
    settled; so stages that make many items of one need no forecast. Only ``succeeded`` is 100.
    Estimates may fall; whoever stores them keeps the greatest.
    """
    if source_length is None:
        return None
    done, total, part = 0.0, sum(weights), 1.0
    for index, (weight, sums) in enumerate(zip(weights, counts, strict=True)):
        expected = max(source_length, sums.accepted) if index == 0 else sums.accepted
        if expected:
            part *= sums.settled / expected
        elif part < 1.0:  # nothing has come here yet, but may
            part = 0.0
        done += weight * part
    return min(MOST_PERCENT, 100.0 * done / total) if total else 0.0
