"""How far a call has come, heard from httpcore step by step."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

from attrs import define

from stagerun.phase import PHASE

__all__ = ["Phase", "Steps"]


Phase = Literal["connect", "write", "read-header", "read-body"]
"""How far a call has come. `connect` includes the look-up of the name and the TLS handshake."""


@define
class Steps:
    """How far one call has come; a context manager that publishes it as `PHASE`."""

    method: str
    url: str
    phase: Phase = "connect"
    retry_after: float | None = None
    kept: bool = True
    """Whether it goes over a connection that was kept from an earlier call."""
    _connected: Any = None

    @property
    def where(self) -> tuple[str, str, Phase, float | None]:
        return self.method, self.url, self.phase, self.retry_after

    @property
    def repeatable(self) -> bool:
        """Whether it may have failed because the peer had closed a kept connection meanwhile.

        Then nobody has to hear of it, unless what was asked for must not be done twice.
        """
        return self.on_leftovers and self.method == "GET"

    @property
    def on_leftovers(self) -> bool:
        """Whether the connection may have been spoilt before: closed, or by too long an answer."""
        return self.kept and self.phase in {"write", "read-header"}

    def begin(self) -> None:
        """Be at the start, before the first step of another try."""
        self.phase, self.kept = "connect", True
        PHASE.set(self.phase)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        # A cancellation (or a group of them) leaves the phase for whoever cancelled.
        if kind is None or issubclass(kind, Exception):
            PHASE.set(None)

    async def trace(self, event: str, details: Mapping[str, Any]) -> None:
        """Hear from httpcore of every step, as `connection.connect_tcp.started`."""
        step, state = event.split(".")[-2:]
        if (step, state) == ("connect_tcp", "complete"):
            self._connected = details["return_value"]
        elif (step, state) == ("start_tls", "failed"):
            # When a handshake is cut, httpcore leaves its socket to the garbage collector.
            await self._connected.aclose()
        if state == "started" and step in _PHASE_OF_STEP:
            self.phase = _PHASE_OF_STEP[step]
            self.kept &= self.phase != "connect"
            PHASE.set(self.phase)


_PHASE_OF_STEP: Final[dict[str, Phase]] = {
    "connect_tcp": "connect",
    "start_tls": "connect",
    "send_request_headers": "write",
    "send_request_body": "write",
    "receive_response_headers": "read-header",
    "receive_response_body": "read-body",
}
