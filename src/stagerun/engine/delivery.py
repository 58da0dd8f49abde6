"""Handing alerts over: every call is bounded, and one that hangs costs its own sink alone."""

import inspect
from collections.abc import Awaitable
from typing import Any, Final

import trio
from attrs import evolve

from stagerun.engine.env import Env
from stagerun.errors import DeliveryError
from stagerun.logs import RunLog
from stagerun.model.alert import Alert, Alerts, Sink
from stagerun.rules.alerting import pause_before
from stagerun.store.codec import error_name, finite, words
from stagerun.store.outbox import Parcel

__all__ = ["Courier"]

_LEFT_BEHIND: Final = 4
"""Threads of a sink that may hang at once; while so many do, it gets nothing more."""
_SLACK: Final = 0.5
"""Seconds that async code gets to stop by itself before its thread is left behind."""


class Courier:
    """Delivers for one ``Alerts``. Its methods belong to one event loop."""

    def __init__(self, alerts: Alerts, env: Env) -> None:
        self._alerts = alerts
        self._env = env
        self._sinks = {sink.name: sink for sink in alerts.sinks}
        self._threads = {name: trio.CapacityLimiter(_LEFT_BEHIND) for name in self._sinks}
        self._hanging: set[str] = set()
        """Sinks of which the log has been told that they get nothing more."""

    def has_room(self, sink: str) -> bool:
        """Whether a sink that has nothing in hand may be tried: not too many of its threads hang.

        When the last place is gone, the log is told.
        """
        if self._threads[sink].available_tokens > 0:
            self._hanging.discard(sink)
            return True
        if sink not in self._hanging:
            self._hanging.add(sink)
            RunLog(now=self._env.now_us).error(
                "alerts do not go by %s any more: %d of its calls hang. It gets the next one when"
                " one of them comes back; look at what it waits for, or give it a timeout",
                sink,
                _LEFT_BEHIND,
            )
        return False

    async def carry(self, parcel: Parcel) -> Parcel:
        """Try to deliver; return the parcel as it stands then. What a sink raises is data."""
        error = await self._hand_over(self._sinks[parcel.sink], parcel.alert)
        now, tries = self._env.now_us(), parcel.tries + 1
        if error is None:
            return evolve(parcel, tries=tries, delivered_at=now, error=None)
        alert = parcel.alert
        pause = pause_before(
            tries,
            now / 1e6 - alert.raised_at.timestamp(),
            wish=_wish(error),
            jitter=self._env.jitter(),
            give_up_after=self._alerts.give_up_after,
        )
        what = f"{error_name(error)}: {words(error, 1_000)}"
        after = evolve(parcel, tries=tries, error=what)
        log, which = RunLog(now=self._env.now_us), (alert.id[:8], alert.summary)
        if pause is None:
            sentence = "alert %s (%s) is given up after %d tries by %s: %s"
            log.error(sentence, *which, tries, parcel.sink, what)
            return evolve(after, given_up_at=now)
        if tries == 1:
            sentence = "alert %s (%s) did not go by %s and is tried again: %s"
            log.warning(sentence, *which, parcel.sink, what)
        return evolve(after, next_try_at=now + int(pause * 1e6))

    async def _hand_over(self, sink: Sink, alert: Alert) -> BaseException | None:
        """Call a sink; return what it raised, or that it took too long."""
        limit = self._alerts.deadline
        if not self._env.threads:
            with trio.move_on_after(limit):
                return await _delivered(sink, alert)
        else:
            with trio.move_on_after(limit + _SLACK):
                try:
                    return await trio.to_thread.run_sync(
                        _in_thread,
                        sink,
                        alert,
                        limit,
                        abandon_on_cancel=True,
                        limiter=self._threads[sink.name],
                        thread_name=f"stagerun-alert-{sink.name}",
                    )
                except RuntimeError as error:  # no thread can be had just now
                    return error
        return DeliveryError(f"it was not done within {limit:g} s, and is left behind")


async def _delivered(sink: Sink, alert: Alert) -> Exception | None:
    """Deliver in this event loop: in virtual time, where a thread would let the clock jump."""
    try:
        result = sink.deliver(alert)
        if inspect.isawaitable(result):
            await result
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return error
    return None


def _in_thread(sink: Sink, alert: Alert, limit: float) -> BaseException | None:
    """Deliver in this thread: what blocks blocks nobody else."""
    try:
        result = sink.deliver(alert)
        if inspect.isawaitable(result):
            trio.run(_awaited, result, limit)
    except BaseException as error:  # noqa: BLE001 - likewise, and sys.exit() ends nothing here
        return error
    return None


async def _awaited(result: Awaitable[Any], limit: float) -> None:
    with trio.move_on_after(limit) as scope:
        await result
    if scope.cancelled_caught:
        raise DeliveryError(f"it was not done within {limit:g} s")


def _wish(error: BaseException) -> float | None:
    """Return how long the other side wants to be left alone, as far as the error tells."""
    try:
        wish = finite(getattr(error, "retry_after", None))
    except BaseException:  # noqa: BLE001 - the user's property may raise anything: it is no wish
        return None
    return wish if wish is not None and wish >= 0 else None
