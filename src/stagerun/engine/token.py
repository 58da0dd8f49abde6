"""The cancellation token: a request to stop that can be seen from anywhere, threads included."""

import threading
import weakref
from collections.abc import Callable

import trio

from stagerun.errors import CancelRequested

__all__ = ["CancellationToken"]


class CancellationToken:
    """A request to stop, with its reason. Thread-safe; cancelled once, for good.

    A run's token reaches every stage as ``ctx.token``. Code that looks at it stops by itself within
    the pipeline's grace; after that its cancel scope is cancelled. A host may hand its own token to
    ``start(..., token=)``.

    Args:
        linked: Tokens whose cancellation cancels this one too.
    """

    def __init__(self, *linked: "CancellationToken") -> None:
        # Reentrant: the garbage collector may unlink a follower while this thread holds it.
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._callbacks: dict[object, Callable[[], None]] = {}
        for parent in linked:
            parent._link(weakref.WeakMethod(self._follow))  # noqa: SLF001 - a token like this one

    @property
    def cancelled(self) -> bool:
        """Whether to stop."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why to stop; None while there is no need to."""
        return self._reason

    def cancel(self, reason: str = "cancelled") -> bool:
        """Ask everybody to stop; return whether this call was the first.

        Callbacks run in this thread. When some raise, the others are called all the same, and the
        errors are raised together afterwards.
        """
        with self._lock:
            if self._reason is not None:
                return False
            self._reason = reason
            callbacks, self._callbacks = self._callbacks, {}
        errors = []
        for callback in callbacks.values():
            try:
                callback()
            except BaseException as error:  # noqa: BLE001 - raised below, with the others
                errors.append(error)
        if errors:
            raise BaseExceptionGroup("callbacks of a cancellation token raised", errors)
        return True

    def raise_if_cancelled(self) -> None:
        """Raise ``CancelRequested`` if it is time to stop."""
        if self._reason is not None:
            raise CancelRequested(self._reason)

    async def wait(self) -> str:
        """Wait in trio until the token is cancelled; return the reason."""
        woken, host = trio.Event(), trio.lowlevel.current_trio_token()

        def wake() -> None:
            try:
                host.run_sync_soon(woken.set)
            except trio.RunFinishedError:
                return  # whoever waited is gone with its event loop

        remove = self.add_callback(wake)
        try:
            await woken.wait()
        finally:
            remove()
        return self._reason or ""

    def add_callback(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have *callback* called at cancellation, at once if that has been; return its removal.

        It runs in the thread that cancels, must not block, and may be called from any thread.
        """
        ticket = object()
        with self._lock:
            if self._reason is None:
                self._callbacks[ticket] = callback
                return lambda: self._remove(ticket)
        callback()
        return lambda: None

    def _remove(self, ticket: object) -> None:
        with self._lock:
            self._callbacks.pop(ticket, None)

    def _link(self, follow: "weakref.WeakMethod[Callable[[CancellationToken], None]]") -> None:
        """Cancel a linked token with this one, as long as somebody holds it."""

        def forward() -> None:
            method = follow()
            if method is not None:
                method(self)

        remove = self.add_callback(forward)
        owner = follow()
        if owner is not None:
            weakref.finalize(owner.__self__, remove)  # type: ignore[attr-defined]  # a bound method

    def _follow(self, parent: "CancellationToken") -> None:
        self.cancel(parent.reason or "cancelled")
