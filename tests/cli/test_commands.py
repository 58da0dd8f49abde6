"""Options and their values, in this process: what is typed becomes a call and an exit status."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import DROP, Pipeline, open_runtime, stage
from stagerun.cli.exits import exit_status
from stagerun.cli.main import call
from stagerun.model.status import Status


@stage
async def half(number: int) -> Any:
    if number == 3:
        raise ValueError("three is \x1b[1m[odd]")
    return DROP if number == 5 else number / 2


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with three runs of two pipelines."""
    path = tmp_path / "runs.db"

    async def fill() -> None:
        async with open_runtime(path) as runtime:
            for name, customer in (("crawl", "a"), ("crawl", "b"), ("import", "a")):
                run = await runtime.start(
                    Pipeline(name, [half]), [1, 2, 3, 4, 5], labels={"customer": customer}
                )
                await run.wait()

    trio.run(fill)
    return str(path)


Out = pytest.CaptureFixture[str]


def documents(capsys: Out, *arguments: str) -> Any:
    assert call([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], 3),
        (["--pipeline", "crawl"], 2),
        (["--label", "customer=a"], 2),
        (["--label", "customer=a", "--pipeline", "crawl"], 1),
        (["--status", "succeeded"], 3),
        (["--status", "failed"], 0),
        (["--older-than", "1h30m"], 0),
        (["--older-than", "0s"], 3),
        (["--finished-since", "1h"], 3),
        (["--limit", "2"], 2),
    ],
)
def test_runs_are_filtered(database: str, capsys: Out, options: list[str], found: int) -> None:
    runs = documents(capsys, "runs", "--db", database, *options)["runs"]
    assert len(runs) == found
    assert call(["runs", "--db", database, *options]) == 0
    assert len(capsys.readouterr().out.splitlines()) == found + 1


def test_show_takes_the_beginning_of_an_identifier_and_latest(database: str, capsys: Out) -> None:
    latest = documents(capsys, "show", "latest", "--db", database)
    assert latest["pipeline"] == "import"
    assert documents(capsys, "show", latest["id"][:10], "--db", database) == latest
    assert call(["show", "latest", "--db", database]) == 0
    shown = capsys.readouterr().out
    assert "three is \\x1b[1m[odd]" in shown
    assert "customer=a" in shown


def test_stats_tell_durations_and_endings(database: str, capsys: Out) -> None:
    told = documents(capsys, "stats", "crawl", "--db", database)
    assert (told["runs"], told["by_status"]) == (2, {"succeeded": 2})
    assert told["seconds"]["median"] <= told["seconds"]["p99"] <= told["seconds"]["longest"]
    assert call(["stats", "crawl", "--db", database, "--since", "7d"]) == 0
    assert "2 succeeded" in capsys.readouterr().out
    assert call(["stats", "crowl", "--db", database]) == 2
    assert "did you mean crawl?" in capsys.readouterr().err


def test_logs_are_limited_by_number_and_age(database: str, capsys: Out) -> None:
    lines = documents(capsys, "logs", "latest", "--db", database)["logs"]
    assert any("three is" in line["message"] for line in lines)
    assert documents(capsys, "logs", "latest", "--db", database, "--limit", "1")["logs"] == [
        lines[-1]
    ]
    assert documents(capsys, "logs", "latest", "--db", database, "--since", "1h")["logs"] == lines
    assert call(["logs", "latest", "--db", database, "--follow"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(lines)
    assert "\x1b" not in printed


def test_watching_a_run_that_has_ended_gives_its_exit_status(database: str, capsys: Out) -> None:
    assert call(["watch", "latest", "--db", database]) == 0
    assert "stagerun show" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "15", "m", "-5m", "1.5.5h", "5 m", "1w", "nan", "infs"])
def test_a_length_of_time_needs_its_unit(database: str, capsys: Out, text: str) -> None:
    assert call(["runs", "--db", database, f"--older-than={text}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_version_are_no_mistakes(capsys: Out) -> None:
    for arguments in ([], ["--help"], ["run", "--help"], ["--version"]):
        assert call(arguments) == 0
        assert capsys.readouterr().out


def test_every_terminal_status_has_an_exit_status_of_its_own() -> None:
    terminal = [status.value for status in Status if status.terminal]
    assert len({exit_status(status) for status in terminal}) == len(terminal)
    assert 2 not in map(exit_status, terminal)
