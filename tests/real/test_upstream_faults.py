"""Faulty upstreams, and what a pipeline makes of them: in time, by name, within the budget."""

import math
import random
import statistics
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from stagerun import Context, Pipeline, Retry, open_runtime, report, stage
from stagerun.http import (
    Client,
    open_client,
    worth_another_try,
)
from stagerun.store.opening import read_only
from stagerun.testing.upstream import (
    TLS,
    Answer,
    Bomb,
    Busy,
    Call,
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
    Upstream,
    WrongLength,
    black_hole,
    black_holed_names,
    open_upstream,
    refused,
    upstream_in_thread,
)
from tests.conftest import same_repr, sums_hold

pytestmark = pytest.mark.real

ASKED = 0.05
"""Seconds by which an item may end after its deadline."""
BORNE = 2.0
"""The same on a machine that does something else, too: what is more is a fault of ours."""
LARGE = bytes(16 * 2**20)
"""More than the kernels' buffers take from who does not read."""


@frozen
class Told:
    """What is on record of an item."""

    outcome: str
    attempts: int
    seconds: float
    cause: str | None
    error: str | None
    """The class alone."""


async def finish(folder: Path, declared: Any, items: Sequence[Any]) -> list[Told]:
    """Run a stage over items in a runtime of its own; return what is on record, item by item."""
    path = folder / "runs.db"
    with trio.fail_after(60):
        async with open_runtime(path) as runtime:
            run = await runtime.start(Pipeline("upstream", [declared]), items)
            result = await run.wait()
    connection = read_only(path)
    try:
        sums_hold(connection)
        rows = connection.execute(
            "SELECT o.outcome, o.attempts, o.seconds, o.cause, f.error FROM item_overview o"
            " LEFT JOIN failures f USING (item) WHERE o.run = ? ORDER BY o.item",
            (result.id,),
        ).fetchall()
    finally:
        connection.close()
    assert len(rows) == len(items)
    told = [
        Told(outcome, attempts, seconds, cause, error and error.rpartition(".")[2])
        for outcome, attempts, seconds, cause, error in rows
    ]
    good = any(each.outcome == "ok" for each in told)
    assert result.status == ("succeeded" if good else "failed"), result.message
    return told


def fetching(**options: Any) -> Any:
    """A stage that asks its item, an address; the client's options are those of `http_total`."""
    total = options.pop("total", math.inf)

    @stage(
        **{"workers": 20, "deadline": 30, "retry": Retry(attempts=1), **options},
        resource=lambda: open_client(total=total, max_bytes=2**20),
    )
    async def fetch(url: str, ctx: Context) -> str:
        return (await _ask(ctx.resource, url)).decode("latin-1")

    return fetch


async def _ask(client: Client, url: str) -> bytes:
    posts = "/post" in url
    answer = await (client.post(url, content=LARGE) if posts else client.get(url))
    return answer.content


@contextmanager
def trusting(authority: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        yield


# -- the total deadline holds ------------------------------------------------------------------

SLOW: dict[str, Reply] = {
    "never-answers": Hang(),
    "drips-header": DripHeader(every=0.02),
    "drips-body": DripBody(every=0.02),
    "drips-known-length": DripBody(every=0.02, length=10_000),
    "continues-for-ever": EndlessContinue(every=0.02),
    "does-not-read": Unread(),
}


@pytest.mark.parametrize("name", SLOW)
async def test_an_item_ends_at_its_deadline_whatever_the_upstream_does(
    name: str, tmp_path: Path
) -> None:
    path, items = ("/post", 5) if name == "does-not-read" else ("/", 20)
    async with open_upstream() as upstream:
        upstream.on(path, SLOW[name])
        told = await finish(tmp_path, fetching(deadline=0.3), [upstream.url(path)] * items)
        assert 0 < len(upstream.calls) <= items  # on a busy machine some were cut before they asked
        if name != "does-not-read":  # such a server hears of nothing
            await hung_up(upstream)
    _ends_in_time(told, 0.3)


@pytest.mark.parametrize("where", ["black-hole", "tls-hangs", "no-name-server"])
async def test_an_item_ends_at_its_deadline_when_there_is_nobody_to_talk_to(
    where: str, tmp_path: Path
) -> None:
    async with open_upstream("hang") as upstream:
        with black_hole() as hole, black_holed_names("example"):
            url = {
                "black-hole": hole,
                "tls-hangs": upstream.url(),
                "no-name-server": "http://host.example/",
            }[where]
            told = await finish(tmp_path, fetching(deadline=0.3), [url] * 20)
    _ends_in_time(told, 0.3)


async def hung_up(upstream: Upstream) -> None:
    """Wait until the server, still open, has seen each of its clients go."""
    with trio.fail_after(5):
        while any(call.ended is None for call in upstream.calls):  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)


