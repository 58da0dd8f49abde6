"""Blocked loops, stopped processes and overdue runs, with real threads and real processes."""

import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.engine.overdue import Overdue
from stagerun.store.documents import run_document, run_list
from stagerun.store.opening import read_only
from stagerun.store.owner import Identity, Liveness, folder_of, probe
from stagerun.store.page import read_page

pytestmark = pytest.mark.real

PATIENCE = 30.0
"""Seconds after which a test gives up; none of them waits for so long."""


class Lines(logging.Handler):
    """What was logged, and an event for the first line of a sort."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted, self.seen, self.lines = wanted, threading.Event(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if self.wanted in self.lines[-1]:
            self.seen.set()


@contextmanager
def listening(wanted: str) -> Iterator[Lines]:
    lines = Lines(wanted)
    logging.getLogger("stagerun").addHandler(lines)
    try:
        yield lines
    finally:
        logging.getLogger("stagerun").removeHandler(lines)


def sleep_until(told: threading.Event) -> None:
    assert told.wait(PATIENCE)


def compute_until(told: threading.Event) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while not told.is_set():
        assert time.monotonic() < give_up_at


@pytest.mark.parametrize("block", [sleep_until, compute_until])
async def test_who_blocks_the_event_loop_is_named_while_it_does(
    tmp_path: Path, block: Callable[[threading.Event], None]
) -> None:
    with listening("blocks the event loop") as log:

        @stage(mode="async")
        async def guilty(item: int) -> float:
            await trio.lowlevel.checkpoint()
            began = time.monotonic()
            block(log.seen)
            return time.monotonic() - began

        async with open_runtime(tmp_path / "runs.db") as runtime:
            result = await (await runtime.start(Pipeline("p", [guilty]), [7])).wait()
            (seconds,) = [value async for value in result.results()]
            document = await (await runtime.start(Pipeline("p", [guilty]), [])).document()
    (line,) = [line for line in log.lines if log.wanted in line]
    assert "stage guilty, item 1, blocks the event loop" in line
    assert f"{__file__}:" in line
    assert block.__name__ in line
    assert seconds < PATIENCE, "it was told while it lasted"
    assert any("blocked the event loop for" in line for line in log.lines)
    assert document["pipeline"] == "p"
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        rows = connection.execute(
            "SELECT level, stage, item, json_extract(body, '$.ended'),"
            " json_extract(body, '$.place') FROM events WHERE kind = 'block' ORDER BY seq"
        ).fetchall()
        assert {row[:3] for row in rows} == {("WARNING", "guilty", 1)}
        assert [row[3] for row in rows] == [0] * (len(rows) - 1) + [1], "begun, and ended"
        kept = connection.execute(
            "SELECT count(*) FROM events WHERE kind = 'log' AND body LIKE '%blocks the event loop%'"
        ).fetchone()
        assert kept == (1,), "the line is kept with the run"


def catastrophe(seconds: float) -> str:
    """Return a text at which a regular expression works for so long, in C and without a pause."""
    length = 16
    while True:
        text = "a" * length + "b"
        began = time.monotonic()
        re.match(r"(a+)+$", text)
        if time.monotonic() - began > seconds:
            return text
        length += 1


async def test_c_code_that_holds_the_interpreter_is_named_when_it_lets_go(tmp_path: Path) -> None:
    text = catastrophe(0.7)
    with listening("stage guilty, item 1,") as log:

        @stage(mode="async")
        async def guilty(item: int) -> None:
            await trio.lowlevel.checkpoint()
            re.match(r"(a+)+$", text)

        async with open_runtime(tmp_path / "runs.db") as runtime:
            await (await runtime.start(Pipeline("p", [guilty]), [1])).wait()
    assert log.seen.wait(PATIENCE), log.lines
    (line, *_) = [line for line in log.lines if log.wanted in line]
    # On a busy machine the look may come when it is over: then it is said so, with the stage.
    assert "held the interpreter" in line or "seems to have blocked the event loop" in line
    assert f"{__file__}:" in line


async def test_an_innocent_item_is_not_timed_out_by_one_that_blocks_and_the_guilty_is(
    tmp_path: Path,
) -> None:
    begun = trio.Event()
    with listening("blocks the event loop") as log:

        @stage(mode="async", deadline=0.3)
        async def guilty(item: int) -> None:
            await begun.wait()
            began = time.monotonic()
            sleep_until(log.seen)
            until(lambda: time.monotonic() > began + 1.0)  # longer than both deadlines

        @stage(deadline=0.5)
        async def innocent(item: int) -> int:
            begun.set()
            await trio.sleep(0.05)
            return item

        async with open_runtime(tmp_path / "runs.db") as runtime:
            bad = await runtime.start(Pipeline("bad", [guilty]), [1])
            good = await runtime.start(Pipeline("good", [innocent]), [1])
            assert (await bad.wait()).stages[0].timed_out == 1
            assert (await good.wait()).stages[0].ok == 1
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        rows = connection.execute("SELECT outcome, attempts FROM item_overview").fetchall()
        assert sorted(rows) == [("ok", 1), ("timed_out", 1)]


async def test_an_overdue_run_is_ended_while_its_loop_is_still_blocked(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    seen = list[tuple[str, str, str]]()

    @stage(mode="async")
    async def guilty(item: int) -> None:
        query = "SELECT status, cause, message FROM generations WHERE finished_at > 0"
        with closing(read_only(path)) as connection:
            until(lambda: seen or connection.execute(query).fetchone())
            seen[:] = connection.execute(query).fetchall()

    async with open_runtime(path) as runtime:
        run = await runtime.start(Pipeline("late", [guilty], deadline=0.3, grace=0.1), [1, 2])
        result = await run.wait()
    ((status, cause, message),) = seen
    assert (status, cause) == ("timed_out", "run_deadline") == (result.status, result.cause)
    assert message == result.message
    assert "stage guilty, item 1, blocks the event loop at" in message
    assert f"{__file__}:" in message


OTHER = """
    import sys, trio
    from stagerun import Pipeline, open_runtime, stage

    @stage
    async def hang(item):
        print("begun", flush=True)
        await trio.sleep_forever()

    async def main():
        async with open_runtime(sys.argv[1]) as runtime:
            run = await runtime.start(Pipeline("hang", [hang], deadline=3600, grace=0.2), [1])
            try:
                print(await run.wait(), flush=True)
            except Exception as error:
                print("ended:", error, flush=True)

    trio.run(main)
