"""The command line as a shell sees it: exit statuses, signals, streams, and users' mistakes."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

COMMAND = [sys.executable, "-c", "from stagerun.cli.main import main; main()"]
LONGEST = 60.0  # seconds that one command may take before its test fails

PIPELINES = """
import sys, time
import trio
from stagerun import Pipeline, stage

@stage
async def double(n):
    print("noise from a stage")
    return 2 * n

@stage
async def wrong(n):
    if n != 2:
        raise ValueError("[red]no[/red] \\x1b[31m\\x07")

@stage(workers=1, deadline=None)
async def wait(n):
    print("begun", file=sys.stderr, flush=True)
    await trio.sleep_forever()

@stage(workers=1, deadline=None)
async def swallow(n):
    print("begun", file=sys.stderr, flush=True)
    while True:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            await trio.lowlevel.cancel_shielded_checkpoint()
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

@stage(workers=1, deadline=None)
def thread(n):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(3600)

@stage(workers=1, deadline=None)
async def block(n):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(3600)

@stage
async def look(n, ctx):
    return ctx.params

def of(*stages, **options):
    return Pipeline("demo", stages, grace=0.2, **options)

def numbers():
    return [1, 2, 3]

good = of(double, source=numbers)
plain = of(double)
partly = of(wrong, source=numbers)
bad = of(wrong, source=lambda: [1, 3])
slow = of(wait, source=numbers, deadline=0.2)
waits = of(wait, source=numbers)
swallows = of(swallow, source=numbers)
threads = of(thread, source=numbers)
blocks = of(block, source=numbers)
looks = of(look, source=numbers)
just_a_stage = double
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(PIPELINES)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGERUN_")}
    return {**kept, "PYTHONWARNINGS": "default", **more}


def stagerun(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", environment())
    options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
    if options["stdin"] is None:
        del options["stdin"]
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
        **options,
    )


@contextmanager
def begun(folder: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a run and give it once a stage has said that it is at work."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )
    killer = threading.Timer(LONGEST, process.kill)
    killer.start()
    try:
        with process:
            until(process, lambda line: "begun" in line)
            yield process
    finally:
        killer.cancel()
        process.kill()


def until(process: subprocess.Popen[str], found: Callable[[str], bool]) -> list[str]:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found(line):
            return lines
    raise AssertionError(f"it ended before: {''.join(lines)}")


def document(folder: Path, run: str = "latest") -> dict[str, Any]:
    shown = stagerun(folder, "show", run, "--json")
    assert shown.returncode == 0, shown.stderr
    answer: dict[str, Any] = json.loads(shown.stdout)
    return answer


# -- exit statuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("good", "succeeded", 0),
        ("partly", "succeeded", 0),
        ("bad", "failed", 1),
        ("slow", "timed_out", 124),
    ],
)
def test_the_exit_status_tells_how_the_run_ended(
    folder: Path, target: str, status: str, code: int
) -> None:
    ended = stagerun(folder, "run", f"jobs.py:{target}")
    assert (ended.returncode, document(folder)["status"]) == (code, status)
    assert "Traceback" not in ended.stderr
    assert document(folder)["target"] == f"{folder / 'jobs.py'}:{target}"
    assert stagerun(folder, "watch", "latest").returncode == code


def test_a_module_is_found_in_the_current_folder(folder: Path) -> None:
    assert stagerun(folder, "run", "jobs:good").returncode == 0


def test_run_prints_the_table_where_the_database_is_and_what_to_type_next(folder: Path) -> None:
    ended = stagerun(folder, "run", "jobs.py:partly", "--db", "my runs.db")
    assert str(folder / "my runs.db") in ended.stdout
    assert not (folder / "stagerun.db").exists()
    assert "--db 'my runs.db'" in ended.stdout
    assert "[red]no[/red] \\x1b[31m\\x07" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr


# -- streams ------------------------------------------------------------------------------------


def test_json_is_all_that_run_prints_on_standard_output_and_it_is_what_show_gives(
    folder: Path,
) -> None:
    (folder / "noisy.py").write_text(
        "import os\nprint('noise')\nos.system('echo noise of a child')\nfrom jobs import *\n"
    )
    ended = stagerun(folder, "run", "noisy.py:good", "--json")
    run = json.loads(ended.stdout)
    assert (ended.returncode, run["status"], run["pipeline"]) == (0, "succeeded", "demo")
    now = document(folder, run["id"][:8])
    assert now == run
    assert ended.stderr.count("noise") >= 5


