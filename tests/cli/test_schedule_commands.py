"""The command `schedules`: what is listed, what is said to one, and what is said of mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, Schedule, open_runtime, stage
from stagerun.cli.main import call

Out = pytest.CaptureFixture[str]


@stage
async def double(number: int) -> int:
    return 2 * number


PIPELINE = Pipeline("doubles", [double], source=[1, 2])
SCHEDULES = [
    Schedule("often", PIPELINE, every=900),
    Schedule("nightly", PIPELINE, cron="30 2 * * *", zone="Europe/Berlin", overlap="queue"),
]


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with two schedules, one of which has had a slot; nobody serves them now."""
    path = tmp_path / "runs.db"

    async def fill() -> None:
        async with open_runtime(path, schedules=SCHEDULES) as runtime:
            slot = await runtime.trigger_schedule("often")
            await (await runtime.find(slot["run"])).wait()

    trio.run(fill)
    return str(path)


def document(capsys: Out, *arguments: str) -> Any:
    assert call(["schedules", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_schedules_are_listed_by_name(database: str, capsys: Out) -> None:
    told = document(capsys, "--db", database)["schedules"]
    assert [(each["name"], each["state"]) for each in told] == [
        ("nightly", "unserved"),
        ("often", "unserved"),
    ]
    assert call(["schedules", "--db", database]) == 0
    head, nightly, often = capsys.readouterr().out.splitlines()
    columns = "schedule pipeline when overlap state next last fired skipped missed"
    assert head.split() == columns.split()
    assert "30 2 * * * Europe/Berlin" in nightly
    assert "every 15 min " in often
    assert "Z, in 1" in often
    assert f"succeeded {told[1]['last']['run'][:8]}" in often


def test_a_narrow_terminal_shows_the_same_one_below_the_other(
    database: str, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagerun.cli.terminal._WIDE", 60)
    assert call(["schedules", "--db", database]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "nightly  unserved" in lines
    assert "when       every 15 min" in lines
    assert "slots      1 fired, 0 skipped, 0 missed" in lines


def test_one_schedule_is_shown_with_its_last_slots(database: str, capsys: Out) -> None:
    told = document(capsys, "show", "often", "--db", database)
    (slot,) = told["slots"]
    assert slot == told["last"]
    assert call(["schedules", "show", "often", "--db", database]) == 0
    shown = capsys.readouterr().out
    assert "served by  0 processes" in shown
    assert "asked for by a program" in shown
    assert slot["run"][:8] in shown


def test_a_schedule_is_paused_and_resumed(database: str, capsys: Out) -> None:
    assert document(capsys, "pause", "often", "--db", database)["state"] == "paused"
    assert call(["schedules", "pause", "often", "--db", database]) == 0
    assert f"stagerun schedules resume often --db {database}" in capsys.readouterr().out
    assert document(capsys, "resume", "often", "--db", database)["state"] == "unserved"
    assert call(["schedules", "resume", "often", "--db", database]) == 0
    assert "no process serves it now" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["show", "pause", "resume", "trigger"])
def test_an_unknown_name_is_answered_with_those_that_are_known(
    database: str, capsys: Out, what: str
) -> None:
    assert call(["schedules", what, "oftn", "--db", database]) == 2
    said = capsys.readouterr().err
    assert said == "stagerun: there is no schedule 'oftn': there is nightly, often\n"


def test_what_nobody_serves_cannot_be_triggered(database: str, capsys: Out) -> None:
    assert call(["schedules", "trigger", "often", "--db", database]) == 2
    assert "no process serves schedule 'often' now: start one" in capsys.readouterr().err


def test_without_schedules_it_says_how_to_get_one(tmp_path: Path, capsys: Out) -> None:
    async def make() -> None:
        async with open_runtime(tmp_path / "runs.db"):
            pass

    trio.run(make)
    assert call(["schedules", "--db", str(tmp_path / "runs.db")]) == 0
    assert "stagerun serve FILE.py:NAME" in capsys.readouterr().out
    assert call(["schedules", "--db", str(tmp_path / "none.db")]) == 2


def test_a_schedule_that_nobody_serves_is_forgotten(database: str, capsys: Out) -> None:
    assert call(["schedules", "forget", "often", "--db", database]) == 0
    assert "often is forgotten" in capsys.readouterr().out
    told = document(capsys, "--db", database)["schedules"]
    assert [each["name"] for each in told] == ["nightly"]
    assert call(["runs", "--db", database]) == 0
    assert "doubles" in capsys.readouterr().out


def test_a_schedule_that_is_served_is_not_forgotten(tmp_path: Path, capsys: Out) -> None:
    async def serve() -> None:
        path = tmp_path / "runs.db"
        async with open_runtime(path, schedules=SCHEDULES):
            forget = ["schedules", "forget", "often", "--db", str(path)]
            assert await trio.to_thread.run_sync(call, forget) == 2

    trio.run(serve)
    assert "is served by a process" in capsys.readouterr().err
