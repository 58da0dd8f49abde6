"""The example `provisioning`: seven agents, a service, and the report's service beside it."""

import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import frozen

from examples.models.server import running_models
from examples.provisioning.dataset import faults, reading
from examples.provisioning.pipeline import pipeline
from stagerun import open_runtime

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
LONGEST = 60.0
AGENTS = ["crawl", "understand", "design", "generate", "load", "validate", "check"]
QUICK = {
    "STAGERUN_PROVISIONING_UNDERSTAND_RETRY_ATTEMPTS": "2",
    "STAGERUN_PROVISIONING_UNDERSTAND_RETRY_ATTEMPT_DEADLINE": "1.5",
}
"""An operator who gives a model that hangs three seconds in all."""


# The pipeline.


async def test_a_site_becomes_a_data_set_that_answers(tmp_path: Path) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(pipeline, params={"folder": str(tmp_path / "sets")})
        result = await run.wait()
        [report] = [each async for each in result.results()]
    assert (result.status, [counts.ok for counts in result.stages]) == ("succeeded", [1] * 7)
    assert report["right"] == report["asked"] == len(report["rows"]) >= 2
    path = Path(report["data_set"])
    assert faults(path, report["rows"]) == []
    assert [*path.parent.iterdir()] == [path]
    for answer in report["answers"]:
        assert answer["rows"], answer
        for cited in answer["rows"]:
            assert cited["values"].items() <= row(path, cited["table"], cited["id"]).items()


async def test_a_model_that_is_busy_breaks_off_and_talks_nonsense_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models(busy=1, malformed=1, reset=1, retry_after=0) as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        document = await ended(tmp_path, {"folder": str(tmp_path / "sets")})
    assert document["status"] == "succeeded", document


async def test_a_site_that_nobody_serves_fails_the_run_with_the_reason(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        document = await ended(tmp_path, {"address": address})
    assert (document["status"], document["cause"]) == ("failed", "least_ok")
    assert "connect" in document["stages"][0]["error"]["message"]


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"adress": "http://localhost"}, "unknown params ['adress']"),
        ({"pages": "many"}, "pages"),
        ({"address": "ftp://localhost"}, "no address of a web site"),
    ],
)
async def test_a_param_that_cannot_be_is_named(
    params: dict[str, str], problem: str, tmp_path: Path
) -> None:
    document = await ended(tmp_path, params)
    assert document["status"] == "failed"
    assert problem in json.dumps([document["message"], document["stages"][0]["error"]])


