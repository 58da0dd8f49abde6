"""`why` and `cancel` from another process: every planted hang is named, whatever it blocks."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.cli.main import call
from stagerun.store.documents import run_document, run_list
from stagerun.store.opening import read_only
from stagerun.store.reopening import adoptable

pytestmark = pytest.mark.real

HANGS = """
    import asyncio, sys, time, trio
    from stagerun import Pipeline, Retry, open_runtime, stage

    PORT = int(sys.argv[2]) if __name__ == "__main__" else 0
    LOCK = trio.Lock()

    @stage(deadline=120)
    async def silent_socket(n):
        stream = await trio.open_tcp_stream("127.0.0.1", PORT)
        await stream.receive_some(1)

    @stage(deadline=120)
    async def locked(n):
        async with LOCK:
            pass

    @stage(workers=4)
    async def quick(n):
        return n

    @stage(buffer=3, deadline=120)
    async def narrow(n):
        await trio.Event().wait()

    @stage(deadline=120)
    def sleeper(n):
        time.sleep(3600)

    @stage(deadline=7200, retry=Retry(attempts=3, base=3600, cap=3600))
    async def refused(n):
        raise ConnectionRefusedError("nobody listens there")

    @stage(deadline=120)
    async def blocker(n):
        await trio.sleep(0.2)
        time.sleep(3600)

    @stage(deadline=120, mode="asyncio")
    async def foreign(n):
        await asyncio.sleep(3600)

    @stage(deadline=120, mode="process")
    def apart(n):
        time.sleep(3600)

    async def careful(n, ctx):
        await ctx.token.wait()

    PIPELINES = {
        "socket": [silent_socket], "lock": [locked], "mailbox": [quick, narrow],
        "thread": [sleeper], "retry": [refused], "block": [blocker],
        "careful": [stage(careful)], "asyncio": [foreign], "process": [apart],
    }

    async def main():
        await LOCK.acquire()
        async with open_runtime(sys.argv[1]) as runtime:
            for name in sys.argv[3:]:
                pipeline = Pipeline(name, PIPELINES[name], grace=1, on_interrupt="resume")
                await runtime.start(pipeline, list(range(40)))
            print("begun", flush=True)
            await trio.sleep_forever()

    if __name__ == "__main__":
        trio.run(main)
