"""`stagerun serve`: its address, who may come in, and how it ends."""

import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.real.serving import COMMAND, LONGEST, Server, environment, serving

pytestmark = pytest.mark.real

PIPELINES = """
    import time
    import trio
    from stagerun import Pipeline, stage

    @stage
    async def double(n):
        return 2 * n

    @stage(workers=1, deadline=None)
    async def wait(n):
        await trio.sleep_forever()

    @stage(workers=1, deadline=None)
    async def block(n):
        time.sleep(3600)

    @stage(workers=1, deadline=None)
    def thread(n):
        time.sleep(3600)

    doubles = Pipeline("doubles", [double], source=lambda: [1, 2, 3])
    again = Pipeline("doubles", [double])
    waits = Pipeline("waits", [wait], grace=0.2)
    blocks = Pipeline("blocks", [block], grace=0.2)
    threads = Pipeline("threads", [thread], grace=0.2)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(textwrap.dedent(PIPELINES))
    return tmp_path


def refused(folder: Path, *arguments: str, **variables: str) -> str:
    """Serve what must be refused; return the one sentence that is said."""
    done = subprocess.run(
        [*COMMAND, "serve", *arguments],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("stagerun: ")
    assert not (folder / "stagerun.db").exists(), "nothing was opened"
    return line


def until_ended(server: Server, run: str) -> dict[str, Any]:
    until = time.monotonic() + LONGEST
    while (document := server.get(f"runs/{run}"))["finished_at"] is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    return dict(document)


# -- it serves ----------------------------------------------------------------------------------


def test_pipelines_are_started_looked_at_and_found_in_the_database(folder: Path) -> None:
    with serving(folder, "jobs.py:doubles", "jobs.py:waits") as server:
        names = [each["name"] for each in server.get("pipelines")["pipelines"]]
        assert sorted(names) == ["doubles", "waits"]
        run = server.post("runs", {"pipeline": "doubles"})["id"]
        assert until_ended(server, run)["status"] == "succeeded"
        assert "<html" in server.get("").lower()
        code, out, said = server.stop()
    assert code == 0, said
    assert f"database   {folder / 'runs.db'}" in out
    assert "pipelines  doubles, waits" in out


def test_without_targets_runs_can_be_looked_at_and_none_be_started(folder: Path) -> None:
    with serving(folder, "jobs.py:doubles") as server:
        run = server.post("runs", {"pipeline": "doubles"})["id"]
        until_ended(server, run)
    with serving(folder) as server:
        assert server.get(f"runs/{run}")["status"] == "succeeded"
        status, problem = server.ask("POST", "runs", {"pipeline": "doubles"}, token=server.token)
        assert status == 404, problem
        _, out, _ = server.stop()
    assert "none to start" in out


def test_the_address_is_told_within_a_moment(folder: Path) -> None:
    """A second on a machine that has nothing else to do; here it may be busy."""
    began = time.monotonic()
    with serving(folder, "jobs.py:doubles") as server:
        assert time.monotonic() - began < 10
        assert server.get("healthz")["status"] == "ok"


def test_the_token_is_shown_to_a_person_behind_the_hash_and_to_nobody_else(folder: Path) -> None:
    with serving(folder, "jobs.py:doubles") as server:
        token = server.token
        assert stat.S_IMODE((folder / "runs.db.token").stat().st_mode) == 0o600
        _, out, said = server.stop()
    assert token not in out + said, "what is no screen may be a journal"
    assert f"token      in {folder / 'runs.db.token'}" in out

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "serve", "--db", "runs.db", "--port", "0"],
        cwd=folder,
        env=environment(TERM="xterm"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = ""
    with suppress(OSError):
        while "shuts down" not in shown:
            shown += os.read(ours, 65536).decode()
    process.send_signal(signal.SIGINT)
    with suppress(OSError):
        while part := os.read(ours, 65536):
            shown += part.decode()
    os.close(ours)
    assert process.wait(LONGEST) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert re.search(rf"http://127\.0\.0\.1:\d+/#token={re.escape(token)}\r", plain)
    assert "?token" not in plain


def test_whoever_changes_something_needs_the_token_and_the_variable_is_heard(folder: Path) -> None:
    token = "a token of 16 letters".replace(" ", "+")
    with serving(folder, "jobs.py:doubles", STAGERUN_TOKEN=token) as server:
        body = {"pipeline": "doubles"}
        assert server.ask("POST", "runs", body)[0] == 401
        assert server.ask("POST", "runs", body, token="wrong" * 5)[0] == 401
        assert server.ask("POST", "runs", body, token=token)[0] == 202
        assert not (folder / "runs.db.token").exists()
        _, out, said = server.stop()
    assert token not in out + said


def test_other_names_than_the_machines_own_must_be_allowed(folder: Path) -> None:
    with serving(folder, "--allow-host", "jobs.example") as server:
        token = server.token
        for host, status in (("jobs.example", 200), ("evil.example", 400), ("localhost", 200)):
            assert server.ask("GET", "runs", token=token, headers={"Host": host})[0] == status


# -- it refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_needs_a_token(folder: Path, host: str) -> None:
    line = refused(folder, "--host", host)
    assert "can be reached from other machines" in line
    assert "STAGERUN_TOKEN" in line


def test_an_address_that_others_reach_is_served_with_a_token(folder: Path) -> None:
    token = "0123456789abcdef"
    with serving(folder, "--host", "0.0.0.0", STAGERUN_TOKEN=token) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.ask("GET", "runs", token=token)[0] == 200


def test_a_port_that_is_taken_is_said_so_with_one_that_is_free(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        line = refused(folder, "--port", str(port))
    assert f"port {port} of 127.0.0.1 is taken" in line
    assert re.search(r"--port \d+ is free", line)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py:p"], "nowhere.py"),
        (["jobs.py:doubles", "jobs.py:again"], "both called 'doubles'"),
        (["--host", "no.such.host.invalid"], "no address of this machine"),
        (["--host", "192.0.2.1", "--token", "0123456789abcdef"], "cannot listen"),
        (["--port", "70000"], "--port"),
        (["--token", "short"], "16 visible"),
        (["--db", "no/such/folder/x.db"], "no/such/folder"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(
    folder: Path, arguments: list[str], says: str
) -> None:
    assert says in refused(folder, "--port", "0", *arguments)


def test_a_missing_extra_is_named(folder: Path) -> None:
    hidden = (
        "import sys; sys.modules['starlette'] = None; from stagerun.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden, "serve", "--port", "0"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'stagerun[web]'" in done.stderr


# -- it ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_the_runs_and_ends_streams_within_a_moment(
    folder: Path, number: signal.Signals
) -> None:
    with serving(folder, "jobs.py:waits") as server:
        run = server.post("runs", {"pipeline": "waits", "items": [1, 2]})["id"]
        streams = [urllib.request.urlopen(f"{server.url}runs/{run}/events") for _ in range(5)]
        for stream in streams:
            assert stream.readline()
        began = time.monotonic()
        code, _, said = server.stop(number)
        took = time.monotonic() - began
        for stream in streams:
            stream.close()
    assert code == 0, said
    assert "Traceback" not in said
    assert took < 1.2 + 0.2 + 2, "streams' second, the runs' grace, and some for a busy machine"
    with serving(folder) as server:
        document = server.get(f"runs/{run}")
    assert (document["status"], document["cause"]) == ("interrupted", "shutdown")


def test_a_thread_that_does_not_stop_does_not_keep_it(folder: Path) -> None:
    with serving(folder, "jobs.py:threads") as server:
        server.post("runs", {"pipeline": "threads", "items": [1]})
        code, _, said = server.stop()
    assert code == 0, said


def test_a_stage_that_blocks_does_not_keep_it_for_ever(folder: Path) -> None:
    with serving(folder, "jobs.py:blocks") as server:
        run = server.post("runs", {"pipeline": "blocks", "items": [1]})["id"]
        until = time.monotonic() + LONGEST
        while server.get(f"runs/{run}")["verdict"] != "blocked":
            assert time.monotonic() < until
            time.sleep(0.05)
        assert server.get("healthz")["status"] == "ok", "it answers all the while"
        server.process.send_signal(signal.SIGINT)
        assert server.process.stderr is not None
        assert any("shutting down" in line for line in server.process.stderr)
        code, _, _ = server.stop(signal.SIGINT)
    assert code == 130, "a second Ctrl-C leaves at once"
