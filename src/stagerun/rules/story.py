"""One sentence or two about a run that has ended, or whose process does not answer."""

from collections.abc import Mapping
from typing import Any

__all__ = ["summary"]


def summary(story: Mapping[str, Any]) -> str:
    """Sum up the story of a run (``store/story.py``)."""
    if not story["ended"]:
        return _silent(story)
    status = story["status"].replace("_", " ")
    sentence = f"It ended {status} ({story['cause']}): {story['message']}"
    lost = sum(sort["count"] for sort in story["failures"])
    if not lost:
        return f"{sentence.rstrip('.')}."
    worst = story["failures"][0]
    told = worst["message"] or worst["cause"]
    most = "" if worst["count"] == lost else f"{worst['count']} of them "
    items = "1 item" if lost == 1 else f"{lost} items"
    return (
        f"{sentence.rstrip('.')}. {items} did not succeed, {most}in stage {worst['stage']}"
        f" ({worst['outcome'].replace('_', ' ')}): {told}"
    )


def _silent(story: Mapping[str, Any]) -> str:
    owner = story["owner"]
    if story["status"] == "queued":
        return "It is queued and has not begun: nobody works on it yet."
    if owner is None:
        return "Nobody works on it, as far as the database tells."
    return (
        f"Its process (pid {owner['pid']} on {owner['host']}) has not answered; the verdict is"
        f" {story['verdict']}. What is told here is what was committed last, at"
        f" {story['updated_at']}."
    )
