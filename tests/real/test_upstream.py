"""The faulty upstream itself: what it is told, what it records, and that it closes."""

import json
import socket
import sys
import urllib.error
import urllib.request

import pytest
import trio

from stagerun.http import HttpStatusError, open_client
from stagerun.testing.upstream import (
    Answer,
    Bomb,
    Busy,
    Hang,
    Line,
    black_holed_names,
    open_upstream,
    refused,
    upstream_in_thread,
)

pytestmark = pytest.mark.real


async def test_replies_come_one_after_the_other_and_the_last_one_stays() -> None:
    async with open_upstream() as upstream, open_client(total=5) as client:
        upstream.on("/a b", Busy(), Answer(1), lambda call: Answer(call.query))
        upstream.next(Answer(status=404))
        statuses = []
        for number in range(5):
            try:
                statuses.append((await client.get(upstream.url("/a b"), {"n": number})).json())
            except HttpStatusError as error:
                statuses.append(error.status)
        with pytest.raises(HttpStatusError, match="404"):
            await client.get(upstream.url("/elsewhere"))
    assert statuses == [404, 503, 1, "n=3", "n=4"]
    assert [call.path for call in upstream.calls] == ["/a b"] * 5 + ["/elsewhere"]
    assert all(call.ended is not None for call in upstream.calls)


async def test_a_path_without_a_reply_is_refused() -> None:
    async with open_upstream() as upstream:
        with pytest.raises(ValueError, match="at least one reply"):
            upstream.on("/")


async def test_a_request_s_body_is_kept_whole_or_in_chunks() -> None:
    chunks = b"2\r\nin\r\n3;x=y\r\n tw\r\n1\r\no\r\n0\r\nTrailer: one\r\n\r\n"
    async with open_upstream() as upstream:
        upstream.on("/", Answer("taken"))
        port = int(upstream.url("").rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for request in (
                b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nwhole",
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
                b"GET / HTTP/1.1\r\n\r\n",
            ):
                await stream.send_all(request)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [call.body for call in upstream.calls] == [b"whole", b"in two", b""]
    assert {call.connection for call in upstream.calls} == {1}


async def test_one_can_wait_for_a_request_that_hangs() -> None:
    async with open_upstream() as upstream, trio.open_nursery() as nursery:
        upstream.on("/", Hang())
        async with open_client(total=30) as client:
            nursery.start_soon(client.get, upstream.url())
            with trio.fail_after(10):
                await upstream.asked()
            assert upstream.calls[0].ended is None
            nursery.cancel_scope.cancel()


async def test_a_class_of_one_s_own_is_a_reply() -> None:
    class Twice:
        async def play(self, line: Line) -> None:
            await line.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 2)
            await Answer("at last").play(line)

    async with open_upstream() as upstream, open_client(total=5) as client:
        upstream.on("/", Twice())
        assert (await client.get(upstream.url())).json() == "at last"


@pytest.mark.parametrize("size", [0, 2**20, 3 * 2**20 + 17])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_well_made(size: int, encoding: str) -> None:
    bomb = Bomb(size, "gzip" if encoding == "gzip" else "deflate")
    async with open_upstream() as upstream, open_client(total=10) as client:
        upstream.on("/", bomb)
        assert (await client.get(upstream.url())).content == bytes(size)


def test_plain_programs_ask_it_in_its_thread() -> None:
    with upstream_in_thread() as upstream:
        upstream.on("/", Busy("7"), Answer({"fine": True}))
        with pytest.raises(urllib.error.HTTPError) as busy:
            urllib.request.urlopen(upstream.url())
        with busy.value as error:
            assert (error.code, error.headers["Retry-After"]) == (503, "7")
        with urllib.request.urlopen(upstream.url()) as answer:
            assert json.load(answer) == {"fine": True}
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(upstream.url())
    assert len(upstream.calls) == 2


def test_its_thread_ends_when_the_program_fails() -> None:
    with pytest.raises(ZeroDivisionError), upstream_in_thread():
        _ = 1 / 0


def test_a_missing_trustme_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ImportError, match="pip install trustme"), upstream_in_thread("good"):
        pass


def test_look_ups_fail_when_they_have_hung_for_long_enough() -> None:
    with black_holed_names("example.org", longest=0.01) as asked:
        for name in ("example.org", "a.example.org"):
            with pytest.raises(socket.gaierror, match=name):
                socket.getaddrinfo(name, 80)
        socket.getaddrinfo("127.0.0.1", 80)
        socket.getaddrinfo("localhost", 80)
    assert asked == ["example.org", "a.example.org"]


def test_a_refused_port_is_refused() -> None:
    with refused() as url, pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(url)