"""


@contextmanager
def other_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OTHER), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)
        process.stdout.close()
        process.stderr.close()


def owner_of(path: Path) -> tuple[str, Identity]:
    with closing(sqlite3.connect(path)) as connection:
        identifier, device, inode = connection.execute(
            "SELECT id, device, inode FROM owners ORDER BY owner LIMIT 1"
        ).fetchone()
    return identifier, Identity(device, inode)


def until(true: Callable[[], Any]) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def stop(process: "subprocess.Popen[str]", path: Path) -> None:
    """Stop a process, and wait until its page says that it has stood still for long."""
    file = folder_of(path) / owner_of(path)[0]

    def still() -> bool:
        page = read_page(file)
        return page is not None and time.monotonic() - page.pulse > 1.5

    def stopped_outside_of_a_commit() -> bool:
        process.send_signal(signal.SIGSTOP)
        until(still)
        try:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError:  # nothing can break the lock of a stopped process
            process.send_signal(signal.SIGCONT)
            return False
        return True

    until(stopped_outside_of_a_commit)


def the_run(path: Path) -> dict[str, Any]:
    with closing(read_only(path)) as connection:
        (document,) = run_list()(connection)
        return run_document(str(document["id"]))(connection)


def test_a_stopped_process_looks_suspended_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    with other_process(path) as process:
        assert the_run(path)["verdict"] == "alive"
        stop(process, path)
        document = the_run(path)
        assert (document["status"], document["verdict"]) == ("running", "suspended")
        process.send_signal(signal.SIGCONT)
        until(lambda: the_run(path)["verdict"] == "alive")
        assert process.stderr is not None
        while "the process stood still for" not in (line := process.stderr.readline()):
            assert line, "it said so in a line of log"


async def test_an_overdue_run_of_a_stopped_process_is_ended_by_another_one_that_was_patient(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    now = 0.0
    with other_process(path) as process:
        stop(process, path)
        env = Env(wall=lambda: time.time() + 4000, monotonic=lambda: now)
        async with open_runtime(path) as runtime:
            overdue = Overdue(runtime._store, runtime._recorder, env)
            for now in (0.0, 5.0, 10.0, 60.0, 65.0, 70.0):  # noqa: B007 - the clock reads it
                assert await overdue.look(runtime._household.owner) == 0, "there was a gap"
            now = 75.0
            assert await overdue.look(runtime._household.owner) == 1
        document = the_run(path)
        assert (document["status"], document["cause"]) == ("timed_out", "run_deadline")
        assert f"pid {process.pid}" in document["message"]
        assert f"pid {os.getpid()}" in document["message"]
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert "TIMED_OUT" in process.stdout.readline(), "it hears of it though it writes nothing"


async def test_the_stored_deadline_of_a_living_process_follows_its_clock_before_anybody_ends_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    now = 0.0
    with other_process(path):
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            connection.execute("UPDATE generations SET deadline_at = 1")  # as if it had slept
            connection.commit()
            until(
                lambda: connection.execute("SELECT deadline_at > 1 FROM generations").fetchone()[0]
            )
        async with open_runtime(path) as runtime:
            overdue = Overdue(runtime._store, runtime._recorder, Env(monotonic=lambda: now))
            for now in range(0, 60, 5):  # noqa: B007 - the clock reads it
                assert await overdue.look(runtime._household.owner) == 0
        assert the_run(path)["verdict"] == "alive"


async def test_an_owner_without_file_and_life_is_settled_by_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    now = 0.0
    with other_process(path) as process:
        stop(process, path)
        (folder_of(path) / owner_of(path)[0]).unlink()
        assert the_run(path)["verdict"] == "unknown"
        async with open_runtime(path) as runtime:
            overdue = Overdue(runtime._store, runtime._recorder, Env(monotonic=lambda: now))
            for now in (0.0, 5.0, 10.0):  # noqa: B007 - the clock reads it
                assert await overdue.look(runtime._household.owner) == 0
            now = 15.0
            assert await overdue.look(runtime._household.owner) == 1
        assert (the_run(path)["status"], the_run(path)["cause"]) == ("interrupted", "owner_died")
        with closing(sqlite3.connect(path)) as connection:
            cause = connection.execute("SELECT ended_cause FROM owners ORDER BY owner").fetchone()
            assert cause == ("lease",)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert "OWNER_DIED" in process.stdout.readline(), "it stops its runs when it goes on"


def test_a_living_owner_puts_its_file_back_and_is_never_taken_for_dead(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with other_process(path):
        identifier, before = owner_of(path)
        (folder_of(path) / identifier).unlink()
        until(lambda: owner_of(path)[1] != before)
        assert probe(folder_of(path) / identifier, owner_of(path)[1]) is Liveness.ALIVE
        assert the_run(path)["verdict"] == "alive"
        page = read_page(folder_of(path) / identifier)
        assert page is not None
        assert [each.item for each in page.in_flight] == [1]


def test_a_beat_tells_memory_and_a_death_near_the_limit_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with (
        other_process(path) as process,
        closing(sqlite3.connect(path, timeout=PATIENCE)) as connection,
    ):
        until(lambda: connection.execute("SELECT memory_used FROM owners").fetchone()[0])
        (used,) = connection.execute("SELECT memory_used FROM owners").fetchone()
        assert 5e6 < used < 1e9
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=PATIENCE)
        connection.execute("UPDATE owners SET memory_limit = CAST(memory_used * 1.05 AS INTEGER)")
        connection.commit()
    assert "probably out of memory" in the_run(path)["message"]


async def test_who_goes_on_in_the_same_round_as_a_blocker_has_not_timed_out(tmp_path: Path) -> None:
    begun, go = list[int](), trio.Event()

    @stage(workers=8, deadline=0.5)
    async def together(item: int) -> int:
        begun.append(item)
        if len(begun) == 8:
            go.set()
        await go.wait()
        if item == 3:
            time.sleep(1)  # noqa: ASYNC251 - the fault that is played here
        return item

    async with open_runtime(tmp_path / "runs.db") as runtime:
        result = await (await runtime.start(Pipeline("p", [together]), list(range(8)))).wait()
    assert (result.stages[0].ok, result.stages[0].timed_out) == (7, 1)
