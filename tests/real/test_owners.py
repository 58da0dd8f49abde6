"""Owners: a dead process's runs are told and settled, a living one's are never touched."""

import logging
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.store.documents import run_document, run_list
from stagerun.store.opening import read_only
from stagerun.store.owner import Identity, Liveness, OwnerFile, probe

pytestmark = pytest.mark.real

OTHER = """
    import os, sys, trio
    from stagerun import Pipeline, open_runtime, stage

    @stage
    async def hang(item):
        if {forks} and os.fork() == 0:
            import time
            print("forked", os.getpid(), flush=True)
            time.sleep(15)
            os._exit(0)
        print("begun", flush=True)
        await trio.sleep_forever()

    async def main():
        async with open_runtime(sys.argv[1]) as runtime:
            await (await runtime.start(Pipeline("hang", [hang]), [1, 2])).wait()

    trio.run(main)
"""


@contextmanager
def other_process(path: Path, *, forks: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process with a run under way on the same database."""
    program = textwrap.dedent(OTHER).format(forks=forks)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while "begun" not in process.stdout.readline():
            pass
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)


def the_run(path: Path) -> dict[str, object]:
    with closing(read_only(path)) as connection:
        (document,) = run_list()(connection)
        return run_document(str(document["id"]))(connection)


def test_whoever_reads_is_told_of_a_dead_owner_before_anybody_has_settled_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    with other_process(path) as process:
        assert (the_run(path)["status"], the_run(path)["verdict"]) == ("running", "alive")
        kill(process)
        document = the_run(path)
    assert (document["status"], document["cause"]) == ("interrupted", "owner_died")
    assert f"pid {process.pid}" in str(document["message"])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT status FROM generations").fetchone() == ("running",)


async def test_the_next_runtime_settles_a_dead_owner_and_no_living_one(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with other_process(path) as living, other_process(path) as dead:
        kill(dead)
        async with open_runtime(path):
            with closing(sqlite3.connect(path)) as connection:
                rows = connection.execute(
                    "SELECT o.pid, g.status, g.cause, o.ended_cause FROM generations g"
                    " JOIN owners o ON o.owner = g.owner"
                ).fetchall()
                assert sorted(rows) == sorted(
                    [
                        (living.pid, "running", None, None),
                        (dead.pid, "interrupted", "owner_died", "dead"),
                    ]
                )
                stages = connection.execute(
                    "SELECT s.status, s.in_flight FROM stages s JOIN generations g USING (run)"
                    " WHERE g.status = 'interrupted'"
                ).fetchall()
                assert stages == [("interrupted", 0)]
                events = connection.execute(
                    "SELECT count(*), max(seq), (SELECT events FROM runs r WHERE r.run = e.run)"
                    " FROM events e GROUP BY run"
                ).fetchall()
                assert all(count == last == noted for count, last, noted in events)


async def test_a_runtime_settles_owners_that_die_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    settled = trio.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "runs settled: 1" in record.getMessage():
                settled.set()

    listener = Listener()
    logging.getLogger("stagerun").addHandler(listener)
    try:
        async with open_runtime(path):
            with other_process(path) as process:
                kill(process)
            with trio.fail_after(15):
                await settled.wait()
            with closing(sqlite3.connect(path)) as connection:
                row = connection.execute("SELECT status, cause FROM generations").fetchone()
                assert row == ("interrupted", "owner_died")
    finally:
        logging.getLogger("stagerun").removeHandler(listener)


def test_a_forked_child_does_not_keep_a_dead_owner_alive(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with other_process(path, forks=True) as process:
        kill(process)
        assert the_run(path)["verdict"] == "dead"
    # Its children sleep on without a parent, and end by themselves.


async def test_a_run_that_another_process_has_ended_stops_and_writes_nothing_more(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"

    @stage
    async def tick(item: int) -> int:
        await trio.sleep(0.01)
        return item

    async with open_runtime(path) as runtime:
        run = await runtime.start(Pipeline("tick", [tick]), range(10_000))
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.execute(
                "UPDATE generations SET status = 'interrupted', cause = 'owner_died',"
                " message = 'taken', finished_at = 1"
            )
            connection.commit()
            with trio.fail_after(10):
                result = await run.wait()
            assert (result.status, result.cause, result.message) == (
                "interrupted",
                "owner_died",
                "taken",
            )
            (before,) = connection.execute("SELECT count(*) FROM items").fetchone()
            (status,) = connection.execute("SELECT status FROM generations").fetchone()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (before,)
        assert status == "interrupted"


def test_the_lock_tells_life_and_a_replaced_file_tells_nothing(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    file = OwnerFile(database, "me")
    assert probe(file.path, file.identity) is Liveness.ALIVE
    file.path.unlink()
    assert probe(file.path, file.identity) is Liveness.UNKNOWN
    file.path.write_text("")
    if file.path.stat().st_ino != file.identity.inode:
        assert probe(file.path, file.identity) is Liveness.UNKNOWN
    file.let_go()
    other = OwnerFile(database, "other")
    other.let_go()
    assert probe(other.path, other.identity) is Liveness.DEAD
    assert probe(other.path, Identity(0, 0)) is Liveness.UNKNOWN