def _ends_in_time(told: Iterable[Told], deadline: float) -> None:
    told = list(told)
    assert {(each.outcome, each.cause) for each in told} == {("timed_out", "deadline")}
    late = [each.seconds - deadline for each in told]
    print(f"late by at most {max(late) * 1000:.1f} ms")
    assert min(late) >= 0
    assert max(late) < BORNE, f"asked for {ASKED}, borne {BORNE}"


async def test_the_stage_s_own_limit_bounds_a_call_that_drips(tmp_path: Path) -> None:
    @stage(deadline=30, http_total=0.2, resource=open_client, retry=Retry(attempts=1))
    async def fetch(url: str, ctx: Context) -> bytes:
        return await _ask(ctx.resource, url)

    async with open_upstream() as upstream:
        upstream.on("/", DripBody(every=0.02))
        (told,) = await finish(tmp_path, fetch, [upstream.url()])
    assert (told.outcome, told.cause, told.error) == ("failed", "error", "HttpTimeout")
    assert 0.2 <= told.seconds < 0.2 + BORNE


# -- typed causes, and whether another try is worth it -----------------------------------------

TYPED: dict[str, tuple[Reply, str, int]] = {
    "hang": (Hang(), "HttpTimeout", 2),
    "drip-header": (DripHeader(every=0.02), "HttpTimeout", 2),
    "drip-body": (DripBody(every=0.02), "HttpTimeout", 2),
    "continue": (EndlessContinue(every=0.02), "HttpTimeout", 2),
    "continue-at-once": (EndlessContinue(), "HttpTimeout", 2),
    "unread": (Unread(), "HttpTimeout", 2),
    "reset": (Reset(), "HttpConnectionError", 2),
    "reset-in-body": (Reset(after_bytes=100), "HttpConnectionError", 2),
    "close": (Close(), "HttpConnectionError", 2),
    "close-in-body": (Close(after_bytes=100), "HttpConnectionError", 2),
    "length-too-great": (WrongLength(by=9), "HttpConnectionError", 2),
    "busy": (Busy(), "HttpStatusError", 2),
    "too-many": (Busy(status=429), "HttpStatusError", 2),
    "forbidden": (Answer(status=403), "HttpStatusError", 1),
    "not-implemented": (Answer(status=501), "HttpStatusError", 1),
    "endless": (Endless(), "HttpTooLarge", 1),
    "five-gigabytes": (Endless(length=5 * 10**9), "HttpTooLarge", 1),
    "gzip-bomb": (Bomb(), "HttpTooLarge", 1),
    "deflate-bomb": (Bomb(encoding="deflate"), "HttpTooLarge", 1),
    "header-for-ever": (EndlessHeader(), "HttpProtocolError", 1),
    "garbage": (Garbage(b"220 smtp.example ESMTP\r\n\r\n"), "HttpProtocolError", 1),
    "html-alone": (Garbage(), "HttpProtocolError", 1),
    "two-lengths": (
        Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
        "HttpProtocolError",
        1,
    ),
    "no-length": (
        Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}"),
        "HttpProtocolError",
        1,
    ),
    "length-and-chunks": (LengthAndChunks(), "HttpProtocolError", 1),
    "bad-chunk": (
        Garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nlots\r\n"),
        "HttpProtocolError",
        1,
    ),
    "not-gzip": (
        Answer(content=b"plain", headers={"Content-Encoding": "gzip"}),
        "HttpProtocolError",
        1,
    ),
}


