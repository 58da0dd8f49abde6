# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""The service inside real servers, in one process and in several, from its start to its end."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LONGEST = 30.0

UVICORN = ["uvicorn", "--port", "{port}", "--no-access-log"]
HYPERCORN = ["hypercorn", "--bind", "127.0.0.1:{port}"]
SERVERS = {
    "uvicorn-fastapi": [*UVICORN, "tests.real.served:fast"],
    "uvicorn-starlette": [*UVICORN, "tests.real.served:star"],
    "hypercorn-trio-fastapi": [*HYPERCORN, "-k", "trio", "tests.real.served:fast"],
    "hypercorn-trio-starlette": [*HYPERCORN, "-k", "trio", "tests.real.served:star"],
    "hypercorn-trio-quart": [*HYPERCORN, "-k", "trio", "tests.real.served:quart()"],
    "hypercorn-asyncio-fastapi": [*HYPERCORN, "-k", "asyncio", "tests.real.served:fast"],
    "uvicorn-4-workers": [*UVICORN, "--workers", "4", "tests.real.served:fast"],
}
SEVERAL = "uvicorn-4-workers"


class Served:
    """A server under way, and a client that knows its token."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, database: Path) -> None:
        self.process = process
        self.port = port
        self.database = database
        # A connection for each request: a server may close one that rests while we take it.
        alone = httpx.Limits(max_keepalive_connections=0)
        address = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=address, timeout=LONGEST, limits=alone)

    @property
    def operator(self) -> dict[str, str]:
        token = self.database.with_name(self.database.name + ".token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    def fresh(self, path: str) -> httpx.Response:
        """Ask over a connection of its own, which any process of the server may take."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=LONGEST)

    def start(self, *seconds: float) -> str:
        answer = self.client.post("/work", json=list(seconds))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def hold(self, *items: dict[str, float]) -> str:
        body = {"pipeline": "hold", "items": list(items)}
        answer = self.client.post("/jobs/runs", json=body, headers=self.operator)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def document(self, run: str):
        return self.fresh(f"/jobs/runs/{run}").raise_for_status().json()

    def until(self, run: str, done):
        until = time.monotonic() + LONGEST
        while not done(document := self.document(run)):
            assert time.monotonic() < until, document
            time.sleep(0.02)
        return document


