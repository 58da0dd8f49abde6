"""What upstreams do to the campaign's pipelines, and what each call must come to."""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from stagerun.testing.upstream import (
    Answer,
    Bomb,
    Busy,
    Close,
    DripBody,
    DripHeader,
    Endless,
    EndlessContinue,
    EndlessHeader,
    Garbage,
    Hang,
    LengthAndChunks,
    Redirect,
    Reply,
    Reset,
    Stale,
    Unread,
    WrongLength,
)

__all__ = ["FAULTS", "GOOD", "PLACES", "Fault", "Item", "filled"]


@frozen
class Fault:
    """Something that may be met, and what a call that meets it must come to."""

    name: str
    reply: Reply
    error: str | None
    """The error's class; None: an answer."""
    again: bool = True
    """Whether another try is worth it."""

    @property
    def slow(self) -> bool:
        return self.error == "HttpTimeout"


FAULTS: Final = (
    Fault("hang", Hang(), "HttpTimeout"),
    Fault("drip header", DripHeader(every=0.02), "HttpTimeout"),
    Fault("drip body", DripBody(every=0.02), "HttpTimeout"),
    Fault("drip body of known length", DripBody(every=0.02, length=9999), "HttpTimeout"),
    Fault("continue for ever", EndlessContinue(every=0.01), "HttpTimeout"),
    Fault("body unread", Unread(), "HttpTimeout"),
    Fault("reset", Reset(), "HttpConnectionError"),
    Fault("reset in body", Reset(after_bytes=5000), "HttpConnectionError"),
    Fault("close", Close(), "HttpConnectionError"),
    Fault("close in body", Close(after_bytes=5000), "HttpConnectionError"),
    Fault("length too great", WrongLength(by=9), "HttpConnectionError"),
    Fault("busy", Busy(), "HttpStatusError"),
    Fault("busy, rest 0.1", Busy("0.1"), "HttpStatusError"),
    Fault("busy, rest -1", Busy("-1", status=429), "HttpStatusError"),
    Fault("busy, rest nonsense", Busy("nonsense"), "HttpStatusError"),
    Fault("busy, rest 1e400", Busy("1e400"), "HttpStatusError"),
    Fault("busy, rest until 2099", Busy("Wed, 21 Oct 2099 07:28:00 GMT"), "HttpStatusError", False),
    Fault("not found", Answer(status=404), "HttpStatusError", False),
    Fault("endless body", Endless(), "HttpTooLarge", False),
    Fault("5 GB announced", Endless(length=5 * 10**9), "HttpTooLarge", False),
    Fault("twice as much as may be", Endless(length=2**21), "HttpTooLarge", False),
    Fault("small bomb", Bomb(decoded=2**21), "HttpTooLarge", False),
    Fault("gzip bomb", Bomb(), "HttpTooLarge", False),
    Fault("deflate bomb", Bomb(encoding="deflate"), "HttpTooLarge", False),
    Fault("endless header", EndlessHeader(), "HttpProtocolError", False),
    Fault("garbage", Garbage(b"220 smtp.example ESMTP\r\n\r\n"), "HttpProtocolError", False),
    Fault("HTTP/0.9", Garbage(), "HttpProtocolError", False),
    Fault("length and chunks", LengthAndChunks(), "HttpProtocolError", False),
    Fault("redirect to file", Redirect("file:///etc/passwd"), None),
    Fault("redirect to metadata", Redirect("http://169.254.169.254/"), None),
    Fault("length too small", WrongLength(by=-9), None),
)
GOOD: Final = (
    Fault("good", Answer(), None),
    Fault("good, then closed", Answer(closes=True), None),
    Fault("stale when kept", Stale(Answer()), None),
)
"""Their answer is filled in: it names its item."""
PLACES: Final[Mapping[str, tuple[str, bool]]] = {
    "expired": ("HttpCertificateError", False),
    "wrong_host": ("HttpCertificateError", False),
    "unknown_ca": ("HttpCertificateError", False),
    "hang": ("HttpTimeout", True),
    "eof": ("HttpConnectionError", True),
    "refused": ("HttpConnectionError", True),
    "black hole": ("HttpTimeout", True),
    "no name server": ("HttpTimeout", True),
}
"""Where there is nobody to talk to: the error of each call, and whether it is tried again."""


@frozen
class Item:
    """What is asked for, and what is to be met there."""

    path: str
    url: str
    script: tuple[Fault, ...]
    """Met one after the other; the last one stays. Empty at a place without anybody."""
    place: str | None = None

    @property
    def posts(self) -> bool:
        return any(isinstance(fault.reply, Unread) for fault in self.script)


def filled(reply: Reply, path: str) -> Reply:
    if isinstance(reply, Stale):
        return Stale(filled(reply.answer, path))
    if isinstance(reply, Answer) and reply.status == 200:
        return Answer({"of": path}, closes=reply.closes)
    return reply