@pytest.mark.parametrize("name", TYPED)
async def test_each_failure_has_its_type_and_is_tried_again_where_that_helps(
    name: str, tmp_path: Path
) -> None:
    reply, error, attempts = TYPED[name]
    retry = Retry(attempts=2, base=0.01, on=worth_another_try)
    path = "/post" if name == "unread" else "/"
    async with open_upstream() as upstream:
        upstream.on(path, reply)
        total = 0.3 if error == "HttpTimeout" else 10
        fetch = fetching(total=total, retry=retry)
        (told,) = await finish(tmp_path, fetch, [upstream.url(path)])
    assert told == Told("failed", attempts, told.seconds, "error", error)
    assert len(upstream.calls) == attempts
    assert told.seconds < attempts * total + BORNE


@pytest.mark.parametrize(
    ("tls", "error", "attempts"),
    [
        ("expired", "HttpCertificateError", 1),
        ("wrong_host", "HttpCertificateError", 1),
        ("unknown_ca", "HttpCertificateError", 1),
        ("eof", "HttpConnectionError", 2),
        ("hang", "HttpTimeout", 2),
    ],
)
async def test_a_bad_handshake_is_tried_again_only_where_that_helps(
    tls: TLS, error: str, attempts: int, tmp_path: Path
) -> None:
    retry = Retry(attempts=2, base=0.01, on=worth_another_try)
    async with open_upstream(tls) as upstream:
        with trusting(upstream.authority) if upstream.authority.exists() else ExitStack():
            fetch = fetching(total=1, retry=retry)
            (told,) = await finish(tmp_path, fetch, [upstream.url()])
    assert told == Told("failed", attempts, told.seconds, "error", error)
    assert upstream.connections == attempts
    assert upstream.calls == []


async def test_a_good_certificate_is_let_in(tmp_path: Path) -> None:
    async with open_upstream("good") as upstream:
        upstream.on("/", Answer(["fine"]))
        with trusting(upstream.authority):
            (told,) = await finish(tmp_path, fetching(total=10), [upstream.url()])
    assert told.outcome == "ok"


async def test_a_name_that_nobody_answers_for_is_a_broken_connection(tmp_path: Path) -> None:
    retry = Retry(attempts=2, base=0.01, on=worth_another_try)
    with black_holed_names("example", longest=0.05) as asked:
        fetch = fetching(total=10, retry=retry)
        (told,) = await finish(tmp_path, fetch, ["http://host.example/"])
    assert told == Told("failed", 2, told.seconds, "error", "HttpConnectionError")
    assert asked == ["host.example"] * 2


# -- refused, and coming back ------------------------------------------------------------------


async def test_a_closed_port_fails_fast_with_pauses_in_between(tmp_path: Path) -> None:
    retry = Retry(attempts=4, base=0.01, on=worth_another_try)
    with refused() as url:
        (told,) = await finish(tmp_path, fetching(retry=retry), [url])
    assert told == Told("failed", 4, told.seconds, "error", "HttpConnectionError")
    assert told.seconds < BORNE


async def test_an_upstream_that_goes_away_in_the_middle_fails_what_is_left(tmp_path: Path) -> None:
    gone = trio.Event()

    @stage(workers=1, deadline=30, retry=Retry(attempts=1))
    async def fetch(url: str) -> bytes:
        async with open_client(total=10) as client:
            content = await _ask(client, url)
        if len(upstream.calls) == 3:
            upstream_scope.cancel()
            await gone.wait()
        return content

    async def serve(task_status: trio.TaskStatus[Any]) -> None:
        with trio.CancelScope() as scope:
            async with open_upstream() as opened:
                opened.on("/", Answer("here"))
                task_status.started((opened, scope))
                await trio.sleep_forever()
        gone.set()

    async with trio.open_nursery() as nursery:
        upstream, upstream_scope = await nursery.start(serve)
        told = await finish(tmp_path, fetch, [upstream.url()] * 6)
    assert [each.outcome for each in told] == ["ok"] * 3 + ["failed"] * 3
    assert {each.error for each in told[3:]} == {"HttpConnectionError"}