@contextmanager
def served(name, tmp_path, *more):
    """Run a server; at the end it must leave by SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = tmp_path / "served.db"
    command = [part.format(port=port) for part in SERVERS[name]]
    log = tmp_path / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *more],
            cwd=ROOT,
            env={**os.environ, "SERVED_DB": str(database)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    there = Served(process, port, database)
    try:
        until = time.monotonic() + LONGEST
        while True:
            try:
                assert "pong" in there.fresh("/ping").text
                break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield there
        process.send_signal(signal.SIGTERM)
        process.wait(LONGEST)
    finally:
        there.client.close()
        if process.poll() is None:  # the test has failed: its workers go with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def frames(text):
    """Return the events of a stream: number, kind and data."""
    found = re.findall(r"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n", text)
    return [(int(number), kind, json.loads(data)) for number, kind, data in found]


@pytest.mark.parametrize("name", SERVERS)
def test_start_status_stream_cancel_and_end(name, tmp_path) -> None:
    with served(name, tmp_path) as there:
        run = there.start(0.05, 0.05, 0.1)
        stream = there.client.get(f"/jobs/runs/{run}/events").raise_for_status()  # until its end
        events = frames(stream.text)
        assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
        assert events[-1][2].get("status") == "succeeded", events[-4:]
        document = there.document(run)
        assert (document["status"], document["percent"]) == ("succeeded", 100.0)

        held = there.start(60, 60)
        there.until(held, lambda document: document["stages"][0]["in_flight"] == 2)
        assert there.client.post(f"/jobs/runs/{held}/cancel", json={}).status_code == 401
        answer = there.client.post(
            f"/jobs/runs/{held}/cancel", json={"reason": "enough"}, headers=there.operator
        )
        assert answer.status_code in (200, 202), answer.text
        ended = there.until(held, lambda document: document["finished_at"])
        assert (ended["status"], ended["stages"][0]["cancelled"]) == ("cancelled", 2)
        assert "stagerun" in there.fresh("/jobs/").text
        assert there.fresh("/jobs/readyz").status_code == 200


@pytest.mark.parametrize("name", ["uvicorn-fastapi", SEVERAL, "hypercorn-trio-fastapi"])
def test_it_ends_at_once_with_streams_open(name, tmp_path) -> None:
    with served(name, tmp_path) as there:
        run = there.start(60)
        there.until(run, lambda document: document["stages"][0]["in_flight"] == 1)
        cuts = "hypercorn" in name  # its workers are not told by a signal: it cuts the streams
        taken = [threading.Event() for _ in range(5)]
        ended: list[str] = []

        def listen(began):
            with (
                suppress(httpx.RemoteProtocolError) if cuts else nullcontext(),
                httpx.Client(timeout=LONGEST) as client,
                client.stream(
                    "GET", f"http://127.0.0.1:{there.port}/jobs/runs/{run}/events"
                ) as stream,
            ):
                for text in stream.iter_text():
                    ended.append(text)
                    began.set()

        threads = [threading.Thread(target=listen, args=(each,)) for each in taken]
        for thread in threads:
            thread.start()
        assert all(each.wait(LONGEST) for each in taken)
        began = time.monotonic()
        there.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(LONGEST)
        there.process.wait(LONGEST)
        took = time.monotonic() - began
    # uvicorn leaves within a second, unless the machine is busy; hypercorn after a time of its own.
    assert took < (8.0 if cuts else 3.0)
    reader = subprocess.run(
        [sys.executable, "-m", "stagerun", "show", run, "--json", "--db", tmp_path / "served.db"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert json.loads(reader.stdout)["status"] == "interrupted"


def test_every_process_answers_for_every_run(tmp_path) -> None:
    with served(SEVERAL, tmp_path) as there:
        run = there.start(60)
        there.until(run, lambda document: document["stages"][0]["in_flight"] == 1)
        asked: set[str] = set()
        until = time.monotonic() + LONGEST
        while len(asked) < 4 and time.monotonic() < until:
            asked.add(there.fresh("/ping").text)
            assert there.fresh(f"/jobs/runs/{run}").status_code == 200
            assert there.fresh(f"/jobs/runs/{run}/why").json()["told_by"] == "process"
            with httpx.stream(
                "GET", f"http://127.0.0.1:{there.port}/jobs/runs/{run}/events", timeout=LONGEST
            ) as stream:
                assert "id: 1\n" in next(stream.iter_text())
        assert len(asked) >= 2
        key = {"pipeline": "work", "items": [{"seconds": 0}], "key": "once"}
        runs = {
            httpx.post(
                f"http://127.0.0.1:{there.port}/jobs/runs",
                json=key,
                headers=there.operator,
                timeout=LONGEST,
            ).json()["id"]
            for _ in range(8)
        }
        assert len(runs) == 1
        cancelled = httpx.post(
            f"http://127.0.0.1:{there.port}/jobs/runs/{run}/cancel",
            json={},
            headers=there.operator,
            timeout=LONGEST,
        )
        assert cancelled.status_code in (200, 202)
        assert there.until(run, lambda document: document["finished_at"])["status"] == "cancelled"


def test_a_killed_worker_s_run_is_told_as_interrupted_by_the_others(tmp_path) -> None:
    with served(SEVERAL, tmp_path) as there:
        run = there.start(60)
        there.until(run, lambda document: document["stages"][0]["in_flight"] == 1)
        with closing(sqlite3.connect(there.database)) as database:
            (pid,) = database.execute(
                "SELECT pid FROM owners JOIN generations USING (owner) JOIN runs USING (run)"
                " WHERE runs.id = ?",
                (run,),
            ).fetchone()
        os.kill(pid, signal.SIGKILL)
        document = there.until(run, lambda document: document["status"] != "running")
        assert document["status"] == "interrupted"
        answer = there.client.post(f"/jobs/runs/{run}/resume", json={}, headers=there.operator)
        until = time.monotonic() + LONGEST
        while answer.status_code == 409 and time.monotonic() < until:
            time.sleep(0.1)
            answer = there.client.post(f"/jobs/runs/{run}/resume", json={}, headers=there.operator)
        assert answer.status_code == 202, answer.text
        assert answer.json()["generation"] == 2


def test_a_reload_interrupts_in_order_and_the_next_process_knows_the_run(tmp_path) -> None:
    code = tmp_path / "reloaded.py"
    code.write_text("from tests.real.served import *\n")
    SERVERS["uvicorn-reload"] = [
        *UVICORN, "--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path),
        "reloaded:fast",
    ]  # fmt: skip
    try:
        with served("uvicorn-reload", tmp_path) as there:
            run = there.start(60)
            before = there.fresh("/ping").text
            code.write_text("from tests.real.served import *\n# changed\n")
            until = time.monotonic() + LONGEST
            while True:
                try:
                    if there.fresh("/ping").text != before:
                        break
                except httpx.TransportError:
                    pass
                assert time.monotonic() < until
                time.sleep(0.05)
            document = there.document(run)
            assert (document["status"], document["cause"]) == ("interrupted", "shutdown")
    finally:
        del SERVERS["uvicorn-reload"]


def test_a_stage_that_blocks_leaves_the_service_responsive(tmp_path) -> None:
    with served("uvicorn-fastapi", tmp_path) as there:
        held = there.hold(*({"seconds": 8} for _ in range(200)))
        there.until(held, lambda document: document["stages"][0]["in_flight"] == 200)
        blocking = there.hold({"seconds": 0, "block": 3})
        there.until(blocking, lambda document: document["stages"][0]["in_flight"] == 1)
        slowest, answers, until = 0.0, 0, time.monotonic() + 2
        while time.monotonic() < until:
            began = time.monotonic()
            assert there.client.get("/ping").status_code == 200
            assert there.client.get(f"/jobs/runs/{blocking}").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
            answers += 1
        # The loop of the stages stands still meanwhile; `python -m benchmarks responsive` has p99.
        assert answers > 20
        assert slowest < 1.5
        why = there.client.get(f"/jobs/runs/{blocking}/why").json()
        assert "served.py" in why["summary"]
        blocked = there.until(
            blocking, lambda document: "served.py" in json.dumps(document["recent_logs"])
        )
        assert blocked["id"] == blocking
