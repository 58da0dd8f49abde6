"""Alerts by mail, through any server that speaks SMTP."""

import smtplib
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Any, Final, Literal

from attrs import field, frozen, validators

from stagerun.errors import DeliveryError, PolicyError, UsageError
from stagerun.logs import RunLog
from stagerun.model.alert import Alert
from stagerun.model.policy import number, whole

__all__ = ["Mail"]

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_SUBJECT: Final = 150
"""Characters of the summary in a subject."""


def _addresses(given: Any) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given)
    if not found or not all(isinstance(each, str) and _is_address(each) for each in found):
        raise UsageError(f"Mail takes addresses such as ops@example.org, got {given!r}")
    return found


def _is_address(text: str) -> bool:
    name, at, host = text.rpartition("@")
    return bool(name and at and host) and text.isprintable() and not set(text) & set(" ,;<>")


def _sender(_owner: Any, _attribute: Any, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and "@" in value and value.isprintable()):
        raise UsageError(f"the sender of mails is an address, got {value!r}")


@frozen
class Mail:
    """Sends each alert as a mail. It may block: it is called in a thread of its own.

    Args:
        to: One address, or several.
        host: The server that takes mails.
        port: Its port; 587 with ``starttls`` and 465 with ``tls`` are usual.
        sender: From whom; None: ``stagerun@`` and the name of this machine.
        security: ``none``, ``starttls`` or ``tls``. A certificate must be in order.
        username: For servers that ask who sends; with a password, which is never shown.
        password: Needs ``starttls`` or ``tls``, unless the server is on this machine.
        timeout: Seconds for each step of the talk; the deadline of the alerts is for all of it.
        name: Tells it from other sinks.
    """

    to: Sequence[str] = field(converter=_addresses)
    host: str = field(kw_only=True, default="localhost")
    port: int = field(kw_only=True, default=25, validator=whole())
    sender: str | None = field(kw_only=True, default=None, validator=_sender)
    security: Literal["none", "starttls", "tls"] = field(
        kw_only=True, default="none", validator=validators.in_(("none", "starttls", "tls"))
    )
    username: str | None = field(kw_only=True, default=None)
    password: str | None = field(kw_only=True, default=None, repr=False)
    timeout: float = field(kw_only=True, default=10.0, validator=number())
    name: str = field(kw_only=True, default="mail")

    def __attrs_post_init__(self) -> None:
        clear = self.security == "none" and self.host not in _LOOPBACK
        if self.password is not None and clear:
            raise PolicyError(
                "Mail.security", "must be 'starttls' or 'tls': the password would travel in clear"
            )

    def deliver(self, alert: Alert) -> None:
        """See ``Sink``."""
        try:
            with self._connected() as server:
                refused = server.send_message(self._message(alert), to_addrs=[*self.to])
        except (smtplib.SMTPException, OSError) as error:
            raise DeliveryError(f"{self.host}:{self.port}: {_said(error)}") from None
        if refused:  # those who are not may not get it again and again
            RunLog().warning("alert %s: %s refuses %s", alert.id, self.host, ", ".join(refused))

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls":
            context = ssl.create_default_context()
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self.host, self.port, timeout=self.timeout, context=context
            )
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        try:
            if self.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if self.username is not None:
                server.login(self.username, self.password or "")
        except BaseException:
            server.close()
            raise
        return server

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[{alert.alerts}] {_one_line(alert.summary)[:_SUBJECT]}"
        message["From"] = self.sender or f"stagerun@{socket.gethostname()}"
        message["To"] = ", ".join(self.to)
        message["Date"] = alert.raised_at
        message["Message-ID"] = f"<{alert.id}@stagerun>"  # the same when it comes twice
        message["Stagerun-Alert"] = alert.id
        message.set_content("\n".join(_lines(alert)))
        return message


def _lines(alert: Alert) -> list[str]:
    """Return the text of a mail: what is to be known, a line for each fact."""
    facts: dict[str, Any] = {"rule": alert.rule, "raised at": alert.raised_at.isoformat()}
    if alert.run is not None:
        facts |= alert.run
        facts["next"] = f"stagerun why {alert.run.get('id')}"
    told = {name: value for name, value in facts.items() if value not in (None, "", {})}
    width = max(map(len, told), default=0)
    lines = [f"{name:<{width}}  {_one_line(str(value))}" for name, value in told.items()]
    return [alert.summary, "", *lines]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _said(error: Exception) -> str:
    """Say what a server has answered; without what it was asked, which may be a password."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            return f"all recipients are refused: {', '.join(error.recipients)}"
        case smtplib.SMTPResponseException():
            reply = error.smtp_error
            text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
            return f"answered {error.smtp_code} {_one_line(text)}"
    return _one_line(str(error)) or type(error).__name__
