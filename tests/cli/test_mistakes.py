"""A user's mistakes: one clear sentence, exit status 2, and nothing has happened."""

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagerun.cli.main import call
from stagerun.store.opening import connect

JOBS = """
from stagerun import Pipeline, stage

@stage
async def just_a_stage(n):
    return n

def numbers():
    return [1, 2, 3]

good = Pipeline("demo", [just_a_stage], source=numbers)
plain = Pipeline("demo", [just_a_stage])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("STAGERUN_DB", raising=False)
    yield tmp_path
    sys.modules.pop("jobs", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "jobs.py"], "names no pipeline"),
        (["run", "jobs.py:goood"], "did you mean good?"),
        (["run", "job.py:good"], "did you mean jobs.py?"),
        (["run", "jbs:good"], "did you mean jobs?"),
        (["run", "jobs.py:just_a_stage"], "is a stage, not a pipeline"),
        (["run", "jobs.py:numbers"], "is a function, not a pipeline"),
        (["run", "broken.py:good"], "broken.py, line 2"),
        (["run", "raises.py:good"], "ZeroDivisionError: division by zero"),
        (["run", "leaves.py:good"], "importing leaves.py raised SystemExit"),
        (["run", "jobs.py:plain"], "give items with --input"),
        (["run", "jobs.py:plain", "--input", "none.jsonl"], "No such file or directory"),
        (["run", "jobs.py:plain", "--input", "."], "is a folder"),
        (["run", "jobs.py:good", "--param", "x"], "--param 'x' is not NAME=VALUE"),
        (["run", "jobs.py:good", "--label", "=x"], "--label '=x' is not NAME=VALUE"),
        (["run", "jobs.py:good", "--db", "no/where.db"], "does not exist: create it first"),
        (["run", "jobs.py:good", "--db", "."], "is a folder"),
        (["run", "jobs.py:good", "--db", "text.db"], "not a SQLite database"),
        (["run", "jobs.py:good", "--db", "foreign.db"], "belongs to another program"),
        (["run", "jobs.py:good", "--db", "newer.db"], "use the newer stagerun"),
        (["run", "jobs.py:good", "--nope"], "--nope"),
        (["run"], "TARGET"),
        (["rnu", "jobs.py:good"], 'Did you mean "run"?'),
        (["run", "jobs.py:good", "--db", "/proc/runs.db"], "cannot be opened"),
        (["runs", "--db", "none.db"], "there is no database"),
        (["runs", "--db", "text.db"], "not a SQLite database"),
        (["runs", "--db", "foreign.db"], "not a stagerun database"),
        (["runs", "--db", "newer.db"], "use the newer stagerun"),
        (["runs", "--older-than", "soon"], "is not a length of time"),
        (["runs", "--status", "dead"], "dead"),
        (["runs", "--limit", "0"], "--limit must be from 1"),
        (["runs", "--label", "x"], "is not NAME=VALUE"),
        (["show", "ffff", "--db", "good.db"], "there is no run 'ffff'"),
        (["show", "latest", "--db", "good.db"], "there is no run in this database"),
        (["stats", "demo", "--db", "good.db"], "no run of a pipeline 'demo'"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (folder / "broken.py").write_text("good = 1\ngood = = 2\n")
    (folder / "raises.py").write_text("good = 1 / 0\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit('usage')\n")
    (folder / "text.db").write_text("this is text, and long enough to be looked at " * 30)
    connect(folder / "good.db").close()
    for name, statement in (
        ("foreign.db", "CREATE TABLE theirs (x)"),
        ("newer.db", "PRAGMA user_version = 9999"),
    ):
        connection = sqlite3.connect(folder / name)
        connection.execute(statement)
        connection.close()
    assert call(arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert printed.err.startswith("stagerun: ")
    assert printed.err.count("\n") == 1
    assert not (folder / "stagerun.db").exists()


@pytest.mark.parametrize("extra", ["cyclopts", "rich"])
def test_a_missing_extra_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    assert call(["runs"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert extra in said
    assert "pip install 'stagerun[cli]'" in said
