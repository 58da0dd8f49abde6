"""The default driver with its threads, and what becomes of a program around it."""

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, StoreError, open_runtime, stage
from stagerun.store.aio import AioStore

pytestmark = pytest.mark.real


@stage(workers=4)
async def double(item: int) -> int:
    return 2 * item


PIPELINE = Pipeline("double", [double])


async def test_every_outcome_is_in_the_file(tmp_path: Path) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        result = await (await runtime.start(PIPELINE, range(5000))).wait()
        assert [value async for value in result.results()] == [2 * n for n in range(5000)]
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        assert connection.execute("SELECT count(*), sum(outcome) FROM items").fetchone() == (
            5000,
            0,
        )
        assert connection.execute("SELECT ended_at IS NOT NULL FROM owners").fetchone() == (1,)


async def test_a_cancelled_question_is_interrupted_and_the_next_one_is_answered(
    tmp_path: Path,
) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    store = AioStore(tmp_path / "runs.db")
    async with open_runtime(store=store):
        with trio.move_on_after(0.05) as scope:
            await store.ask(lambda connection: connection.execute(endless).fetchone())
        assert scope.cancelled_caught
        assert await store.ask(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)


async def test_a_foreign_lock_delays_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        run = await runtime.start(PIPELINE, range(10))
        await run.wait()
        with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            with trio.move_on_after(0.3) as scope:
                await runtime.start(PIPELINE, range(10))
            assert scope.cancelled_caught, "a start is acknowledged only when it is on disk"
            foreign.execute("ROLLBACK")
        result = await (await runtime.start(PIPELINE, range(10))).wait()
        assert result.status == "succeeded"


async def test_a_lost_database_is_loud_and_nobody_waits_in_vain(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with pytest.raises(StoreError, match="no such table: items"):  # noqa: PT012 - its leaving too
        async with open_runtime(path) as runtime:
            with closing(sqlite3.connect(path)) as foreign:
                foreign.execute("DROP TABLE items")
            run = await runtime.start(PIPELINE, range(10))
            with trio.fail_after(30):
                await run.wait()


PROGRAM = """
    import sys, trio
    from stagerun import Pipeline, open_runtime, stage

    @stage
    async def one(item):
        return item

    async def main():
        {body}

    trio.run(main)
"""


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("async with open_runtime(sys.argv[1]) as r: sys.exit(3)", 3),
        (
            "async with open_runtime(sys.argv[1]) as r: await r.start(Pipeline('p', [one]), [1])",
            0,
        ),
        ("async with open_runtime(sys.argv[1]) as r: raise KeyError", 1),
        ("async with open_runtime(sys.argv[1] + '/no/where') as r: pass", 1),
    ],
)
def test_a_program_ends_however_it_leaves(tmp_path: Path, body: str, status: int) -> None:
    program = textwrap.dedent(PROGRAM).format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "runs.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Event loop is closed" not in done.stderr