"""


@contextmanager
def hanging(path: Path, *names: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a run of each of those pipelines."""
    program = path.with_name("hangs.py")
    program.write_text(textwrap.dedent(HANGS))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        process = subprocess.Popen(
            [sys.executable, str(program), str(path), port, *names],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()
            process.wait(timeout=30)
            if process.stdout is not None:
                process.stdout.close()


def run_of(path: Path, pipeline: str) -> str:
    with closing(read_only(path)) as connection:
        (document,) = run_list(pipeline=pipeline)(connection)
        return str(document["id"])


def begun_yet(path: Path, pipeline: str) -> bool:
    with closing(read_only(path)) as connection:
        return bool(run_list(pipeline=pipeline)(connection))


def asked(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Carry out a command here, which is another process than the run's."""
    capsys.readouterr()
    status = call([*words, "--db", str(path), "--json"])
    return status, json.loads(capsys.readouterr().out)


def why_with(
    path: Path, capsys: pytest.CaptureFixture[str], pipeline: str, sign: str
) -> dict[str, Any]:
    """Ask until the answer shows *sign*: the run may have only begun."""
    until = time.monotonic() + 20
    while True:
        status, told = asked(path, capsys, "why", run_of(path, pipeline))
        assert status == 0
        if sign in json.dumps(told) or time.monotonic() > until:
            return dict(told)


NAMED = [
    ("socket", "SocketStream.receive_some", "await stream.receive_some(1)", "silent_socket"),
    ("lock", "trio.Lock.acquire", "async with LOCK:", "locked"),
    ("mailbox", "trio.Event.wait", "await trio.Event().wait()", "narrow"),
    ("thread", "time.sleep(3600)", "time.sleep(3600)", "sleeper"),
    ("asyncio", "asyncio.sleep", "await asyncio.sleep(3600)", "foreign"),
]


def test_each_planted_hang_is_named_by_another_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, *(name for name, *_ in NAMED), "retry", "process") as process:
        for name, sign, code, stage_name in NAMED:
            told = why_with(path, capsys, name, sign)
            assert (told["told_by"], told["pid"]) == ("process", process.pid)
            (working,) = told["stages"][-1]["working"]
            assert working["items"] == [1], name
            assert working["places"][0]["code"] == code, name
            assert working["places"][0]["file"].endswith("hangs.py"), name
            assert f"item 1 of {stage_name}" in told["summary"], name
            assert sign in told["summary"], name
            assert "It is cut at its deadline, in " in told["summary"], name
        told = why_with(path, capsys, "mailbox", "narrow")
        assert "it is full" in told["summary"]
        told = why_with(path, capsys, "process", "the worker process")
        assert "item 1 of apart, for " in told["summary"]
        assert " now in the worker process " in told["summary"]
        told = why_with(path, capsys, "retry", "nobody listens there")
        assert told["stages"][0]["pausing_total"] >= 1
        assert "nobody listens there" in told["summary"]
        assert "Attempt 2 begins in" in told["summary"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def test_a_stage_that_blocks_the_event_loop_is_named_while_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, "lock", "block"):
        told = why_with(path, capsys, "block", "blocks the event loop")
        block = told["blocked"]
        assert (block["stage"], block["item"]) == ("blocker", 1)
        assert block["place"]["code"] == "time.sleep(3600)"
        assert [(one["stage"], one["item"]) for one in told["blocks"]] == [("blocker", 1)]
        assert "Item 1 of stage blocker blocks the event loop at " in told["summary"]
        # Every run of that process waits for it, and says so.
        told = why_with(path, capsys, "lock", "blocks")
        other = f"stage blocker of another run, {run_of(path, 'block')[:8]}, blocks"
        assert other in told["summary"]
        began = time.monotonic()
        status, answer = asked(path, capsys, "cancel", run_of(path, "block"), "--no-wait")
        assert time.monotonic() - began < 5
        assert (status, answer["became"]) == (0, "cancelling")
        assert "the event loop is blocked at" in answer["message"]
        with closing(sqlite3.connect(path)) as connection:
            row = connection.execute("SELECT taken_at - asked_at FROM requests").fetchone()
        assert row[0] < 1e6


def test_a_terminal_shows_it_within_its_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, "lock"):
        why_with(path, capsys, "lock", "trio.Lock.acquire")
        assert call(["why", "latest", "--db", str(path)]) == 0
        shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].startswith("running  lock ")
    assert "async with LOCK:" in shown
    assert "waits in trio.Lock.acquire" in shown
    assert max(map(len, lines[:-1])) <= 120
    assert call(["why", "latest", "--db", str(path)]) == 0  # its process is dead by now
    assert "its process died" in capsys.readouterr().out


def test_cancel_from_another_process_ends_the_run_and_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, "lock", "careful"):
        for name in ("lock", "careful"):
            run = run_of(path, name)
            status, answer = asked(path, capsys, "cancel", run[:8], "--reason", "wrong input")
            assert (status, answer["became"], answer["status"]) == (130, "ended", "cancelled")
            assert answer["message"].startswith("wrong input (asked by ")
            again = asked(path, capsys, "cancel", run)
            assert again == (status, answer)
            assert call(["cancel", run, "--db", str(path)]) == 130
            assert f"{run[:8]} ended cancelled (requested): wrong" in capsys.readouterr().out
    with closing(sqlite3.connect(path)) as connection:
        lasted = connection.execute("SELECT taken_at - asked_at FROM requests").fetchall()
        assert len(lasted) == 2
        assert max(lasted)[0] < 1e6


def test_a_dead_owner_s_run_is_interrupted_and_nobody_waits_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, "lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        run = run_of(path, "lock")
        status, answer = asked(path, capsys, "cancel", run)
        assert (status, answer["became"], answer["status"]) == (3, "ended", "interrupted")
        assert f"pid {process.pid}" in answer["message"]
        _, told = asked(path, capsys, "why", run)
        assert (told["told_by"], told["verdict"]) == ("database", "dead")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT status FROM generations").fetchone() == ("running",)


async def test_a_dead_owner_s_run_that_is_cancelled_is_not_resumed_by_anybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, "lock", "careful") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    status, answer = asked(path, capsys, "cancel", run_of(path, "lock"))
    assert (status, answer["status"]) == (3, "interrupted")
    async with open_runtime(path):
        pass
    with closing(read_only(path)) as connection:
        assert adoptable(["lock", "careful"], 0)(connection) == [(2, run_of(path, "careful"))]


def test_a_run_that_is_not_there_is_a_mistake_and_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    for command in ("why", "cancel"):
        assert call([command, "latest", "--db", str(path)]) == 2
        assert "there is no database" in capsys.readouterr().err
    assert not path.exists()


