"""What is to be told, given what was told before and what is seen now: pure, for any clock.

Each look turns a `Book` and some `Sights` into the next book and what is raised. Whoever has the
book stored, with a compare and swap, has raised it; all others look again.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from attrs import evolve, frozen

from stagerun.model.alert import Alerts
from stagerun.model.sights import Book, Sights, Window
from stagerun.rules.notices import Notice, notices

__all__ = ["Look", "fingerprint", "look", "pause_before"]

_WINDOW: Final = 60_000_000
_SORTS: Final = 20
"""Sorts of held alerts that are counted apart; what is beyond is counted as others."""
_LONGEST_PAUSE: Final = 600.0
_LONGEST_WISH: Final = 3600.0


@frozen
class Look:
    """What a look comes to."""

    book: Book
    raised: tuple[Notice, ...]


def look(book: Book, sights: Sights, alerts: Alerts) -> Look:
    """Return what is to be raised now, and the book that says so.

    The book is an equal one when there is nothing to be noted.
    """
    now, quiet = sights.now, int(alerts.quiet * 1e6)
    window, episodes, raised = book.window, dict(book.episodes), list[Notice]()
    if window.held and _is_over(window, now):
        raised.append(_digest(window, alerts.per_minute))
        window = Window()
    for notice in _once_each(notices(sights, alerts.rules)):
        if notice.lasts:
            seen = episodes.get(notice.key)
            if seen is None or not 0 <= now - seen < quiet // 3:  # it is stored: not each time
                episodes[notice.key] = now
            if seen is not None and now - seen <= quiet:
                continue
        window, admitted = _admitted(window, notice, now, alerts.per_minute)
        if admitted:
            raised.append(notice)
    if episodes != book.episodes:
        episodes = {key: seen for key, seen in episodes.items() if now - seen <= quiet}
    ending = book.ending if sights.ending is None else sights.ending
    return Look(evolve(book, ending=ending, window=window, episodes=episodes), tuple(raised))


def fingerprint(alerts: Alerts) -> str:
    """Return what is equal for alerts that can stand in for each other: rules and sinks' names."""
    rules = [
        [
            rule.kind,
            sorted(rule.statuses),
            float(rule.limit),
            rule.pipeline or "",
            sorted(rule.labels.items()),
        ]
        for rule in alerts.rules
    ]
    text = json.dumps([sorted(rules), sorted(sink.name for sink in alerts.sinks)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def pause_before(
    again: int, waited: float, *, wish: float | None, jitter: float, give_up_after: float
) -> float | None:
    """Return the seconds until the next try of a delivery; None: it is given up.

    Args:
        again: How many tries have failed, from 1.
        waited: Seconds since the alert was raised.
        wish: How long the other side wants to be left alone, if it said so.
        jitter: From 0 to 1, so that not all come back at once.
        give_up_after: Seconds after which there is no next try.
    """
    pause = min(_LONGEST_PAUSE, 2.0 ** min(again, 20) * (0.75 + jitter / 2))
    pause = max(pause, min(wish or 0.0, _LONGEST_WISH))
    return None if waited + pause > give_up_after else pause


# -- how much is told -----------------------------------------------------------------------------


def _once_each(notices: Iterable[Notice]) -> Iterable[Notice]:
    """Leave out what two rules ask for: the first one tells it."""
    first: dict[str, Notice] = {}
    for notice in notices:
        first.setdefault(notice.key, notice)
    return first.values()


def _is_over(window: Window, now: int) -> bool:
    return not 0 <= now - window.since < _WINDOW  # a clock that was set back ends it as well


def _admitted(window: Window, notice: Notice, now: int, most: int) -> tuple[Window, bool]:
    """Count a notice; tell whether it is told, or held back."""
    if _is_over(window, now):
        window = Window(since=now)
    told, held = window.told, window.held
    before = told.get(notice.rule, 0)
    if before < most:
        return evolve(window, told={**told, notice.rule: before + 1}), True
    words = notice.words if notice.words in held or len(held) < _SORTS else "others"
    return evolve(window, held={**held, words: held.get(words, 0) + 1}), False


def _digest(window: Window, most: int) -> Notice:
    total = sum(window.held.values())
    sorts = sorted(window.held.items(), key=lambda each: -each[1])
    return Notice(
        "digest",
        key=f"digest:{window.since}",
        words="digest",
        summary=f"{total} more alerts were held back, beyond {most} of a kind in a minute: "
        + ", ".join(f"{count} x {words}" for words, count in sorts),
        facts={"held": total, "by": dict(window.held)},
        lasts=False,
    )
