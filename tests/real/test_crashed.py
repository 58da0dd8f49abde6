"""Real processes that die: their runs go on, and an item that kills again and again is found."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

PROGRAM = """
    import os, sys
    import trio
    from stagerun import Pipeline, open_runtime, stage

    POISON = {poison!r}

    @stage(workers=4)
    async def work(n: int) -> int:
        if n in POISON:
            os._exit(9)
        await trio.sleep(0.001)
        return n

    pipeline = Pipeline("poisoned", [work], on_interrupt="resume", resumes={resumes})

    async def main() -> None:
        async with open_runtime(sys.argv[1], pipelines=[pipeline]) as runtime:
            run = await runtime.start(pipeline, list(range(60)), key="the one")
            result = await run.wait()
            print(result.status, result.stages[0].ok, result.stages[0].crashed)

    trio.run(main)
"""


def program(folder: Path, **options: Any) -> Path:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PROGRAM.format(**options)))
    return path


def attempt(path: Path, database: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(path), str(database)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def test_an_item_that_kills_its_process_again_and_again_ends_crashed(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    path = program(tmp_path, poison={17}, resumes=5)
    codes = []
    for _ in range(6):
        done = attempt(path, database)
        codes.append(done.returncode)
        if done.returncode == 0:
            break
    assert codes == [9, 9, 9, 0], done.stderr
    assert done.stdout == "succeeded 59 1\n"
    assert rows(database, "SELECT item, outcome FROM item_overview WHERE outcome != 'ok'") == [
        (18, "crashed")
    ]
    ((cause, message),) = rows(database, "SELECT cause, message FROM failures")
    assert cause == "crashed"
    assert message.startswith("3 processes died while it was under way, 2 of them with nothing")
    executed = rows(database, "SELECT item, count(*) FROM items GROUP BY item HAVING count(*) > 1")
    assert executed == [], "what had a final outcome was executed again"


def test_two_such_items_are_told_apart(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    path = program(tmp_path, poison={16, 17}, resumes=20)
    for _ in range(12):
        done = attempt(path, database)
        if done.returncode == 0:
            break
    assert done.stdout == "succeeded 58 2\n"


def test_a_run_is_resumed_by_itself_at_most_a_set_number_of_times(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    path = program(tmp_path, poison={17}, resumes=1)
    assert [attempt(path, database).returncode for _ in range(2)] == [9, 9]
    left = rows(database, "SELECT resumes FROM runs")
    assert left == [(0,)]


TERMINATED = """
    import sys
    import trio
    from stagerun import Pipeline, open_runtime, stage

    @stage
    async def work(n: int) -> int:
        print("begun", flush=True)
        await trio.sleep_forever()
        return n

    async def main() -> None:
        async with open_runtime(sys.argv[1]) as runtime:
            run = await runtime.start(Pipeline("p", [work]), [1])
            await run.wait()

    trio.run(main)
"""


@pytest.mark.parametrize(("number", "suspects"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)])
def test_a_death_by_sigterm_has_no_suspects(
    tmp_path: Path, number: signal.Signals, suspects: int
) -> None:
    database, path = tmp_path / "runs.db", tmp_path / "program.py"
    path.write_text(textwrap.dedent(TERMINATED))
    with subprocess.Popen(
        [sys.executable, str(path), str(database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(30) == -number, "it dies of the signal as it did before"
    command = [sys.executable, "-m", "stagerun", "recover", "--db", str(database)]
    subprocess.run(command, check=True, capture_output=True)
    assert rows(database, "SELECT count(*) FROM deaths") == [(suspects,)]
    assert rows(database, "SELECT status FROM generations") == [("interrupted",)]