def test_a_stopped_process_is_told_from_one_that_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    with hanging(path, "lock") as process:
        why_with(path, capsys, "lock", "trio.Lock.acquire")
        process.send_signal(signal.SIGSTOP)
        status, told = asked(path, capsys, "why", "latest")
        assert (status, told["told_by"]) == (0, "database")
        assert f"Its process (pid {process.pid} on " in told["summary"]
        status, answer = asked(path, capsys, "cancel", "latest", "--no-wait")
        assert (status, answer["became"]) == (0, "asked")
        process.send_signal(signal.SIGCONT)
        status, answer = asked(path, capsys, "cancel", "latest")
        assert (status, answer["status"]) == (130, "cancelled")


async def test_beside_its_completion_the_answer_equals_the_row(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    @stage
    async def moment(seconds: float) -> None:
        await trio.sleep(seconds)

    async with open_runtime(path) as here, open_runtime(path) as there:
        for step in range(16):
            run = await here.start(Pipeline("moment", [moment]), [0.3])
            await trio.sleep(0.02 * step)
            answer = await there.cancel(run.id)
            result = await run.wait()
            if answer["became"] == "ended":
                assert (answer["status"], answer["cause"]) == (result.status, result.cause)
            after = await there.cancel(run.id)
            assert (after["became"], after["status"]) == ("ended", result.status)
        told = await there.why(run.id)
        assert told["status"] == result.status
    with closing(sqlite3.connect(path)) as connection:
        for answer_text, status in connection.execute(
            "SELECT q.answer, g.status FROM requests q JOIN generations g USING (run, generation)"
            " WHERE q.done_at IS NOT NULL"
        ):
            assert json.loads(answer_text)["status"] == status


async def test_each_planted_hang_is_named_in_process_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.db"
    begun, told_on, let_go = trio.Event(), threading.Event(), threading.Event()

    @stage
    async def silent_socket(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            begun.set()
            await stream.receive_some(1)

    @stage
    def sleeper(_port: int) -> None:
        told_on.set()
        let_go.wait(60)

    @stage
    async def blocker(_port: int) -> None:
        let_go.wait(60)

    def ask_while_it_blocks() -> dict[str, Any]:
        while not begun_yet(path, "blocker"):
            time.sleep(0.01)
        told = why_with(path, capsys, "blocker", "blocks the event loop")
        let_go.set()
        return told

    with socket.create_server(("127.0.0.1", 0)) as server:
        items = [server.getsockname()[1]]
        async with open_runtime(path) as runtime:
            first = await runtime.start(Pipeline("socket", [silent_socket], grace=0), items)
            second = await runtime.start(Pipeline("thread", [sleeper], grace=0), items)
            await begun.wait()
            await trio.to_thread.run_sync(told_on.wait)
            summary = (await first.why())["summary"]
            assert "item 1 of silent_socket, for " in summary
            assert "trio.SocketStream.receive_some" in summary
            summary = (await second.why())["summary"]
            assert "item 1 of sleeper, for " in summary
            assert "in a thread at " in summary
            assert "threading.Event.wait" in summary
            asker = threading.Thread(target=lambda: answers.append(ask_while_it_blocks()))
            answers: list[dict[str, Any]] = []
            asker.start()
            third = await runtime.start(Pipeline("blocker", [blocker]), items)
            await third.wait()
            await trio.to_thread.run_sync(asker.join)
            (told,) = answers
            assert (told["blocked"]["stage"], told["blocked"]["item"]) == ("blocker", 1)
            assert told["blocked"]["place"]["code"] == "let_go.wait(60)"
            assert "blocked" not in (await third.why())
            assert (await third.why())["blocks"][0]["stage"] == "blocker"
            await first.cancel()
            await first.wait()


async def test_a_runtime_asks_another_one_why(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    begun = trio.Event()

    @stage
    async def hang(_number: int) -> None:
        begun.set()
        await trio.sleep_forever()

    async with open_runtime(path) as here, open_runtime(path) as there:
        run = await here.start(Pipeline("hang", [hang], grace=0), [1])
        await begun.wait()
        mine, told = await run.why(), await there.why(run.id)
        assert told["told_by"] == "process"
        assert told["stages"][0]["working"][0]["places"][0]["code"] == "await trio.sleep_forever()"
        assert set(mine) == set(told)
        await run.cancel()
    with closing(read_only(path)) as connection:
        assert run_document(run.id)(connection)["status"] == "cancelled"
