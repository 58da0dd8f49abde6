"""What docs/deployment.md says of containers, short graces, throttled processors and backups."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen

from stagerun import Pipeline, open_runtime, stage

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
TOKEN = "the-token-of-these-tests"
LONGEST = 40.0
"""Seconds that anything may take before its test fails."""
PLATFORM = 10.0
"""Seconds between SIGTERM and SIGKILL, where a platform gives few."""


Item = dict[str, float]


@frozen
class Instance:
    """One process of the service: a container, as far as a test can be one."""

    disk: Path
    port: int
    process: "subprocess.Popen[bytes]"

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask over a connection of its own."""
        headers = {"Authorization": f"Bearer {TOKEN}", **more.pop("headers", {})}
        url = f"http://127.0.0.1:{self.port}/jobs{path}"
        return httpx.request(method, url, timeout=LONGEST, headers=headers, **more)

    def start(self, pipeline: str, items: list[Item], **more: Any) -> str:
        answer = self.ask("POST", "/runs", json={"pipeline": pipeline, "items": items, **more})
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])

    def run(self, run: str) -> dict[str, Any]:
        document: dict[str, Any] = self.ask("GET", f"/runs/{run}").raise_for_status().json()
        return document

    def until(self, run: str, done: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        end = time.monotonic() + LONGEST
        while not done(document := self.run(run)):
            assert time.monotonic() < end, document
            time.sleep(0.02)
        return document

    def executed(self) -> Counter[int]:
        return executed(self.disk)


@contextmanager
def deployed(disk: Path, *, database: Path | None = None, **variables: str) -> Iterator[Instance]:
    """Start an instance whose disk is a folder; in the end kill what is left of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {
        "JOBS_DB": str(database or disk / "runs.db"),
        "EXECUTED": str(disk / "executed"),
        "STAGERUN_TOKEN": TOKEN,
    }
    log = disk / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "tests.real.deployed:app", "--port", str(port),
             "--timeout-graceful-shutdown", "2", "--no-access-log"],
            cwd=ROOT, env={**os.environ, **ours, **variables}, stdout=out, stderr=out,
        )  # fmt: skip
    instance = Instance(disk, port, process)
    try:
        end = time.monotonic() + LONGEST
        while not ready(instance):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield instance
    finally:
        process.kill()
        process.wait()


def ready(instance: Instance) -> bool:
    try:
        return instance.ask("GET", "/readyz").status_code == 200
    except httpx.TransportError:
        return False


def executed(disk: Path) -> Counter[int]:
    return Counter(map(int, (disk / "executed").read_text().split()))


def ended_by_platform(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """End a process as a platform does; return its exit status and the seconds that it took."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PLATFORM)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait(LONGEST), time.monotonic() - began


def naps(count: int, seconds: float) -> list[Item]:
    return [{"number": number, "seconds": seconds} for number in range(count)]


def fine(items: int) -> Callable[[dict[str, Any]], bool]:
    return lambda document: document["stages"][0]["ok"] >= items


def ended(document: dict[str, Any]) -> bool:
    return document["finished_at"] is not None


# -- the end of a container --------------------------------------------------------------------


def test_sigterm_ends_in_time_and_the_next_start_repeats_nothing_that_was_done(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path, STAGERUN_WORK_GRACE="2") as first:
        run = first.start("work", naps(40, 0.3))
        first.until(run, fine(8))
        status, seconds = ended_by_platform(first.process)
    assert status == -signal.SIGTERM  # uvicorn's way: it raises the signal again when it is done
    assert seconds < PLATFORM
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        view = "SELECT status, cause FROM run_overview"
        assert database.execute(view).fetchall() == [("interrupted", "shutdown")]
        done = {
            number - 1 for (number,) in database.execute("SELECT item FROM items WHERE outcome=0")
        }
    with deployed(tmp_path) as second:
        document = second.until(run, lambda document: document["status"] == "succeeded")
        counted = second.executed()
    assert document["generation"] == 2
    assert document["stages"][0]["ok"] == 40
    assert len(done) >= 8
    assert all(counted[number] == 1 for number in done)
    assert sum(counted.values()) <= 40 + 4  # what the four workers had in hand was begun again


@pytest.mark.parametrize(("grace", "status"), [("2", -signal.SIGTERM), ("5", -signal.SIGKILL)])
def test_a_stage_that_blocks_costs_the_grace_and_six_seconds_and_no_outcome(
    grace: str, status: int, tmp_path: Path
) -> None:
    items: list[Item] = [*naps(5, 0), {"number": 5, "seconds": 120}]
    with deployed(tmp_path, STAGERUN_FROZEN_GRACE=grace) as first:
        run = first.start("frozen", items)
        first.until(run, fine(5))
        assert ended_by_platform(first.process)[0] == status
    with deployed(tmp_path) as second:
        document = second.until(run, ended)
    assert (document["status"], document["cause"]) == ("interrupted", "owner_died")
    assert document["stages"][0]["ok"] == 5


# -- its disk ----------------------------------------------------------------------------------


def test_a_wiped_disk_is_a_new_beginning(tmp_path: Path) -> None:
    with deployed(tmp_path) as first:
        lost = first.start("work", naps(4, 60), key="of Monday")
        first.until(lost, lambda document: document["stages"][0]["in_flight"] == 4)
        first.process.kill()
        first.process.wait()
    for place in tmp_path.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    with deployed(tmp_path) as second:
        assert second.ask("GET", f"/runs/{lost}").status_code == 404
        assert second.ask("GET", "/runs").json()["runs"] == []
        run = second.start("work", naps(4, 0), key="of Monday")
        assert run != lost
        assert second.until(run, ended)["status"] == "succeeded"


def test_instances_with_a_disk_each_know_nothing_of_each_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with deployed(one) as first, deployed(two) as second:
        run = first.start("work", naps(1, 0), key="once")
        assert first.until(run, ended)["status"] == "succeeded"
        assert second.ask("GET", f"/runs/{run}").status_code == 404
        assert second.start("work", naps(1, 0), key="once") != run


def test_instances_on_one_file_answer_for_all_and_take_over_from_the_dead(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    database = tmp_path / "runs.db"
    with deployed(one, database=database) as first, deployed(two, database=database) as second:
        run = first.start("work", naps(12, 0.5), key="once")
        assert second.start("work", naps(12, 0.5), key="once") == run
        second.until(run, fine(2))
        first.process.kill()
        first.process.wait()
        killed = time.monotonic()
        second.until(run, lambda document: document["generation"] == 2)
        print(f"taken over {time.monotonic() - killed:.1f} s after kill -9")
        assert time.monotonic() - killed < 15  # without a lease: the lock is free
        document = second.until(run, ended)
    assert (document["status"], document["stages"][0]["ok"]) == ("succeeded", 12)
    assert sum((executed(one) + executed(two)).values()) <= 12 + 4


def test_a_backup_of_a_run_under_way_goes_on_elsewhere(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with deployed(here) as first:
        run = first.start("work", naps(40, 0.2))
        first.until(run, fine(8))
        with closing(sqlite3.connect(here / "runs.db")) as database:
            database.execute("VACUUM INTO ?", (str(there / "runs.db"),))
        first.process.kill()
    with deployed(there) as second:
        assert second.run(run)["verdict"] == "unknown"  # its owner's lock file was left behind
        document = second.until(run, lambda document: document["status"] == "succeeded")
    assert document["generation"] == 2
    assert document["generations"][0]["cause"] == "owner_died"
    assert document["stages"][0]["ok"] == 40
    assert sum(executed(there).values()) <= 32


@pytest.mark.parametrize("only_adds", [True, False])
def test_an_older_program_uses_a_newer_schema_that_only_adds_and_leaves_every_other_alone(
    only_adds: bool, tmp_path: Path
) -> None:
    with deployed(tmp_path) as first:
        run = first.start("work", naps(1, 0))
        first.until(run, ended)
        ended_by_platform(first.process)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        (newest,) = database.execute("PRAGMA user_version").fetchone()
        step = (newest + 1, "of_the_future.sql", 0, 1 if only_adds else newest + 1)
        sql = "INSERT INTO schema_steps (step, name, applied_at, needs) VALUES (?, ?, ?, ?)"
        database.execute(sql, step)
        database.execute("CREATE TABLE of_the_future (number INTEGER PRIMARY KEY) STRICT")
        database.execute(f"PRAGMA user_version = {newest + 1}")
        database.commit()
    before = (tmp_path / "runs.db").read_bytes()
    if only_adds:
        with deployed(tmp_path) as rolled_back:
            assert rolled_back.run(run)["status"] == "succeeded"
            again = rolled_back.start("work", naps(1, 0))
            assert rolled_back.until(again, ended)["status"] == "succeeded"
        return
    with pytest.raises(AssertionError, match="schema version"), deployed(tmp_path):
        pass
    assert (tmp_path / "runs.db").read_bytes() == before


# -- its processor, and its requests ------------------------------------------------------------


def test_a_throttled_process_is_neither_taken_for_dead_nor_its_items_for_late(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    database = tmp_path / "runs.db"
    items: list[Item] = [{"number": number, "pieces": 2_000} for number in range(12)]
    seen = Counter[str]()
    with deployed(one, database=database) as first, deployed(two, database=database) as second:
        run, other = first.start("busy", items), first.start("work", naps(12, 0.3))
        while not all(ended(second.run(each)) for each in (run, other)):
            first.process.send_signal(signal.SIGSTOP)
            time.sleep(1.8)  # a tenth of the time is left to it
            seen.update(second.run(each)["verdict"] for each in (run, other))
            first.process.send_signal(signal.SIGCONT)
            time.sleep(0.2)
        documents = [second.run(each) for each in (run, other)]
    print("seen while it was stopped:", dict(seen))
    assert [document["status"] for document in documents] == ["succeeded"] * 2
    assert [document["generation"] for document in documents] == [1, 1]
    assert [document["stages"][0]["ok"] for document in documents] == [12, 12]
    assert set(seen) <= {"suspended", "ended"}
    assert seen["suspended"]
    assert not (two / "executed").exists()


def test_eighty_starts_at_once_are_answered_before_their_work_begins_to_end(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path) as instance, ThreadPoolExecutor(80) as clients:

        def begin(number: int) -> tuple[int, float]:
            began = time.monotonic()
            body = {"pipeline": "work", "items": naps(4, 60), "key": str(number)}
            answer = instance.ask("POST", "/runs", json=body)
            return answer.status_code, time.monotonic() - began

        answers = list(clients.map(begin, range(80)))
        assert [status for status, _ in answers] == [202] * 80
        slowest = max(seconds for _, seconds in answers)
        print(f"slowest of 80 answers: {slowest:.2f} s")
        assert slowest < 20
        assert instance.ask("GET", "/overview").json()["in_hand"]["runs"] == 80


def test_probes_and_scrapes_of_a_container(tmp_path: Path) -> None:
    with deployed(tmp_path) as instance:

        def status(path: str, **headers: str) -> int:
            url = f"http://127.0.0.1:{instance.port}/jobs{path}"
            return httpx.get(url, timeout=LONGEST, headers=headers).status_code

        through_a_proxy = {"X-Forwarded-For": "192.0.2.7"}
        assert status("/healthz", Host="10.0.0.7:8000") == 400  # as kubelet asks, unless it is told
        for path in ("/healthz", "/readyz"):
            assert status(path, Host="localhost", **through_a_proxy) == 200
        assert status("/metrics", **through_a_proxy) == 401
        assert status("/metrics", **through_a_proxy, Authorization=f"Bearer {TOKEN}") == 200


@pytest.mark.parametrize(
    ("result", "least", "most"), [(0, 25, 60), (100, 120, 180), (2000, 2000, 2400)]
)
async def test_how_much_disk_an_item_takes(
    result: int, least: int, most: int, tmp_path: Path
) -> None:
    @stage(workers=4)
    async def produce(number: int) -> Any:
        return "x" * result if result else number

    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("sizes", [produce]), lambda: range(10_000))
        with trio.fail_after(LONGEST):
            await run.wait()
    taken = (tmp_path / "runs.db").stat().st_size / 10_000
    print(f"a result of {result or 'a few'} bytes: {taken:.0f} bytes an item")
    assert least < taken < most
