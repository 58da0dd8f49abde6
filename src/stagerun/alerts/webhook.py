"""Alerts over HTTP: as JSON to any address, signed; and as Slack and what is like it takes them.

The address of a webhook is often a secret itself, so it is in no error and in no log line.
"""

import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from attrs import field, frozen

from stagerun.errors import DeliveryError, UsageError
from stagerun.model.alert import Alert

__all__ = ["Slack", "Webhook", "signature"]

_TOTAL: Final = 60.0
"""Seconds for a call: only a bound, since the deadline of the alerts comes sooner."""
_MOST: Final = 64 * 2**10
"""Bytes of an answer: nobody reads them."""


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what ``Stagerun-Signature`` must be: HMAC-SHA256 over timestamp, a dot, and body."""
    signed = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _address(_owner: Any, _attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or not value.startswith(("https://", "http://")):
        raise UsageError("the address of a webhook must begin with https:// or http://")


def _secret(_owner: Any, _attribute: Any, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError("the secret of a webhook must be text that is not empty: is it set?")


def _headers(_owner: Any, _attribute: Any, value: Any) -> None:
    """Refuse what cannot be sent now, without showing it: later an error would."""
    if not isinstance(value, Mapping):
        raise UsageError("the headers of a webhook must be a mapping of text to text")
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise UsageError("a header of a webhook has a name that cannot be sent")
        if not isinstance(text, str) or not re.fullmatch(r"[!-~]([ -~]*[!-~])?", text):
            raise UsageError(
                f"the header {name} of a webhook has a value that cannot be sent: it must be text"
                " in ASCII, without a line's end or space around it"
            )


@frozen
class Webhook:
    """Posts alerts as JSON. Whatever answers with 2xx has taken them.

    Args:
        url: The address. It is never shown.
        secret: What the other side knows as well; with it requests are signed, see ``signature``.
        headers: More headers, for example one that lets the request in. Never shown.
        name: Tells it from other sinks.
    """

    url: str = field(repr=False, validator=_address)
    secret: str | None = field(kw_only=True, default=None, repr=False, validator=_secret)
    headers: Mapping[str, str] = field(kw_only=True, factory=dict, repr=False, validator=_headers)
    name: str = field(kw_only=True, default="webhook")

    async def deliver(self, alert: Alert) -> None:
        """See ``Sink``."""
        body, timestamp = json.dumps(alert.document()).encode(), str(int(time.time()))
        headers = {"Stagerun-Alert": alert.id, "Stagerun-Timestamp": timestamp, **self.headers}
        if self.secret is not None:
            headers["Stagerun-Signature"] = signature(self.secret, timestamp, body)
        await _post(self.url, body, headers)


@frozen
class Slack:
    """Posts alerts to an incoming webhook of Slack's, or of what takes its payload.

    Args:
        url: The address that Slack has given. It is never shown.
        name: Tells it from other sinks.
    """

    url: str = field(repr=False, validator=_address)
    name: str = field(kw_only=True, default="slack")

    async def deliver(self, alert: Alert) -> None:
        """See ``Sink``."""
        run = "" if alert.run is None else f"\nrun `{alert.run.get('id')}`"
        text = f"*{_escaped(alert.rule)}*: {_escaped(alert.summary)}{run}"
        await _post(self.url, json.dumps({"text": text}).encode(), {"Stagerun-Alert": alert.id})


def _escaped(text: str) -> str:
    """Take Slack's own marks out of a text: nobody is to be called by what an item says."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    from stagerun import http  # noqa: PLC0415 - httpx is loaded when first needed

    sent = {"Content-Type": "application/json", **headers}
    token = _DISCREET.set(True)
    try:
        async with http.open_client(total=_TOTAL, max_bytes=_MOST, headers=sent) as client:
            answer = await client.post(url, content=body)
    except http.HttpError as error:
        words = str(error).replace(error.url, "to the webhook")
        # Not as its cause: that one's text has the address.
        raise DeliveryError(words, retry_after=error.retry_after) from None
    finally:
        _DISCREET.reset(token)
    if not 200 <= answer.status < 300:
        raise DeliveryError(f"the webhook answered {answer.status}: is its address still right?")


_DISCREET: Final = ContextVar("_DISCREET", default=False)


def _may_be_said(_record: logging.LogRecord) -> bool:
    return not _DISCREET.get()


logging.getLogger("httpx").addFilter(_may_be_said)  # it logs each request with its whole address
