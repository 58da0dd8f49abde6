"""From the codes of interviews to the categories that they share."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from attrs import frozen

__all__ = ["Category", "Tally", "Theory", "TooFewCategoriesError", "theory_of"]

SHARED_BY: Final = 2
"""Interviews that must have a code for it to be a category."""


@frozen
class Tally:
    """What of an interview is in both stores."""

    interview: str
    of: int
    numbers: list[int]
    codes: dict[str, int]


@frozen
class Category:
    """A code that several interviews share."""

    name: str
    fragments: int
    interviews: list[str]


@frozen
class Theory:
    """The outcome of a run."""

    categories: list[Category]
    complete: list[str]
    partial: list[str]
    """Interviews of which fragments were lost."""
    lost: list[str]
    """Interviews of which nothing came through."""


class TooFewCategoriesError(Exception):
    """The interviews do not share enough."""


def theory_of(tallies: Iterable[Tally], names: Iterable[str], least: int) -> Theory:
    """Return what interviews share, and which of those named are complete, partial or lost.

    Raises:
        TooFewCategoriesError: There are fewer than `least` categories.
    """
    found = [each for each in tallies if each.numbers]
    categories = _shared(found)
    theory = Theory(
        categories=categories,
        complete=sorted(each.interview for each in found if len(each.numbers) == each.of),
        partial=sorted(each.interview for each in found if len(each.numbers) < each.of),
        lost=sorted({*names} - {each.interview for each in found}),
    )
    if len(categories) < least:
        raise TooFewCategoriesError(
            f"the interviews share {len(categories)} categories, and at least {least} were asked"
            f" for; {len(found)} interviews came through, {len(theory.partial)} of them in part,"
            f" and {len(theory.lost)} were lost"
        )
    return theory


def _shared(tallies: list[Tally]) -> list[Category]:
    """Return the codes that several interviews have, those of most fragments first."""
    fragments, owners = Counter[str](), dict[str, list[str]]()
    for each in tallies:
        fragments.update(each.codes)
        for name in each.codes:
            owners.setdefault(name, []).append(each.interview)
    found = [
        Category(name, fragments[name], sorted(interviews))
        for name, interviews in owners.items()
        if len(interviews) >= SHARED_BY
    ]
    return sorted(found, key=lambda category: (-category.fragments, category.name))
