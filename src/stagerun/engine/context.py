"""What a stage may know of the attempt it runs in, and how it reports about it."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from stagerun.engine.token import CancellationToken
from stagerun.logs import RunLog

if TYPE_CHECKING:
    from stagerun.engine.desk import Desk

__all__ = ["CURRENT", "Context", "current_context", "heartbeat", "http_total", "report"]

CURRENT: "ContextVar[Desk | Context | None]" = ContextVar("stagerun_current", default=None)
"""The desk of the worker that this code runs for; in a thread, the context of its one attempt, for
a thread that is left behind must not speak for the desk's next item."""


class Context:
    """One attempt of one item (or batch, or group) in one stage: the parameter named ``ctx``."""

    __slots__ = ("_cut_for", "_desk", "_token", "attempt", "deadline", "item", "key")

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk
        self._token: CancellationToken | None = None
        self._cut_for: str | None = None
        self.item: int | None = desk.item.number if desk.item is not None else None
        """The item's number; None for a batch."""
        self.key: Any = desk.item.key if desk.item is not None else None
        """The item's key where the stage declares one; the group's in a collect stage."""
        self.attempt: int = desk.attempt
        """Which attempt this is, from 1."""
        self.deadline: float = desk.deadline
        """When it must end, on trio's clock (``trio.current_time()``); inf without a deadline."""

    @property
    def token(self) -> CancellationToken:
        """Tells when to stop: the run's cancellation, or this attempt's deadline."""
        if self._token is None:
            self._token = CancellationToken(self._desk.actor.hub.token)
            if self._cut_for is not None:
                self._token.cancel(self._cut_for)
        return self._token

    def cut(self, why: str) -> None:
        """Tell the stage that this attempt is over. The engine calls it."""
        self._cut_for = why
        if self._token is not None:
            self._desk.actor.hub.cancel(self._token, why)

    @property
    def params(self) -> Any:
        """What the run was started with."""
        return self._desk.actor.hub.params

    @property
    def resource(self) -> Any:
        """What the stage's resource gave to this worker."""
        return self._desk.resource

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self._desk.actor.stage.name

    @property
    def run(self) -> str:
        """The run's identifier."""
        return self._desk.actor.hub.id

    @property
    def http_total(self) -> float:
        """Seconds that one call of ``stagerun.http`` may take in this stage."""
        return self._desk.actor.stage.http_total

    @property
    def log(self) -> RunLog:
        """Log lines with the run's prefix; from INFO on they are kept with the run."""
        return self._desk.actor.log

    def report(
        self, step: str, message: str = "", done: float | None = None, total: float | None = None
    ) -> None:
        """Say where the work stands: it shows in the run's document. Any thread, never waits."""
        if self._cut_for is None:
            self._desk.report(step, message, done, total)

    def heartbeat(self) -> None:
        """Say that the work goes on though nothing has come of it yet. Any thread."""
        if self._cut_for is None:
            self._desk.heartbeat()


def http_total() -> float | None:
    """Seconds that a call of ``stagerun.http`` may take in this stage; None outside a run."""
    current = CURRENT.get()
    if isinstance(current, Context):
        return current.http_total
    return None if current is None else current.actor.stage.http_total


def current_context() -> Context | None:
    """Return the context of the attempt that this code runs in; None outside a stage."""
    current = CURRENT.get()
    if current is None or isinstance(current, Context):
        return current
    return current.context() if current.busy else None


def report(
    step: str, message: str = "", done: float | None = None, total: float | None = None
) -> None:
    """Report like ``ctx.report()``, from code that has no ctx; nothing happens outside a run."""
    context = current_context()
    if context is not None:
        context.report(step, message, done, total)


def heartbeat() -> None:
    """Beat like ``ctx.heartbeat()``, from code that has no ctx; nothing happens outside a run."""
    context = current_context()
    if context is not None:
        context.heartbeat()
