"""The commands that look after a database: recover, owners and prune."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.cli.main import call
from stagerun.store.doctor import examine

pytestmark = pytest.mark.real

Out = pytest.CaptureFixture[str]

DIES = """
    import os, sys, trio
    from stagerun import Pipeline, open_runtime, stage

    @stage
    async def hang(item):
        os._exit(9)

    async def main():
        async with open_runtime(sys.argv[1]) as runtime:
            await (await runtime.start(Pipeline("hang", [hang]), [1, 2])).wait()

    trio.run(main)
"""


@stage
async def work(number: int) -> int:
    return number


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with three runs that have ended."""
    path = tmp_path / "runs.db"

    async def fill() -> None:
        async with open_runtime(path) as runtime:
            for key in ("a", "b", "c"):
                await (await runtime.start(Pipeline("work", [work]), [1, 2], key=key)).wait()

    trio.run(fill)
    return str(path)


@pytest.fixture
def orphaned(database: str) -> int:
    """The same with a run whose process died; its number."""
    program = [sys.executable, "-c", textwrap.dedent(DIES), database]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(timeout=60) == 9
    return process.pid


def document(capsys: Out, *arguments: str, status: int = 0) -> Any:
    assert call([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_recover_lists_and_settles_what_dead_processes_left(
    database: str, orphaned: int, capsys: Out
) -> None:
    found = [f for f in examine(database).findings if f.check == "zombies"]
    assert len(found) == 1
    assert f"process {orphaned}" in found[0].what
    (listed,) = document(capsys, "recover", "--dry-run", "--db", database)["runs"]
    assert (listed["id"], listed["status"], listed["cause"]) == (found[0].run, "running", None)
    assert call(["recover", "--dry-run", "--db", database]) == 0
    assert f"{found[0].run}  hang  running" in capsys.readouterr().out
    assert not examine(database).sound, "a dry run changes nothing"
    (settled,) = document(capsys, "recover", "--db", database)["runs"]
    assert (settled["id"], settled["status"]) == (found[0].run, "interrupted")
    assert settled["cause"] == "owner_died"
    assert f"pid {orphaned}" in settled["message"]
    assert examine(database).sound
    assert document(capsys, "recover", "--db", database)["runs"] == []
    assert call(["recover", "--db", database]) == 0
    assert "no run of a dead process is left" in capsys.readouterr().out


def test_owners_lists_the_restarts(
    database: str, orphaned: int, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGERUN_REVISION", "r42")
    dead, closed = document(capsys, "owners", "--db", database)["owners"]
    assert (dead["pid"], dead["verdict"], dead["ended_at"], dead["runs"]) == (
        orphaned,
        "dead",
        None,
        1,
    )
    assert (closed["verdict"], closed["cause"], closed["runs"]) == ("closed", "closed", 3)
    assert call(["recover", "--db", database]) == 0
    capsys.readouterr()
    recovering, dead, _ = document(capsys, "owners", "--db", database)["owners"]
    assert recovering["revision"] == "r42"
    assert dead["cause"] == "dead"
    assert call(["owners", "--db", database, "--limit", "1"]) == 0
    assert "r42" in capsys.readouterr().out


def test_prune_lists_and_deletes_by_what_is_given(database: str, capsys: Out) -> None:
    names = [run["id"] for run in document(capsys, "runs", "--db", database)["runs"]]
    assert document(capsys, "prune", "--db", database)["runs"] == []
    assert document(capsys, "prune", "--older-than", "1h", "--db", database)["runs"] == []
    listed = document(capsys, "prune", "--keep", "1", "--dry-run", "--db", database)
    assert sorted(run["id"] for run in listed["runs"]) == sorted(names[1:])
    assert len(document(capsys, "runs", "--db", database)["runs"]) == 3
    assert call(["prune", "--older-than", "0s", "--db", database]) == 0
    assert "2 runs pruned" in capsys.readouterr().out
    assert [r["id"] for r in document(capsys, "runs", "--db", database)["runs"]] == names[:1]
    assert examine(database).sound
    assert call(["prune", "--keep", "0", "--db", database]) == 2


def test_prune_goes_by_the_settings_without_options(
    database: str, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGERUN_KEEP_RUNS", "2")
    assert len(document(capsys, "prune", "--db", database)["runs"]) == 1
    monkeypatch.setenv("STAGERUN_KEEP_RUNS", "two")
    assert call(["prune", "--db", database]) == 2
    assert "STAGERUN_KEEP_RUNS must be" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["recover", "owners", "doctor", "prune"])
def test_no_command_makes_a_database_where_there_is_none(
    command: str, tmp_path: Path, capsys: Out
) -> None:
    assert call([command, "--db", str(tmp_path / "none.db")]) == 2
    assert "there is no database" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
