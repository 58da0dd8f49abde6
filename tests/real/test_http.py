"""`stagerun.http` against servers on loopback that do what real ones do on bad days."""

import gzip
import json
import math
import socket
import ssl
import struct
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from stagerun.http import (
    PHASE,
    HttpConnectionError,
    HttpError,
    HttpStatusError,
    HttpTimeout,
    HttpTooLarge,
    Phase,
    open_client,
)

pytestmark = pytest.mark.real

Answer = Callable[[trio.SocketStream, bytes], Awaitable[None]]


async def test_an_answer_comes_back_whole() -> None:
    body = json.dumps({"records": list(range(1000))}).encode()
    async with serving(plain(body, "X-Kind: good")) as url, open_client(url, total=5) as client:
        answer = await client.get("/page", {"page": 3, "size": 250})
    assert answer.json() == {"records": list(range(1000))}
    assert (answer.status, answer.headers["x-kind"]) == (200, "good")
    assert answer.url == f"{url}/page"


async def test_what_is_sent_is_what_was_asked_for() -> None:
    async def echo(stream: trio.SocketStream, request: bytes) -> None:
        while request.startswith(b"POST") and not request.endswith(b"}"):
            request += await stream.receive_some()
        await plain(request)(stream, request)

    async with serving(echo) as url, open_client(url, headers={"accept-ENCODING": "br"}) as client:
        got = (await client.get("/page", {"page": 3})).content.decode()
        sent = (await client.post("/runs", json={"a": [1, None]})).content.decode()
    assert got.startswith("GET /page?page=3 HTTP/1.1\r\n")
    assert "\r\nAccept-Encoding: gzip, deflate\r\n" in got
    assert got.lower().count("accept-encoding") == 1
    assert sent.startswith("POST /runs HTTP/1.1\r\n")
    assert json.loads(sent.partition("\r\n\r\n")[2]) == {"a": [1, None]}


async def test_connections_are_shared_and_redirects_are_not_followed() -> None:
    served = trio.lowlevel.current_task  # a handler's task is its connection
    tasks = set()

    async def moved(stream: trio.SocketStream, _: bytes) -> None:
        tasks.add(served())
        await stream.send_all(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")

    async with serving(moved) as url, open_client(url, total=5) as client:
        for _ in range(3):
            assert (await client.get("/a")).status == 302
    assert len(tasks) == 1


async def never_answers(_: trio.SocketStream, __: bytes) -> None:
    await trio.sleep_forever()


def drips(data: bytes, *, after: bytes = b"") -> Answer:
    async def answer(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(after)
        for byte in data:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.02)

    return answer


async def continues_for_ever(stream: trio.SocketStream, _: bytes) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "phase"),
    [
        (never_answers, "read-header"),
        (drips(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 99), "read-header"),
        (continues_for_ever, "read-header"),
        (drips(b"x" * 99, after=b"HTTP/1.1 200 OK\r\n\r\n"), "read-body"),
    ],
    ids=["never-answers", "drips-header", "continues-for-ever", "drips-body"],
)
async def test_a_call_ends_in_time_and_tells_its_phase(answer: Answer, phase: Phase) -> None:
    async with serving(answer) as url, open_client(url, total=0.2) as client:
        with pytest.raises(HttpTimeout) as caught:
            await client.get("/slow?token=secret")
    error = caught.value
    assert (error.phase, error.limit, error.url) == (phase, 0.2, f"{url}/slow")
    assert 0.2 <= error.spent < 2
    assert error.retry_after is None
    assert PHASE.get() is None


async def test_a_peer_that_does_not_read_is_given_up_in_phase_write() -> None:
    async with serving(never_answers) as url, open_client(url, total=0.3) as client:
        with pytest.raises(HttpTimeout) as caught:
            await client.post("/", json="x" * (16 * 2**20))
    assert caught.value.phase == "write"


async def test_a_full_backlog_is_given_up_in_phase_connect() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for taken in (first, second):  # Linux keeps backlog + 1 connections, then answers no SYN
            taken.setblocking(False)
            with suppress(BlockingIOError):
                taken.connect(full.getsockname())
        async with open_client(address(full), total=0.2) as client:
            with pytest.raises(HttpTimeout) as caught:
                await client.get("/")
    assert caught.value.phase == "connect"