# -- Retry-After, within the budget ------------------------------------------------------------


@pytest.mark.parametrize("wish", ["6", "Wed, 21 Oct 2099 07:28:00 GMT", "9" * 300])
async def test_a_rest_beyond_the_budget_ends_the_item_at_once(wish: str, tmp_path: Path) -> None:
    async with open_upstream() as upstream:
        upstream.on("/", Busy(wish), Answer("late"))
        fetch = fetching(deadline=5, retry=Retry(attempts=3, base=0.01))
        (told,) = await finish(tmp_path, fetch, [upstream.url()])
    assert told == Told("failed", 1, told.seconds, "error", "HttpStatusError")
    assert told.seconds < BORNE
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "wish", ["-1", "0", "nonsense", "1e400", "nan", "", "inf", "Wed, 21 Oct 1999 07:28:00 GMT"]
)
async def test_an_odd_wish_for_rest_counts_as_none(wish: str, tmp_path: Path) -> None:
    async with open_upstream() as upstream:
        upstream.on("/", Busy(wish), Busy(wish, status=429), Answer("at last"))
        fetch = fetching(deadline=5, retry=Retry(attempts=3, base=0.01))
        (told,) = await finish(tmp_path, fetch, [upstream.url()])
    assert (told.outcome, told.attempts) == ("ok", 3)
    assert told.seconds < BORNE


async def test_a_rest_within_the_budget_is_granted(tmp_path: Path) -> None:
    async with open_upstream() as upstream:
        upstream.on("/", Busy("0.2"), Answer("rested"))
        fetch = fetching(deadline=5, retry=Retry(attempts=2, base=0))
        (told,) = await finish(tmp_path, fetch, [upstream.url()])
    first, second = upstream.calls
    assert first.ended is not None
    assert told.outcome == "ok"
    assert 0.19 < second.began - first.ended < 0.2 + BORNE


async def test_a_flapping_upstream_is_asked_no_more_than_the_attempts_allow(tmp_path: Path) -> None:
    chance, items = random.Random(6), 200

    def flaps(_: Call) -> Reply:
        faults = (Busy(), Reset(), Close(after_bytes=10))
        return chance.choice(faults) if chance.random() < 0.3 else Answer("good")

    async with open_upstream() as upstream:
        urls = [upstream.url(f"/{number}") for number in range(items)]
        for number in range(items):
            upstream.on(f"/{number}", flaps)
        fetch = fetching(retry=Retry(attempts=4, base=0.01, on=worth_another_try))
        told = await finish(tmp_path, fetch, urls)
    asked = [sum(call.path == f"/{number}" for call in upstream.calls) for number in range(items)]
    # A reset before the answer on a kept connection looks like one that was closed meanwhile: the
    # client repeats it by itself, once, on a fresh one.
    repeated = sum(isinstance(call.reply, Reset) for call in upstream.calls)
    assert 0 <= len(upstream.calls) - sum(each.attempts for each in told) <= repeated
    assert max(each.attempts for each in told) <= 4
    assert len(upstream.calls) / items < 1.9  # 30 % of faults cost 1.42 at best
    assert sum(each.outcome == "ok" for each in told) > 0.95 * items
    assert max(asked) <= 8


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("reply", [Bomb(), Bomb(encoding="deflate"), Endless()], ids=same_repr)
async def test_bombs_and_endless_bodies_take_little_memory(reply: Reply, tmp_path: Path) -> None:
    async with open_upstream() as upstream:
        upstream.on("/", reply)
        warm, measured = tmp_path / "warm", tmp_path / "measured"
        for folder in (warm, measured):
            folder.mkdir()
        await finish(warm, fetching(workers=4), [upstream.url()] * 4)
        before = _peak_from_here()
        told = await finish(measured, fetching(workers=4), [upstream.url()] * 12)
        grown = _peak() - before
    assert {each.error for each in told} == {"HttpTooLarge"}
    print(f"grown by {grown / 2**20:.1f} MiB")
    assert grown <= 16 * 2**20