async def ended(folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    async with open_runtime(folder / "runs.db") as runtime:
        run = await runtime.start(pipeline, params=params)
        await run.wait()
        return await run.document()


def row(path: Path, table: str, number: int) -> dict[str, Any]:
    with reading(path) as connection:
        [found] = connection.execute(f'SELECT * FROM "{table}" WHERE id = ?', (number,))
        return dict(found)


# The service, and the one before it.


@frozen
class Served:
    """A service under way."""

    client: httpx.Client
    process: "subprocess.Popen[bytes]"
    log: Path

    def get(self, path: str, timeout: float = LONGEST) -> Any:
        return self.client.get(path, timeout=timeout).raise_for_status().json()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def start(self, site: str, **more: float) -> str:
        answer = self.post("/api/provision/start", customer_url=site, **more)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def status(self, job: str, timeout: float = LONGEST) -> Any:
        return self.get(f"/api/provision/status/{job}", timeout)

    def until(self, job: str, done: Callable[[Any], Any]) -> Any:
        until = time.monotonic() + LONGEST
        while not done(status := self.status(job)):
            assert time.monotonic() < until, status
            time.sleep(0.02)
        return status

    def end(self, job: str) -> Any:
        return self.until(job, lambda status: status["status"] not in {"queued", "running"})


@contextmanager
def serving(which: str, folder: Path, **variables: str) -> Iterator[Served]:
    """Run one of the two services from a folder; kill it in the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT), "--port", port]
    log = folder / f"{which}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*command, f"examples.provisioning.{which}:app"],
            cwd=folder,
            env={**os.environ, **variables},
            stdout=out,
            stderr=out,
        )
    # A connection for each request: a server may close one that rests while we take it.
    alone = httpx.Limits(max_keepalive_connections=0)
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, timeout=LONGEST, limits=alone) as client:
            until = time.monotonic() + LONGEST
            while True:
                try:
                    client.get("/api/provision/history")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < until, log.read_text()
                    time.sleep(0.05)
            yield Served(client, process, log)
    finally:
        process.kill()
        process.wait()


@contextmanager
def beside(module: str, *options: str) -> Iterator[str]:
    """Run a program that prints its address, for tests that are not async."""
    with subprocess.Popen(
        [sys.executable, "-m", module, "--until-stdin-closes", *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.kill()


def site(*options: str) -> Any:
    return beside("examples.provisioning.site", *options)


def models(*options: str) -> Any:
    return beside("examples.models.server", *options)


def open_requests(models: str) -> int:
    count: int = httpx.get(models.replace("/v1", "/requests"), timeout=LONGEST).json()["open"]
    return count


def wait_for(true: Callable[[], Any]) -> None:
    until = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_start_status_events_history_and_a_question(tmp_path: Path) -> None:
    with site() as address, serving("service", tmp_path) as there:
        job = there.start(address)
        stream = there.client.get(f"/api/provision/events/{job}", follow_redirects=True)
        events = stream.text  # which lasts until the job has ended
        assert "event: log" in events
        assert "read 6 pages" in events
        status = there.status(job)
        assert (status["status"], status["current_phase"]) == ("succeeded", "check")
        assert [agent["name"] for agent in status["agents"]] == AGENTS
        for agent in status["agents"]:
            assert (agent["status"], agent["error_message"]) == ("succeeded", None)
            assert agent["start_time"] <= agent["end_time"]
        [old] = there.get("/api/provision/history")["jobs"]
        assert (old["job_id"], old["customer_url"]) == (job, address)
        answer = there.post(f"/api/chat/{job}", question="Who lends a canoe with a tent?").json()
        assert answer["rows"]
        for cited in answer["rows"]:
            assert cited["page"].startswith(address)
            told = json.dumps(cited["values"]).lower()
            assert any(word in told for word in ("lends", "canoe", "tent"))
        assert there.post("/api/chat/0123", question="Who?").status_code == 404
        assert there.post("/api/provision/start", customer_url="ftp://h").status_code == 422
        assert there.post("/api/provision/start", customer_url="http://a:b@h").status_code == 422
    log = there.log.read_text()
    assert "read 6 pages" in log
    assert "run started: pipeline provisioning" in log


def test_a_bad_certificate_fails_the_first_agent_and_skips_the_other_six(tmp_path: Path) -> None:
    with site("--bad-certificate") as address, serving("service", tmp_path) as there:
        job = there.start(address)
        status = there.end(job)
        assert (status["status"], status["current_phase"]) == ("failed", "crawl")
        assert [agent["status"] for agent in status["agents"]] == ["failed"] + ["skipped"] * 6
        assert "self-signed certificate" in status["agents"][0]["error_message"]
        assert "self-signed certificate" in json.dumps(status["recent_logs"])
        refused = there.post(f"/api/chat/{job}", question="Who?")
        assert (refused.status_code, "failed" in refused.text) == (409, True)
    assert "self-signed certificate" in there.log.read_text()


def test_the_service_answers_while_an_agent_blocks_and_names_the_line(tmp_path: Path) -> None:
    with site() as address, serving("service", tmp_path) as there:
        job = there.start(address, block=5)
        there.until(job, lambda status: status["verdict"] == "blocked")
        assert "pipeline.py" in there.get(f"/jobs/runs/{job}/why")["summary"]
        took = []
        while True:
            began = time.monotonic()
            status = there.status(job)
            if status["verdict"] != "blocked":
                break
            took.append(time.monotonic() - began)
        assert len(took) >= 5
        assert statistics.median(took) < 0.5  # a few milliseconds, where nothing else is done
        assert "blocks the event loop" in json.dumps(status["recent_logs"])
        assert there.end(job)["status"] == "succeeded"


def test_a_start_that_waits_too_long_says_so_and_a_repeat_finds_the_same_job(
    tmp_path: Path,
) -> None:
    with site() as address, serving("service", tmp_path) as there:
        blocking = there.start(address, block=26)
        there.until(blocking, lambda status: status["verdict"] == "blocked")
        refused = there.post("/api/provision/start", customer_url=address)
        assert refused.status_code == 503
        detail = refused.json()["detail"]
        assert "may still begin" in detail["message"]
        key = {"Idempotency-Key": detail["idempotency_key"]}
        body = {"customer_url": address}
        repeated = there.client.post("/api/provision/start", json=body, headers=key)
        assert repeated.status_code == 202
        assert there.end(repeated.json()["job_id"])["status"] == "succeeded"
        assert len(there.get("/api/provision/history")["jobs"]) == 2


def test_before_stops_answering_when_a_model_hangs_and_then_knows_nothing(tmp_path: Path) -> None:
    with site("--mark=hang") as address, models() as model:
        with serving("before", tmp_path, MODELS_ADDRESS=model) as there:
            job = there.start(address)
            wait_for(lambda: open_requests(model))
            for path in (f"/api/provision/status/{job}", "/api/provision/history", "/"):
                with pytest.raises(httpx.ReadTimeout):
                    there.get(path, timeout=1.5)
        with serving("before", tmp_path, MODELS_ADDRESS=model) as there:
            assert there.client.get(f"/api/provision/status/{job}").status_code == 404
            assert there.get("/api/provision/history") == {"jobs": []}
    log = there.log.read_text()
    assert "POST /api/provision/start" in log
    assert "Starting crawl" not in log  # which its code has logged


def test_before_is_well_as_long_as_nothing_hangs(tmp_path: Path) -> None:
    with (
        site() as address,
        models() as model,
        serving("before", tmp_path, MODELS_ADDRESS=model) as there,
    ):
        status = there.end(there.start(address))
        assert status["status"] == "completed", status
        assert [agent["status"] for agent in status["agents"]] == ["completed"] * 7


def test_the_service_answers_ends_the_job_and_says_why_when_a_model_hangs(tmp_path: Path) -> None:
    with (
        site("--mark=hang") as address,
        models() as model,
        serving("service", tmp_path, MODELS_ADDRESS=model, **QUICK) as there,
    ):
        job = there.start(address)
        wait_for(lambda: open_requests(model))
        assert there.get("/api/provision/history", timeout=1.5)["jobs"][0]["status"] == "running"
        wait_for(lambda: there.status(job, timeout=1.5)["current_phase"] == "understand")
        status = there.end(job)
        assert status["status"] == "failed"
        by_agent = [agent["status"] for agent in status["agents"]]
        assert by_agent == ["succeeded", "failed"] + ["skipped"] * 5
        assert "read-header" in status["agents"][1]["error_message"]
        log = there.log.read_text()
        assert "stage understand started" in log
        assert "read 6 pages" in log


def test_a_killed_service_goes_on_where_it_was(tmp_path: Path) -> None:
    with models("--delay=0.5") as model:
        with site() as address, serving("service", tmp_path, MODELS_ADDRESS=model) as there:
            job = there.start(address)
            there.until(job, lambda status: status["agents"][3]["status"] == "running")
            there.process.send_signal(signal.SIGKILL)
            there.process.wait()
        # The site is gone as well: what was read is not read again.
        with serving("service", tmp_path, MODELS_ADDRESS=model) as there:
            until = time.monotonic() + LONGEST
            while (document := there.get(f"/jobs/runs/{job}"))["status"] != "succeeded":
                assert time.monotonic() < until, document
                time.sleep(0.05)
            assert document["generation"] == 2
            assert document["generations"][0]["cause"] == "owner_died"
            [made] = (tmp_path / "datasets").iterdir()
            with closing(sqlite3.connect(made)) as data_set:
                assert data_set.execute("SELECT count(*) FROM pages").fetchone() == (6,)
            assert there.post(f"/api/chat/{job}", question="What does it cost?").json()["rows"]