@pytest.mark.parametrize(
    "arguments",
    [["runs"], ["show", "latest"], ["watch", "latest"], ["logs", "latest"], ["stats", "demo"]],
)
def test_json_of_every_command_is_one_document(folder: Path, arguments: list[str]) -> None:
    stagerun(folder, "run", "jobs.py:partly")
    printed = stagerun(folder, *arguments, "--json")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert isinstance(json.loads(printed.stdout), dict)
    told = stagerun(folder, *arguments)
    assert told.returncode == 0
    assert "\x1b" not in told.stdout


def test_following_logs_ends_with_the_run_and_gives_a_document_a_line(folder: Path) -> None:
    stagerun(folder, "run", "jobs.py:partly")
    printed = stagerun(folder, "logs", "latest", "--follow", "--json")
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
    assert "run succeeded" in lines[-1]["message"]


@pytest.mark.parametrize("arguments", [["run", "jobs.py:bad"], ["run", "jobs.py:bad", "--json"]])
def test_a_closed_pipe_changes_neither_the_run_nor_its_exit_status(
    folder: Path, arguments: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        ended = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    assert ended.returncode == 1
    assert "Error" not in ended.stderr.replace("ValueError", "")
    assert document(folder)["status"] == "failed"


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_run_without_any_standard_stream_ends_as_usual(folder: Path, option: list[str]) -> None:
    words = " ".join(f"'{part}'" for part in [*COMMAND, "run", "jobs.py:bad", *option])
    ended = subprocess.run(
        ["sh", "-c", f"{words} <&- >&- 2>&-"],
        cwd=folder,
        env=environment(),
        timeout=LONGEST,
        check=False,
    )
    assert ended.returncode == 1
    assert document(folder)["status"] == "failed"


# -- input --------------------------------------------------------------------------------------


def test_items_come_from_a_file_and_blank_lines_are_skipped(folder: Path) -> None:
    (folder / "items.jsonl").write_bytes(b"\xef\xbb\xbf1\r\n\r\n2\n   \n3")
    run = json.loads(
        stagerun(folder, "run", "jobs.py:plain", "--input", "items.jsonl", "--json").stdout
    )
    assert (run["stages"][0]["ok"], run["percent"], run["source_length"]) == (3, 100.0, 3)


def test_items_come_from_standard_input(folder: Path) -> None:
    ended = stagerun(folder, "run", "jobs.py:plain", "--input", "-", "--json", input="1\n2\n\n3\n")
    assert json.loads(ended.stdout)["stages"][0]["ok"] == 3


def test_a_broken_line_of_a_file_is_refused_before_anything_starts(folder: Path) -> None:
    (folder / "items.jsonl").write_text('1\n\n{"a": \n4\n')
    ended = stagerun(folder, "run", "jobs.py:plain", "--input", "items.jsonl")
    assert ended.returncode == 2
    assert ended.stderr.startswith("stagerun: line 3 of items.jsonl is not one JSON value")
    assert not (folder / "stagerun.db").exists()


def test_a_broken_line_of_standard_input_ends_the_run_as_failed_and_is_named(folder: Path) -> None:
    ended = stagerun(folder, "run", "jobs.py:plain", "--input", "-", input="1\nnope\n3\n")
    assert ended.returncode == 2
    assert "stagerun: line 2 of standard input is not one JSON value" in ended.stderr
    assert "Traceback (most recent call last)" not in ended.stderr.partition("stagerun: line")[2]
    run = document(folder)
    assert (run["status"], run["cause"]) == ("failed", "source_error")
    assert "line 2" in run["message"]


def test_params_are_json_where_they_can_be_and_labels_filter_runs(folder: Path) -> None:
    more = ["--param", "depth=3", "--param", "name=Ada", "--label", "team=a"]
    run = json.loads(stagerun(folder, "run", "jobs.py:looks", *more, "--json").stdout)
    assert run["params"] == {"depth": 3, "name": "Ada"}
    assert run["labels"] == {"team": "a"}
    found = json.loads(stagerun(folder, "runs", "--label", "team=a", "--json").stdout)["runs"]
    assert [each["id"] for each in found] == [run["id"]]
    assert json.loads(stagerun(folder, "runs", "--label", "team=b", "--json").stdout) == {
        "runs": []
    }


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["run", "jobs.py:goood"], ["runs", "--db", "none.db"], []])
def test_a_mistake_is_answered_with_one_sentence_and_help_is_no_mistake(
    folder: Path, arguments: list[str]
) -> None:
    answer = stagerun(folder, *arguments)
    assert answer.returncode == (2 if arguments else 0)
    assert answer.stderr.count("\n") == (1 if arguments else 0)
    assert bool(answer.stdout) == (not arguments)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_database_is_a_mistake(folder: Path) -> None:
    stagerun(folder, "run", "jobs.py:good")
    (folder / "stagerun.db").chmod(0o444)
    refused = stagerun(folder, "run", "jobs.py:good")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_bad_setting_names_its_variable(folder: Path) -> None:
    refused = stagerun(
        folder, "run", "jobs.py:good", env=environment(STAGERUN_DEMO_DOUBLE_WORKERS="0")
    )
    assert refused.returncode == 2
    assert "STAGERUN_DEMO_DOUBLE_WORKERS" in refused.stderr


