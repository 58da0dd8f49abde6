"""Look-ups of host names that hang: they starve nobody else."""

import socket
import threading
from typing import Any

import pytest
import trio

from stagerun.http import HttpTimeout, open_client
from stagerun.names import apart

pytestmark = pytest.mark.real


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A name server that answers no question about ``*.example``."""
    release, asked = threading.Event(), []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any) -> Any:
        numeric = bool(arguments and arguments[-1] & socket.AI_NUMERICHOST)  # asks nobody
        if b".example" in (host if isinstance(host, bytes) else str(host).encode()) and not numeric:
            asked.append(host)
            release.wait(20)
            raise socket.gaierror("gone")
        return real(host, *arguments)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    release.set()


async def test_forty_look_ups_that_hang_leave_everybody_else_their_threads(black_hole: Any) -> None:
    async def call(number: int) -> None:
        with pytest.raises(HttpTimeout):
            await client.get(f"http://host{number}.example/")

    limiter = trio.to_thread.current_default_thread_limiter()
    async with open_client(total=0.5) as client, trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(call, number)
        with trio.fail_after(10):
            while len(black_hole) < 8:  # noqa: ASYNC110 - counted by threads
                await trio.sleep(0.01)
        assert limiter.borrowed_tokens == 0
        assert await trio.to_thread.run_sync(lambda: "free") == "free"
    assert len(black_hole) == 8


async def test_others_look_names_up_as_if_nothing_were_there(black_hole: Any) -> None:
    with apart():
        pass
    await trio.socket.getaddrinfo("localhost", 80)
    limiter = trio.to_thread.current_default_thread_limiter()
    with trio.move_on_after(0.1):
        await trio.socket.getaddrinfo("host.example", 80)
    assert (len(black_hole), limiter.borrowed_tokens) == (1, 1)


async def test_somebody_else_s_resolver_stays_where_it_is() -> None:
    class Fixed(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_arguments: Any) -> Any:
            return ["fixed"]

        async def getnameinfo(self, *_arguments: Any) -> Any:
            return ("fixed", "0")

    theirs = Fixed()
    trio.socket.set_custom_hostname_resolver(theirs)
    with apart():
        assert await trio.socket.getaddrinfo("host.example", 80) == ["fixed"]  # type: ignore[comparison-overlap]  # what it gives is not looked at
    assert trio.socket.set_custom_hostname_resolver(None) is theirs