async def test_a_closed_port_is_refused_in_phase_connect() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with open_client(address(closed), total=5) as client:
            with pytest.raises(HttpConnectionError) as caught:
                await client.get("/")
    assert caught.value.phase == "connect"


def sends_and_resets(data: bytes) -> Answer:
    async def answer(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(data)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    return answer


def sends_and_closes(data: bytes) -> Answer:
    async def answer(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(data)
        await stream.aclose()

    return answer


@pytest.mark.parametrize(
    ("answer", "phase"),
    [
        (sends_and_resets(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"), "read-body"),
        (sends_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"), "read-body"),
        (sends_and_closes(b"HTTP/1.1 200 OK\r\nX-Cut"), "read-header"),
        (sends_and_closes(b""), "read-header"),
        (sends_and_closes(b"220 smtp.example ESMTP\r\n\r\n"), "read-header"),
        (sends_and_closes(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99_999), "read-header"),
    ],
    ids=["reset", "cut", "cut-header", "closed", "garbage", "endless-header"],
)
async def test_a_broken_exchange_is_one_kind_of_error(answer: Answer, phase: Phase) -> None:
    async with serving(answer) as url, open_client(url, total=5) as client:
        with pytest.raises(HttpConnectionError) as caught:
            await client.get("/")
    assert caught.value.phase == phase
    assert caught.value.reason in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Encoding: gzip", gzip.compress(b"page" * 10**6)),
        ("Content-Encoding: deflate", zlib.compress(b"page" * 10**6)),
        ("Content-Encoding: Identity", b"page" * 10**6),
        ("X-Plain: yes", b"page" * 10**6),
    ],
    ids=["gzip", "deflate", "identity", "plain"],
)
async def test_a_body_is_decoded_up_to_exactly_its_limit(head: str, body: bytes) -> None:
    async with serving(plain(body, head)) as url:
        async with open_client(url, total=10, max_bytes=4 * 10**6) as client:
            assert (await client.get("/")).content == b"page" * 10**6
        async with open_client(url, total=10, max_bytes=4 * 10**6 - 1) as client:
            with pytest.raises(HttpTooLarge) as caught:
                await client.get("/")
    assert (caught.value.limit, caught.value.phase) == (4 * 10**6 - 1, "read-body")


async def test_a_gzip_bomb_is_cut_before_it_fills_the_memory() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 2**17
    answer = plain(bomb, "Content-Encoding: gzip")
    async with serving(answer) as url, open_client(url, total=10, max_bytes=2**20) as client:
        tracemalloc.start()
        try:
            with pytest.raises(HttpTooLarge):
                await client.get("/")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * 2**20


async def test_an_endless_body_is_cut() -> None:
    async def endless(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(bytes(2**16))

    async with serving(endless) as url, open_client(url, total=10, max_bytes=2**20) as client:
        with pytest.raises(HttpTooLarge):
            await client.get("/")


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("gzip", b"not gzip at all", "incorrect header"),
        ("gzip", gzip.compress(b"page")[:-4], "ends early"),
        ("gzip", gzip.compress(b"page") * 2, "more bytes follow"),
        ("br", b"????", "nobody asked for"),
    ],
    ids=["garbage", "cut", "doubled", "brotli"],
)
async def test_a_body_that_cannot_be_decoded_is_an_error(
    encoding: str, body: bytes, reason: str
) -> None:
    answer = plain(body, f"Content-Encoding: {encoding}")
    async with serving(answer) as url, open_client(url, total=5) as client:
        with pytest.raises(HttpConnectionError, match=reason):
            await client.get("/")


async def test_an_empty_body_needs_no_encoding() -> None:
    async with serving(plain(b"", "Content-Encoding: gzip")) as url, open_client(url) as client:
        assert (await client.get("/")).content == b""


@pytest.mark.parametrize(
    ("status", "head", "retry_after"),
    [
        (503, "Retry-After: 7", 7.0),
        (429, "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (500, "Retry-After: whenever", None),
        (404, "X-No-Wish: at all", None),
    ],
)
async def test_a_bad_status_carries_what_the_peer_wishes(
    status: int, head: str, retry_after: float | None
) -> None:
    answer = plain(b'{"error": "why"}', head, status=status)
    async with serving(answer) as url, open_client(url, total=5) as client:
        with pytest.raises(HttpStatusError) as caught:
            await client.get("/?key=secret")
    error: HttpError = caught.value
    assert (caught.value.status, error.retry_after) == (status, retry_after)
    assert caught.value.content == b'{"error": "why"}'
    assert error.url == f"{url}/"


async def test_a_date_far_away_is_handed_on_as_it_is() -> None:
    answer = plain(b"", "Retry-After: Fri, 31 Dec 2199 23:59:59 GMT", status=503)
    async with serving(answer) as url, open_client(url, total=5) as client:
        with pytest.raises(HttpStatusError) as caught:
            await client.get("/")
    assert caught.value.retry_after is not None
    assert 10**9 < caught.value.retry_after < math.inf


async def test_no_secret_of_the_url_is_shown() -> None:
    async with serving(plain(b"", status=500)) as url, open_client(total=5) as client:
        with pytest.raises(HttpStatusError) as caught:
            await client.get(f"{url.replace('//', '//user:secret@')}/a/b@c?token=secret#secret")
    assert caught.value.url == f"{url}/a/b@c"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("begin", "phase"),
    [(b"", "read-header"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", "read-body")],
    ids=["header", "body"],
)
async def test_a_cut_from_outside_passes_through_and_leaves_the_phase(
    begin: bytes, phase: Phase
) -> None:
    arrived = trio.Event()

    async def arrives(stream: trio.SocketStream, request: bytes) -> None:
        await stream.send_all(begin)
        arrived.set()
        await never_answers(stream, request)

    async with serving(arrives) as url, open_client(url, total=30) as client:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cut() -> None:
                await arrived.wait()
                await wait_all_tasks_blocked()
                attempt.cancel()

            with trio.CancelScope() as attempt:
                await client.get("/")
            assert attempt.cancelled_caught
            assert PHASE.get() == phase
        PHASE.set(None)


async def test_one_hung_call_does_not_disturb_the_others() -> None:
    async def moody(stream: trio.SocketStream, request: bytes) -> None:
        if request.startswith(b"GET /hang"):
            await never_answers(stream, request)
        await plain(b"good")(stream, request)

    async with serving(moody) as url, open_client(url, total=0.7) as client:
        statuses: dict[str, int | str] = {}

        async def call(path: str) -> None:
            try:
                statuses[path] = (await client.get(path)).status
            except HttpTimeout as error:
                statuses[path] = error.phase

        async with trio.open_nursery() as nursery:
            for number in range(120):  # more than a pool's usual 100
                path = f"/hang/{number}" if number < 110 else f"/good/{number}"
                nursery.start_soon(call, path)
    assert list(statuses.values()).count("read-header") == 110
    assert list(statuses.values()).count(200) == 10


def plain(body: bytes, *head: str, status: int = 200) -> Answer:
    async def answer(stream: trio.SocketStream, _: bytes) -> None:
        lines = (f"HTTP/1.1 {status} Some", f"Content-Length: {len(body)}", *head, "", "")
        await stream.send_all("\r\n".join(lines).encode() + body)

    return answer


@asynccontextmanager
async def serving(answer: Answer) -> AsyncGenerator[str]:
    async def talk(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while request := await stream.receive_some():
                await answer(stream, request)

    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, talk, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(listen)
        yield address(listeners[0].socket)
        nursery.cancel_scope.cancel()


def address(bound: socket.socket | trio.socket.SocketType) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_a_bad_certificate_is_called_by_its_name(tmp_path: Path) -> None:
    made = await trio.run_process(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
         "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")],
        capture_stderr=True,
    )  # fmt: skip
    assert made.returncode == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with trio.open_nursery() as nursery:
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listeners = [trio.SSLListener(tcp, context)]

        async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
            with suppress(trio.BrokenResourceError):
                await stream.do_handshake()

        nursery.start_soon(trio.serve_listeners, answer, listeners)
        port = tcp.socket.getsockname()[1]
        async with open_client(f"https://127.0.0.1:{port}", total=20) as client:
            with pytest.raises(HttpConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get("/")
        nursery.cancel_scope.cancel()