def _peak_from_here() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


# -- look-ups ----------------------------------------------------------------------------------


async def test_forty_look_ups_that_hang_delay_no_other_work(tmp_path: Path) -> None:
    waits: list[float] = []

    @stage(workers=4, deadline=30)
    def innocent(number: int) -> int:
        return number

    async def watch() -> None:
        while True:
            began = trio.current_time()
            await trio.to_thread.run_sync(int)
            waits.append(trio.current_time() - began)
            await trio.sleep(0.01)

    with black_holed_names("example") as asked:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with open_runtime(tmp_path / "runs.db") as runtime:
                urls = [f"http://host{number}.example/" for number in range(40)]
                fetch = fetching(workers=40, deadline=3)
                hung = await runtime.start(Pipeline("hung", [fetch]), urls)
                with trio.fail_after(20):
                    while len(asked) < 8:  # noqa: ASYNC110 - counted by threads
                        await trio.sleep(0.01)
                other = await runtime.start(Pipeline("other", [innocent]), list(range(40)))
                assert (await other.wait()).stages[0].ok == 40
                assert hung.counts[0].settled == 0, "the look-ups hang all the while"
                assert (await hung.wait()).stages[0].timed_out == 40
            nursery.cancel_scope.cancel()
    print(f"another thread waited {max(waits) * 1000:.1f} ms at most")
    assert statistics.median(waits) < ASKED
    assert max(waits) < BORNE


# -- redirects, proxies, netrc -----------------------------------------------------------------


