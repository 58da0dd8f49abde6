"""Alerts by real ways: HTTP, SMTP, threads, several processes, and a death in between."""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import queue
import random
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email import message_from_string
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

import stagerun.asyncio
from stagerun import Pipeline, Runtime, open_runtime, stage
from stagerun.alerts import (
    Alert,
    Alerts,
    Call,
    DeliveryError,
    Log,
    Mail,
    Slack,
    Webhook,
    ended,
    loop_blocked,
    stalled,
    store_degraded,
)
from stagerun.engine.env import Env
from stagerun.errors import PolicyError, StoreError, UsageError
from stagerun.web import Service
from tests.real.serving import serving

pytestmark = pytest.mark.real

LONGEST = 30.0
"""Seconds that anything may take before its test fails."""


@stage(workers=4, deadline=60)
async def work(item: Any) -> Any:
    if item == "fail":
        raise ValueError("nothing was found")
    if isinstance(item, float):
        await trio.sleep(item)
    return item


PIPELINE = Pipeline("work", [work], grace=0.5)


async def fail(runtime: Runtime) -> str:
    run = await runtime.start(PIPELINE, ["fail"])
    await run.wait()
    return run.id


@define
class Got:
    """What a receiver has got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@define
class Receiver:
    """An HTTP server on loopback; *answers* are the next statuses, 0 hangs, then 200."""

    url: str
    got: "queue.Queue[Got]" = field(factory=queue.Queue)
    answers: list[int] = field(factory=list)
    released: threading.Event = field(factory=threading.Event)

    async def next(self) -> Got:
        return await trio.to_thread.run_sync(lambda: self.got.get(timeout=LONGEST))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # whoever sent it was killed meanwhile
            found.got.put(Got(self.path, dict(self.headers), body))
            status = found.answers.pop(0) if found.answers else 200
            if status == 0:
                found.released.wait(LONGEST)
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            found.released.set()
            server.shutdown()
            thread.join()


def rows(database: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


async def until(true: Callable[[], Any]) -> None:
    with trio.fail_after(LONGEST):
        while not true():  # noqa: ASYNC110 - another thread, or process, makes it true
            await trio.sleep(0.02)


# -- over HTTP --------------------------------------------------------------------------------


async def test_a_webhook_gets_json_that_it_can_check(tmp_path: Path, receiver: Receiver) -> None:
    hook = Webhook(f"{receiver.url}/hook?k=1", secret="shared", headers={"X-Team": "a"})
    async with open_runtime(tmp_path / "runs.db", alerts=Alerts([hook])) as runtime:
        run = await fail(runtime)
        got = await receiver.next()
    assert got.path == "/hook?k=1"
    assert got.headers["X-Team"] == "a"
    assert got.headers["Content-Type"] == "application/json"
    signed = got.headers["Stagerun-Timestamp"].encode() + b"." + got.body
    expected = hmac.new(b"shared", signed, hashlib.sha256).hexdigest()
    assert got.headers["Stagerun-Signature"] == f"sha256={expected}"
    assert abs(time.time() - int(got.headers["Stagerun-Timestamp"])) < LONGEST
    assert list(got.json) == ["id", "alerts", "rule", "summary", "raised_at", "run", "facts"]
    assert got.headers["Stagerun-Alert"] == got.json["id"]
    assert got.json["rule"] == "ended"
    assert got.json["run"]["id"] == run
    assert got.json["run"]["status"] == "failed"
    assert receiver.got.empty()


async def test_slack_gets_its_payload_and_nobody_is_called_by_a_text(
    tmp_path: Path, receiver: Receiver
) -> None:
    alert = Alert(
        id="12", alerts="alerts", rule="ended", summary="<!channel> a & b", raised_at=_now()
    )
    await Slack(f"{receiver.url}/services/T/B/X").deliver(alert)
    got = await receiver.next()
    assert got.json == {"text": "*ended*: &lt;!channel&gt; a &amp; b"}


def _now() -> datetime:
    return datetime.now(UTC)


async def test_what_was_refused_is_tried_again_and_no_address_is_shown(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "httpx")
    receiver.answers[:] = [503, 302]
    hook = Webhook(f"{receiver.url}/services/T0/B0/verysecret", secret="a key")
    async with open_runtime(tmp_path / "runs.db", alerts=Alerts([hook])) as runtime:
        await fail(runtime)
        first, second, third = [await receiver.next() for _ in range(3)]
        await until(lambda: rows(tmp_path / "runs.db", "SELECT 1 FROM alerts WHERE delivered_at"))
    assert first.json["id"] == second.json["id"] == third.json["id"]
    told = caplog.text + repr(hook) + repr(Alerts([hook])) + repr(Slack("https://a/verysecret"))
    assert "verysecret" not in told
    assert "a key" not in told
    assert "POST to the webhook answered 503" in caplog.text


async def test_the_other_side_s_wish_for_rest_is_kept(receiver: Receiver) -> None:
    alert = Alert(id="1", alerts="alerts", rule="ended", summary="text", raised_at=_now())
    receiver.answers[:] = [404]
    with pytest.raises(DeliveryError, match="^POST to the webhook answered 404") as caught:
        await Webhook(f"{receiver.url}/secret").deliver(alert)
    assert caught.value.__cause__ is None
    with pytest.raises(DeliveryError) as caught:
        await Webhook("http://127.0.0.1:1/secret").deliver(alert)
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="must begin with https"):
        Webhook("hooks.example.org/secret")


# -- by mail ----------------------------------------------------------------------------------


class _Smtp(socketserver.StreamRequestHandler):
    """As little of a mail server as a client needs."""

    def handle(self) -> None:
        self._say("220 here")
        sender, to = "", list[str]()
        while line := self.rfile.readline().decode().strip():
            verb = line.split(":")[0].split(" ")[0].upper()
            if verb == "MAIL":
                sender = line
            elif verb == "RCPT":
                if "refused" in line:
                    self._say("550 nobody of that name, password=hunter22222")
                    continue
                to.append(line)
            elif verb == "DATA":
                self._say("354 go on")
                text = ""
                while (part := self.rfile.readline().decode()) != ".\r\n":
                    text += part
                self.server.mails.put((sender, to, text))  # type: ignore[attr-defined]
            elif verb == "QUIT":
                self._say("221 bye")
                return
            self._say("250 fine")

    def _say(self, words: str) -> None:
        self.wfile.write(f"{words}\r\n".encode())


@pytest.fixture
def mails() -> Iterator[tuple[int, "queue.Queue[tuple[str, list[str], str]]"]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp) as server:
        found: queue.Queue[tuple[str, list[str], str]] = queue.Queue()
        server.mails = found  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], found
        finally:
            server.shutdown()
            thread.join()


async def test_a_mail_says_what_is_to_be_known(tmp_path: Path, mails: Any) -> None:
    port, box = mails
    mail = Mail(["a@example.org", "b@example.org"], port=port, sender="runs@example.org")
    async with open_runtime(tmp_path / "runs.db", alerts=Alerts([mail])) as runtime:
        run = await fail(runtime)
        sender, to, text = await trio.to_thread.run_sync(lambda: box.get(timeout=LONGEST))
    message: Message = message_from_string(text)
    assert "runs@example.org" in sender
    assert len(to) == 2
    assert message["Subject"].replace("\r\n", "").startswith("[alerts] run ")
    assert message["To"] == "a@example.org, b@example.org"
    assert message["Message-ID"] == f"<{message['Stagerun-Alert']}@stagerun>"
    body = str(message.get_payload())
    assert f"stagerun why {run}" in body.replace("=\r\n", "")


def test_a_mail_server_s_refusal_and_a_bad_option_are_told_without_secrets(mails: Any) -> None:
    port, _ = mails
    alert = Alert(
        id="1", alerts="alerts", rule="ended", summary="a\nBcc: x@example.org", raised_at=_now()
    )
    with pytest.raises(DeliveryError, match="all recipients are refused"):
        Mail("refused@example.org", port=port).deliver(alert)
    with pytest.raises(DeliveryError, match="127.0.0.1:1: "):
        Mail("a@example.org", host="127.0.0.1", port=1).deliver(alert)
    Mail("a@example.org", port=port).deliver(alert)
    with pytest.raises(PolicyError, match="travel in clear"):
        Mail("a@example.org", host="mail.example.org", username="u", password="p")
    with pytest.raises(UsageError, match="addresses such as"):
        Mail("a@example.org\r\nBcc: b@example.org")
    assert "hunter2" not in repr(Mail("a@example.org", username="u", password="hunter2"))


# -- sinks that do harm -----------------------------------------------------------------------


async def test_functions_are_called_beside_the_program(tmp_path: Path) -> None:
    threads: queue.Queue[tuple[str, int]] = queue.Queue()

    def plain(alert: Alert) -> None:
        threads.put(("plain", threading.get_ident()))
        asyncio.run(asyncio.sleep(0))  # whoever's code is asyncio's runs it so

    async def on_trio(alert: Alert) -> None:
        await trio.lowlevel.checkpoint()
        threads.put(("trio", threading.get_ident()))

    def leaves(alert: Alert) -> None:
        sys.exit(3)

    sinks = [plain, Call(on_trio, name="on trio"), leaves, Log(level="error")]
    async with open_runtime(tmp_path / "runs.db", alerts=Alerts(sinks)) as runtime:
        await fail(runtime)
        query = "SELECT sink FROM alerts WHERE delivered_at ORDER BY sink"
        await until(lambda: len(rows(tmp_path / "runs.db", query)) == 3)
    heard = dict([threads.get_nowait(), threads.get_nowait()])
    assert threading.get_ident() not in heard.values()
    (failed,) = rows(tmp_path / "runs.db", "SELECT error FROM alerts WHERE delivered_at IS NULL")
    assert "SystemExit" in failed[0]


async def test_a_sink_that_hangs_holds_up_neither_runs_nor_other_sinks_nor_the_leaving(
    tmp_path: Path,
) -> None:
    """1,000 items beside sinks that block for ever, against the same without alerts."""
    over, good = threading.Event(), queue.Queue[str]()

    async def hangs_async(alert: Alert) -> None:
        over.wait()  # not even a checkpoint

    def hangs(alert: Alert) -> None:
        over.wait()

    def takes(alert: Alert) -> None:
        good.put(alert.id)

    harmful = Alerts([hangs_async, hangs, takes], rules=[ended()], deadline=0.5)

    async def measured(alerts: Alerts | None, name: str) -> float:
        best = 1e9
        async with open_runtime(tmp_path / name, alerts=alerts) as runtime:
            await fail(runtime)
            for _ in range(3):
                began = time.perf_counter()
                run = await runtime.start(PIPELINE, [0.002] * 1000)
                result = await run.wait()
                best = min(best, time.perf_counter() - began)
                assert result.stages[0].ok == 1000
            if alerts is not None:
                await until(lambda: good.qsize() == 4)
            leaving = time.perf_counter()
        assert time.perf_counter() - leaving < 6
        return best

    try:
        alone = await measured(None, "alone.db")
        beside = await measured(harmful, "beside.db")
    finally:
        over.set()
    print(f"1,000 items: {alone:.3f} s alone, {beside:.3f} s beside hung sinks")
    assert beside < 1.5 * alone


# -- what only the database, or only the process, can tell ------------------------------------


async def test_a_blocked_event_loop_is_told_while_it_is_blocked(tmp_path: Path) -> None:
    got: queue.Queue[Alert] = queue.Queue()

    @stage
    async def blocks(item: int) -> str:
        return got.get(timeout=LONGEST).summary  # blocks until the alert itself ends it

    alerts = Alerts([got.put], rules=[loop_blocked()])
    async with open_runtime(tmp_path / "runs.db", alerts=alerts) as runtime:
        result = await (await runtime.start(Pipeline("blocks", [blocks]), [1])).wait()
        (summary,) = [value async for value in result.results()]
    assert f"process {os.getpid()} on" in summary
    assert "stage blocks, item 1, at" in summary
    assert __file__ in summary


async def test_a_locked_database_is_told_while_it_is_locked_and_stored_later(
    tmp_path: Path,
) -> None:
    got: queue.Queue[Alert] = queue.Queue()
    database = tmp_path / "runs.db"
    async with open_runtime(
        database, alerts=Alerts([got.put], rules=[store_degraded(), ended()])
    ) as runtime:
        with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            alert = await trio.to_thread.run_sync(lambda: got.get(timeout=LONGEST))
            foreign.execute("ROLLBACK")
        assert alert.rule == "store_degraded"
        assert "the database refuses a commit" in alert.summary
        query = "SELECT id FROM alerts WHERE delivered_at"
        await until(lambda: rows(database, query) == [(alert.id,)])
        await fail(runtime)
        assert (await trio.to_thread.run_sync(lambda: got.get(timeout=LONGEST))).rule == "ended"
    assert got.empty()


async def test_a_database_that_is_lost_is_told_before_the_program_ends(tmp_path: Path) -> None:
    got: queue.Queue[Alert] = queue.Queue()
    alerts = Alerts([got.put], rules=[store_degraded()])

    async def lose_it() -> None:
        async with open_runtime(tmp_path / "runs.db", alerts=alerts):
            (tmp_path / "runs.db").unlink()
            await trio.sleep_forever()

    with pytest.raises(StoreError, match="gone while it is open"):
        await lose_it()
    assert "gone while it is open" in got.get_nowait().summary
    assert not (tmp_path / "runs.db").exists()


async def test_a_stalled_run_is_told_by_the_verdict_of_its_readers(tmp_path: Path) -> None:
    got: queue.Queue[Alert] = queue.Queue()
    env = Env(environ={"STAGERUN_STALLED_AFTER": "0.2"})
    alerts = Alerts([got.put], rules=[stalled()])
    async with open_runtime(tmp_path / "runs.db", env=env, alerts=alerts) as runtime:
        run = await runtime.start(PIPELINE, [60.0])
        alert = await trio.to_thread.run_sync(lambda: got.get(timeout=LONGEST))
        assert alert.run is not None
        assert (alert.run["id"], alert.run["verdict"]) == (run.id, "stalled")
        await run.cancel()


# -- several processes, and a death -----------------------------------------------------------

PROGRAM = """
import sys, time, trio
from stagerun import Pipeline, open_runtime, stage
from stagerun.alerts import Alerts, Webhook, ended, loop_blocked

