"""Upstreams that misbehave on demand: a server on loopback that answers badly, or not at all.

    async with open_upstream() as upstream:
        upstream.on("/pages/3", Busy(retry_after="2"), Answer(json={"page": 3}))
        ...                                  # the program under test asks upstream.url("/pages/3")
        assert [call.path for call in upstream.calls] == ["/pages/3", "/pages/3"]

What the server does is a value, a *reply*; there is one for each way in which real upstreams have
failed. What fails before there is a server to speak of stands in `refused`, `black_hole` and
`black_holed_names`. `upstream_in_thread` is the same server for programs that are not trio's.

All of it is real: sockets, bytes and time. It does not go with a mock clock.
"""

from stagerun.testing.upstream.line import Call, Line
from stagerun.testing.upstream.replies import (
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
from stagerun.testing.upstream.server import TLS, Upstream, open_upstream
from stagerun.testing.upstream.thread import upstream_in_thread
from stagerun.testing.upstream.unreachable import black_hole, black_holed_names, refused

__all__ = [
    "TLS",
    "Answer",
    "Bomb",
    "Busy",
    "Call",
    "Close",
    "DripBody",
    "DripHeader",
    "Endless",
    "EndlessContinue",
    "EndlessHeader",
    "Garbage",
    "Hang",
    "LengthAndChunks",
    "Line",
    "Redirect",
    "Reply",
    "Reset",
    "Stale",
    "Unread",
    "Upstream",
    "WrongLength",
    "black_hole",
    "black_holed_names",
    "open_upstream",
    "refused",
    "upstream_in_thread",
]