@pytest.mark.parametrize("tls", [None, "good"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_an_answer_and_nobody_goes_there(
    tls: TLS | None, status: int, tmp_path: Path
) -> None:
    seen = []

    @stage(workers=4, deadline=30, retry=Retry(attempts=1))
    async def fetch(url: str) -> None:
        async with open_client(total=10) as client:
            answer = await client.get(url)
        seen.append((answer.status, answer.headers["location"]))

    async with open_upstream(tls) as upstream, open_upstream() as elsewhere:
        to = [
            upstream.url("/0"),  # itself, again and again
            "file:///etc/passwd",
            elsewhere.url("/plain"),
            "http://169.254.169.254/latest/meta-data",
        ]
        for number, target in enumerate(to):
            upstream.on(f"/{number}", Redirect(target, status))
        with trusting(upstream.authority) if tls else ExitStack():
            urls = [upstream.url(f"/{number}") for number in range(4)]
            told = await finish(tmp_path, fetch, urls)
    assert {each.outcome for each in told} == {"ok"}
    assert sorted(seen) == sorted((status, target) for target in to)
    assert len(upstream.calls) == 4
    assert elsewhere.connections == 0


async def test_whoever_follows_by_hand_does_not_leave_http(tmp_path: Path) -> None:
    @stage(deadline=30, retry=Retry(attempts=3, base=0, on=worth_another_try))
    async def fetch(url: str) -> bytes:
        async with open_client(total=10) as client:
            first = await client.get(url)
            return (await client.get(first.headers["location"])).content

    async with open_upstream() as upstream:
        upstream.on("/", Redirect("file:///etc/passwd"))
        (told,) = await finish(tmp_path, fetch, [upstream.url()])
    assert told == Told("failed", 1, told.seconds, "error", "HttpUrlError")


async def test_a_proxy_of_the_environment_is_used_save_for_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("NO_PROXY", "no_proxy", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with open_upstream() as upstream, open_upstream() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url(""))
        upstream.on("/", Answer("direct"))
        proxy.on("/", Answer("by proxy"))
        urls = [upstream.url(), "http://somewhere.example/"]
        told = await finish(tmp_path, fetching(total=10), urls)
    assert {each.outcome for each in told} == {"ok"}
    (direct,), (by_proxy,) = upstream.calls, proxy.calls
    assert by_proxy.headers["host"] == "somewhere.example"
    for call in (direct, by_proxy):
        assert "authorization" not in call.headers, "netrc is not read"


# -- connections that are kept -----------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [Answer("fresh", closes=True), Stale(Answer("fresh")), WrongLength(by=-9)],
    ids=same_repr,
)
async def test_a_kept_connection_that_was_closed_is_no_failure_of_an_item(
    reply: Reply, tmp_path: Path
) -> None:
    async with open_upstream() as upstream:
        upstream.on("/", reply)
        told = await finish(tmp_path, fetching(workers=1, total=10), [upstream.url()] * 10)
    assert {(each.outcome, each.attempts) for each in told} == {("ok", 1)}


async def test_many_kept_connections_that_were_closed_cost_an_item_nothing(tmp_path: Path) -> None:
    together = trio.Event()

    @stage(workers=10, deadline=30, retry=Retry(attempts=1))
    async def fetch(url: str) -> bytes:
        return await _ask(client, url)

    @frozen
    class Together:
        """Stale, but the first answers come at one time, so that there are ten connections."""

        async def play(self, line: Any) -> None:
            if len(upstream.calls) == 10:
                together.set()
            await together.wait()
            await Stale(Answer("fresh")).play(line)

    async with open_upstream() as upstream, open_client(total=10) as client:
        upstream.on("/", Together())
        told = await finish(tmp_path, fetch, [upstream.url()] * 30)
    assert {(each.outcome, each.attempts) for each in told} == {("ok", 1)}


async def test_what_must_not_be_done_twice_is_left_to_the_retry_policy(tmp_path: Path) -> None:
    @stage(workers=1, deadline=30, retry=Retry(attempts=2, base=0, on=worth_another_try))
    async def put(url: str) -> None:
        await client.post(url, json={"pay": 1})

    async with open_upstream() as upstream, open_client(total=10) as client:
        upstream.on("/", Stale(Answer("fresh")))
        told = await finish(tmp_path, put, [upstream.url()] * 2)
    assert [(each.outcome, each.attempts) for each in told] == [("ok", 1), ("ok", 2)]
    assert len(upstream.calls) == 3


# -- synchronous clients -----------------------------------------------------------------------


async def test_a_synchronous_client_that_hangs_in_a_thread_is_left_behind_and_counted(
    tmp_path: Path,
) -> None:
    @stage(workers=2, deadline=0.3)
    def fetch(url: str) -> bytes:
        with urllib.request.urlopen(url) as answer:  # without a timeout, as in so many programs
            return bytes(answer.read())

    with trio.fail_after(30):
        async with open_runtime(tmp_path / "runs.db") as runtime:
            with upstream_in_thread() as upstream:  # its end is the end of the calls that hang
                upstream.on("/hangs", Hang())
                upstream.on("/good", Answer("good"))
                urls = [upstream.url(path) for path in ("/hangs", "/good", "/hangs", "/good")]
                pipeline = Pipeline("upstream", [fetch], grace=0.2)
                run = await runtime.start(pipeline, urls)
                result = await run.wait()
                document = await run.document()
    assert (result.stages[0].ok, result.stages[0].timed_out) == (2, 2)
    assert len(document["survivors"]) == 2
    assert result.seconds < 0.3 + 0.2 + 2 * BORNE


async def test_a_synchronous_client_that_hangs_in_a_process_is_killed(tmp_path: Path) -> None:
    async with open_upstream() as upstream:
        upstream.on("/", Hang())
        told = await finish(tmp_path, fetch_in_a_process, [upstream.url()] * 2)
        await hung_up(upstream)
        lasted = [(call.ended or math.inf) - call.began for call in upstream.calls]
    # By the server's record, for what is on file has the starting of the process in it.
    assert {(each.outcome, each.cause) for each in told} == {("timed_out", "deadline")}
    print(f"late by at most {(max(lasted) - 0.5) * 1000:.1f} ms")
    assert max(lasted) < 0.5 + BORNE


@stage(workers=1, mode="process", deadline=0.5)
def fetch_in_a_process(url: str) -> int:
    report("asking")
    with urllib.request.urlopen(url) as answer:
        return int(answer.status)