@stage
async def work(item):
    if item == "block":
        time.sleep(60)
    raise ValueError(item)

async def main(database, url, items):
    alerts = None
    if url != "none":
        alerts = Alerts([Webhook(url)], rules=[ended(), loop_blocked()], per_minute=1000)
    async with open_runtime(database, alerts=alerts) as runtime:
        print("open", flush=True)
        for _ in range(items.count("fail")):
            run = await runtime.start(Pipeline("work", [work]), ["fail"])
            await run.wait()
        if items == "block":
            run = await runtime.start(Pipeline("work", [work]), ["block"])
        print("done", flush=True)
        with trio.CancelScope() as scope:
            async def gone():
                await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
                scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gone)

trio.run(main, *sys.argv[1:])
"""


@contextmanager
def program(database: Path, url: str, items: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Run it until the block is left; its standard input keeps it alive."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(database), url, items],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.communicate("", timeout=LONGEST)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


async def test_two_processes_tell_each_ending_once(tmp_path: Path, receiver: Receiver) -> None:
    database = tmp_path / "runs.db"
    with (
        program(database, receiver.url, "fail " * 15) as one,
        program(database, receiver.url, "fail " * 15) as two,
    ):
        for process in (one, two):
            assert process.stdout is not None
            assert await trio.to_thread.run_sync(process.stdout.readline) == "done\n"
        got = [await receiver.next() for _ in range(30)]
    assert len({each.json["run"]["id"] for each in got}) == 30
    assert receiver.got.empty()
    assert rows(database, "SELECT count(*), sum(tries) FROM alerts") == [(30, 30)]


async def test_an_alert_whose_process_was_killed_while_it_was_sent_is_sent_by_the_next(
    tmp_path: Path, receiver: Receiver
) -> None:
    database = tmp_path / "runs.db"
    receiver.answers[:] = [0]
    with program(database, receiver.url, "fail") as process:
        first = await receiver.next()
        process.kill()
    async with open_runtime(database, alerts=Alerts([Webhook(receiver.url)])):
        second = await receiver.next()
        assert second.json == first.json
        query = "SELECT tries FROM alerts WHERE delivered_at"
        await until(lambda: rows(database, query) == [(1,)])
    assert receiver.got.empty()


async def test_the_blocked_loop_of_another_process_is_told(
    tmp_path: Path, receiver: Receiver
) -> None:
    database = tmp_path / "runs.db"
    alerts = Alerts([Webhook(receiver.url)], rules=[loop_blocked(), ended()])
    async with open_runtime(database, alerts=alerts):
        with program(database, "none", "block") as process:
            blocked = await receiver.next()
            process.kill()
            interrupted = await receiver.next()
    assert f"process {process.pid} on" in blocked.json["summary"]
    assert interrupted.json["run"]["status"] == "interrupted"
    assert interrupted.json["run"]["cause"] == "owner_died"


async def test_what_ended_is_told_at_least_once_however_often_processes_are_killed(
    tmp_path: Path, receiver: Receiver
) -> None:
    database, told = tmp_path / "runs.db", set[str]()
    chance = random.Random(7)
    for _ in range(6):
        with program(database, receiver.url, "fail " * 40) as process:
            for _ in range(chance.randint(1, 30)):
                told.add((await receiver.next()).json["run"]["id"])
            await trio.sleep(chance.random() / 50)  # anywhere between two commits
            process.kill()
    async with open_runtime(
        database, alerts=Alerts([Webhook(receiver.url)], rules=[ended()], per_minute=1000)
    ):
        query = "SELECT r.id FROM runs r JOIN generations g USING (run) WHERE finished_at > 0"
        all_ended = {identifier for (identifier,) in rows(database, query)}
        while told < all_ended:
            told.add((await receiver.next()).json["run"]["id"])
    assert told == all_ended
    assert rows(database, "SELECT 1 FROM alerts WHERE delivered_at IS NULL") == []


# -- hosts ------------------------------------------------------------------------------------


def test_programs_on_asyncio_and_services_have_them_too(tmp_path: Path) -> None:
    got: queue.Queue[Alert] = queue.Queue()
    alerts = Alerts([got.put], rules=[ended()])

    async def host() -> None:
        async with stagerun.asyncio.open_runtime(tmp_path / "a.db", alerts=alerts) as runtime:
            await (await runtime.start(PIPELINE, ["fail"])).wait()
        service = Service(tmp_path / "b.db", pipelines=[PIPELINE], alerts=alerts, insecure=True)
        async with service.opened():
            run: Any = await service.runtime.start(PIPELINE, ["fail"])
            await run.wait()

    asyncio.run(host())
    assert {got.get_nowait().rule, got.get_nowait().rule} == {"ended"}  # before it was left
    assert got.empty()


def test_serve_takes_alerts_beside_its_pipelines(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "jobs.py").write_text(
        f"""
from stagerun import Pipeline, stage
from stagerun.alerts import Alerts, Webhook

@stage
async def work(item):
    raise ValueError(item)

pipeline = Pipeline("work", [work])
alerts = Alerts([Webhook({receiver.url!r})])
"""
    )
    with serving(tmp_path, "jobs.py:pipeline", "--alerts", "jobs.py:alerts") as server:
        run = server.post("runs", {"pipeline": "work", "items": [1]})
        assert receiver.got.get(timeout=LONGEST).json["run"]["id"] == run["id"]
