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
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen

from examples.models.server import running_models
from examples.provisioning.asking import Query, look_up
from examples.provisioning.crawl import CrawlError, Limits, read_site
from examples.provisioning.dataset import DataSet, Row, faults, reading, write
from examples.provisioning.designs import Column, Customer, Design, Table, tables_of
from examples.provisioning.pages import Page, read_page
from examples.provisioning.pipeline import pipeline
from examples.provisioning.site import running_site
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


# Reading a site.


async def test_a_crawl_keeps_to_its_host_to_robots_txt_and_to_pages() -> None:
    seen: list[str] = []
    async with running_site() as address:
        site = await read_site(address, Limits(), lambda page: seen.append(page.address))
        two = await read_site(address, Limits(pages=2), lambda _: None)
    assert seen == [page.address for page in site.pages]
    paths = ("/", "/boats", "/courses", "/prices", "/tides", "/find-us")
    assert seen == [f"{address}{path}" for path in paths]
    assert {left_out.removeprefix(address) for left_out in site.left_out} == {
        "/staff/rota", "/brochure.pdf", "/gone",
    }  # fmt: skip
    assert len(two.pages) == 2


async def test_a_site_that_falls_silent_is_left_after_its_time() -> None:
    async def silence(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, silence, 0, host="127.0.0.1"))
        address = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with pytest.raises(CrawlError, match=r"0\.3 s had passed"):
            await read_site(address, Limits(seconds=0.3), lambda _: None)
        nursery.cancel_scope.cancel()


def test_a_page_is_read_however_badly_it_is_written() -> None:
    content = (
        b"<title>A &amp; B</title><script>var x = '<p>'</script><p>one<p>tw\xff <b>words"
        b"<a href=/next#part>go</a><a href='http://[/'>bad</a><a>none</a><!-- <"
    )
    page, links = read_page("http://h/a", {"content-type": "text/html; charset=nonsense"}, content)
    assert page.title == "A & B"
    assert page.text.startswith("one tw\ufffd words")
    assert links == ["http://h/next"]


# The data set.


def test_names_that_a_model_gives_become_identifiers_each_once() -> None:
    columns = [Column(name, "text") for name in ("id", "Größe (cm)", "größe cm", "日本", "hits")]
    names = ["select", "pages", "sqlite_x", "1st", '"; DROP TABLE pages; --']
    tables = tables_of(Design([Table(name, "", columns) for name in names]))
    assert [table.name for table in tables] == [
        "select", "pages_2", "table_sqlite_x", "table_1st", "drop_table_pages",
    ]  # fmt: skip
    assert [column.name for column in tables[0].columns] == [
        "id_2", "groe_cm", "groe_cm_2", "column", "hits_2",
    ]  # fmt: skip


def small(folder: Path) -> Path:
    """A data set with a table whose names and values are as awkward as can be."""
    [table] = tables_of(Design([Table("select", "boats", [Column("from", "text")])]))
    rows = [Row(1, {"from": "Petrel, 100% new"}), Row(2, {"from": "Otter's"}), Row(1, {})]
    pages = [Page("http://h/1", "One", "petrel"), Page("http://h/2", "Two", "ÄPFEL")]
    path = folder / "sets" / "small.db"
    data_set = DataSet(Customer("n", "s", ["t"]), pages, [table], {"select": rows})
    assert write(data_set, path) == {"pages": 2, "select": 3}
    assert write(data_set, path) == {"pages": 2, "select": 3}  # again, in its place
    return path


def test_a_data_set_is_checked_against_what_it_was_made_of(tmp_path: Path) -> None:
    path = small(tmp_path)
    assert faults(path, {"pages": 2, "select": 3}) == []
    assert faults(path, {"pages": 2, "select": 4, "more": 1}) == [
        "table more is missing", "table select has 3 rows, not 4",
    ]  # fmt: skip
    with pytest.raises(sqlite3.OperationalError, match="moved or deleted"):
        faults(tmp_path / "other.db", {})


def test_an_answer_cites_the_rows_that_have_most_of_the_words(tmp_path: Path) -> None:
    path = small(tmp_path)
    answer = look_up(path, "?", Query("select", "which rows", ["PETREL", "100%", "x'--"]))
    assert [(cited.table, cited.id, cited.page) for cited in answer.rows] == [
        ("select", 1, "http://h/1")
    ]
    elsewhere = look_up(path, "?", Query("select", "which rows", ["äpfel"]))
    assert [(cited.table, cited.id) for cited in elsewhere.rows] == [("pages", 2)]
    assert look_up(path, "?", Query("select", "how many", [])).answer.startswith("3 of select")
    nothing = look_up(path, "?", Query("select", "which rows", ["nowhere"]))
    assert (nothing.answer, nothing.rows) == ("Nothing in the data set speaks of that.", [])


# The service, and the one before it.


@frozen
class Served:
    """A service under way."""

    address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def get(self, path: str, timeout: float = LONGEST) -> Any:
        return httpx.get(self.address + path, timeout=timeout).raise_for_status().json()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.address + path, json=body, timeout=LONGEST)

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
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + LONGEST
        while True:
            try:
                httpx.get(address + "/api/provision/history", timeout=LONGEST)
                break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield Served(address, process, log)
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
        events = httpx.get(
            f"{there.address}/api/provision/events/{job}", follow_redirects=True, timeout=LONGEST
        ).text  # lasts until the job has ended
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
        job = there.start(address, block=3)
        there.until(job, lambda status: status["verdict"] == "blocked")
        assert "pipeline.py" in there.get(f"/jobs/runs/{job}/why")["summary"]
        took = []
        while True:
            began = time.monotonic()
            status = there.status(job)
            if status["verdict"] != "blocked":
                break
            took.append(time.monotonic() - began)
        assert len(took) > 10
        assert statistics.median(took) < 0.25  # about 5 ms on a machine that does nothing else
        assert "blocks the event loop" in json.dumps(status["recent_logs"])
        assert there.end(job)["status"] == "succeeded"


def test_before_stops_answering_when_a_model_hangs_and_then_knows_nothing(tmp_path: Path) -> None:
    with site() as address, models("--hang=1") as model:
        with serving("before", tmp_path, MODELS_ADDRESS=model) as there:
            job = there.start(address)
            wait_for(lambda: open_requests(model))
            for path in (f"/api/provision/status/{job}", "/api/provision/history", "/"):
                with pytest.raises(httpx.ReadTimeout):
                    there.get(path, timeout=1.5)
        with serving("before", tmp_path, MODELS_ADDRESS=model) as there:
            answer = httpx.get(f"{there.address}/api/provision/status/{job}", timeout=LONGEST)
            assert answer.status_code == 404
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
        site() as address,
        models("--hang=1") as model,
        serving("service", tmp_path, MODELS_ADDRESS=model, **QUICK) as there,
    ):
        job = there.start(address)
        wait_for(lambda: open_requests(model))
        assert there.get("/api/provision/history", timeout=1.5)["jobs"][0]["status"] == "running"
        assert there.status(job, timeout=1.5)["current_phase"] == "understand"
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
