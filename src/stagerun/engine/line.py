"""What is kept with a run beside its outcomes: log lines, and what the engine noticed."""

import json
from typing import Any

from attrs import frozen

__all__ = ["Line"]


@frozen
class Line:
    """One line that is kept with its run: of the log, or of another kind of event."""

    at: int
    level: str
    stage: str | None
    item: int | None
    text: str
    kind: str = "log"

    @classmethod
    def block(cls, at: int, stage: str | None, item: int | None, facts: dict[str, Any]) -> "Line":
        """Return the event that the event loop was blocked."""
        return cls(at, "WARNING", stage, item, json.dumps(facts), "block")
