"""An item's outcome on its way to SQLite: five values, of which SQLite makes the nine of its row.

To bind a value takes Python's lock, and so does making an integer of a float; to take an integer
apart does not, where SQLite does it.
"""

from typing import Final

__all__ = ["ATTEMPTS", "END", "INSERT", "KIND", "STAGE", "VALUE", "WIDTH", "stage_and_outcome"]

WIDTH: Final = 5
"""Values of an outcome: kind, item, start and duration in seconds, result."""
KIND, VALUE = 0, 4
"""Where an outcome has its kind and its result. The kind: how it ended, where, and after how many
attempts, in one integer."""
STAGE, ATTEMPTS = 3, 20
"""How many bits are below them in a kind. So there is room for 131,072 stages of a pipeline."""
_OUTCOME_MASK = (1 << STAGE) - 1
_STAGE_MASK = (1 << ATTEMPTS - STAGE) - 1

# A select, so that it is said once for all rows: said in each of them it costs a third more.
INSERT: Final = f"""INSERT INTO items
  (run, generation, stage, outcome, attempts, item, started_at, elapsed, result)
SELECT ?1, ?2, column1 >> {STAGE} & {_STAGE_MASK}, column1 & {_OUTCOME_MASK}, column1 >> {ATTEMPTS},
  column2, CAST(column3 * 1e6 AS INTEGER), CAST(column4 * 1e6 AS INTEGER), column5
FROM (VALUES"""  # noqa: S608 - constants alone
END: Final = ")"
"""Run and generation are bound once, before all others; the rows stand between these two."""


def stage_and_outcome(kind: int) -> tuple[int, int]:
    """Return what a kind says of where and how an item ended."""
    return kind >> STAGE & _STAGE_MASK, kind & _OUTCOME_MASK
