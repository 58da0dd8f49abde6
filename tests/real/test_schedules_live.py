"""Schedules in real processes: killed, put to sleep, and spoken to from outside."""

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.real.serving import COMMAND, LONGEST, Server, environment, serving

pytestmark = pytest.mark.real

SECOND = 1_000_000
JOBS = """
    import trio
    from stagerun import Pipeline, Schedule, stage

    @stage(workers=3, deadline=20)
    async def work(number):
        await trio.sleep(0.3)
        return number

    pipeline = Pipeline("work", [work], source=range(3), deadline=60, grace=0.5)
    often = Schedule("often", pipeline, every=1, active=5)
    seldom = Schedule("seldom", pipeline, every=3600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(textwrap.dedent(JOBS))
    return tmp_path


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def fired(server: Server, name: str = "often") -> int:
    return int(server.get(f"schedules/{name}")["fired"])


def rows(folder: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        return connection.execute(question).fetchall()


def check_slots(folder: Path) -> None:
    """Each second since the first slot was decided once, or counted as missed by the next one."""
    slots = rows(folder, "SELECT at, missed, decision, run FROM slots ORDER BY at")
    for (before, *_), (at, missed, *_) in itertools.pairwise(slots):
        assert at - before == (missed + 1) * SECOND
    runs = [run for *_, decision, run in slots if decision == "fired"]
    assert len({*runs}) == len(runs)
    started = rows(folder, "SELECT r.id FROM runs r JOIN labels USING (run) WHERE value = 'often'")
    assert {run for (run,) in started} == {*runs}
    ((fired, skipped, missed),) = rows(folder, "SELECT fired, skipped, missed FROM schedules")
    assert (fired, fired + skipped) == (len(runs), len(slots))
    assert missed == sum(missed for _, missed, *_ in slots)


def test_two_processes_fire_each_slot_once_and_one_goes_on_when_the_other_is_killed(
    folder: Path,
) -> None:
    with serving(folder, "jobs.py:often") as first, serving(folder, "jobs.py:often") as second:
        until(lambda: fired(second) >= 4)
        assert second.get("schedules/often")["served_by"] == 2
        first.process.kill()  # runs of the last slots are under way
        first.process.wait()
        killed_at = fired(second)
        until(lambda: second.get("schedules/often")["served_by"] == 1)
        until(lambda: fired(second) >= killed_at + 4)
        second.post("schedules/often/pause")
        until(lambda: second.get("overview")["counts"]["running"] == 0)
        check_slots(folder)
        endings = {status for (status,) in rows(folder, "SELECT status FROM generations")}
        assert endings <= {"succeeded", "interrupted"}
        assert "succeeded" in endings


def test_slots_that_a_process_slept_through_become_one_run_and_are_counted(folder: Path) -> None:
    with serving(folder, "jobs.py:often") as server:
        until(lambda: fired(server) >= 2)
        server.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
        ((next_at, before),) = rows(folder, "SELECT next_at, fired FROM schedules")
        until(lambda: time.time() * SECOND > next_at + 4.5 * SECOND)
        assert rows(folder, "SELECT fired FROM schedules") == [(before,)]
        server.process.send_signal(signal.SIGCONT)
        until(lambda: fired(server) >= before + 3)
        server.post("schedules/often/pause")
        check_slots(folder)
        ((most,),) = rows(folder, "SELECT max(missed) FROM slots")
        assert most >= 4
        until(lambda: server.get("overview")["counts"]["running"] == 0)
        assert {status for (status,) in rows(folder, "SELECT status FROM generations")} == {
            "succeeded"
        }


def test_a_live_server_s_schedule_is_paused_resumed_and_triggered_from_outside(
    folder: Path,
) -> None:
    def say(*words: str) -> Any:
        command = [*COMMAND, "schedules", *words, "--db", "runs.db", "--json"]
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, check=True, timeout=LONGEST
        )
        return json.loads(done.stdout)

    with serving(folder, "jobs.py:often", "jobs.py:seldom") as server:
        until(lambda: fired(server) >= 1)
        assert say("pause", "often")["state"] == "paused"
        at_pause = server.get("schedules/often")
        assert at_pause["state"] == "paused"

        by_command = say("trigger", "seldom")
        by_http = server.post("schedules/often/trigger")  # while it is paused
        assert (by_command["decision"], by_http["decision"]) == ("fired", "fired")
        assert by_http["asked_by"] == "127.0.0.1 over HTTP"
        for slot in (by_command, by_http):
            until(lambda run=slot["run"]: server.get(f"runs/{run}")["status"] == "succeeded")  # type: ignore[misc]  # of a lambda
        assert fired(server) == at_pause["fired"] + 1
        assert fired(server, "seldom") == 1

        assert server.post("schedules/often/resume")["state"] == "waiting"
        until(lambda: fired(server) >= at_pause["fired"] + 3)
        listed = {each["name"]: each for each in say()["schedules"]}
        assert listed["seldom"]["last"]["run"] == by_command["run"]
        assert [slot["decision"] for slot in say("show", "seldom")["slots"]] == ["fired"]
        code, out, said = server.stop()
        assert code == 0, said
        assert "schedules  often, seldom" in out
    assert {each["state"] for each in say()["schedules"]} == {"unserved"}