def test_the_database_can_be_named_in_the_environment(folder: Path) -> None:
    there = environment(STAGERUN_DB="there.db")
    ended = stagerun(folder, "run", "jobs.py:good", env=there)
    assert "--db" not in ended.stdout
    assert (folder / "there.db").exists()
    assert stagerun(folder, "show", "latest", env=there).returncode == 0


# -- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["waits", "swallows", "threads"])
@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGINT, 130, "cancelled"), (signal.SIGTERM, 3, "interrupted")],
)
def test_a_signal_ends_the_run_and_the_command_whatever_stages_do(
    folder: Path, target: str, number: signal.Signals, code: int, status: str
) -> None:
    with begun(folder, "run", f"jobs.py:{target}", "--json") as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=LONGEST)
    run = json.loads(out)
    assert (process.returncode, run["status"]) == (code, status)
    assert run["cause"] == ("signal" if number == signal.SIGINT else "shutdown")
    assert bool(run["survivors"]) == (target != "waits")
    assert document(folder)["status"] == status


def test_a_second_sigint_leaves_at_once(folder: Path) -> None:
    with begun(folder, "run", "jobs.py:swallows") as process:
        process.send_signal(signal.SIGINT)
        until(process, lambda line: "asked to stop" in line)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONGEST)
    assert process.returncode == 130


def test_a_blocked_event_loop_does_not_keep_the_command(folder: Path) -> None:
    with begun(folder, "run", "jobs.py:blocks") as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=LONGEST)
    assert process.returncode == 3
    assert "a stage blocks the event loop" in said


def test_a_run_that_waits_for_standard_input_can_be_cancelled(folder: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w") as feed:
        feed.write("1\n")
        feed.flush()
        with begun(folder, "run", "jobs.py:waits", "--input", "-", stdin=stdin) as process:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=LONGEST)
    assert process.returncode == 130, said
    assert "Fatal" not in said


def test_detaching_from_a_watched_run_leaves_it_alone(folder: Path) -> None:
    with begun(folder, "run", "jobs.py:waits") as process:
        watcher = subprocess.Popen(
            [*COMMAND, "watch", "latest"],
            cwd=folder,
            env=environment(),
            text=True,
            stderr=subprocess.PIPE,
        )
        with watcher:
            until(watcher, lambda line: "running" in line)
            watcher.send_signal(signal.SIGINT)
            _, said = watcher.communicate(timeout=LONGEST)
        assert watcher.returncode == 130
        assert "the run goes on" in said
        assert document(folder)["status"] == "running"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONGEST)


# -- the terminal -------------------------------------------------------------------------------


def test_on_a_terminal_bars_are_drawn_warnings_appear_above_and_the_cursor_returns(
    folder: Path,
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as screen:
        process = subprocess.Popen(
            [*COMMAND, "run", "jobs.py:partly"],
            cwd=folder,
            env=environment(TERM="xterm", COLUMNS="100", LINES="30"),
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=screen,
        )
    shown = b""
    with suppress(OSError):  # how Linux tells that nobody writes any more
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert process.wait(LONGEST) == 0
    text = shown.decode()
    assert "INFO" not in text
    assert "wrong: item 1 failed" in text
    assert "[red]no[/red] \\x1b[31m\\x07" in text
    assert "\x07" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
