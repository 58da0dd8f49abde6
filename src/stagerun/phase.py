"""What a call of the HTTP helper is doing, for whoever cuts it. A leaf, so that both can see it."""

from contextvars import ContextVar

__all__ = ["PHASE"]

PHASE: ContextVar[str | None] = ContextVar("stagerun_http_phase", default=None)
"""Set by ``stagerun.http`` in the task that calls; a cancelled call leaves its phase behind."""
