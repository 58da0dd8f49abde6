"""``commit_first``: what goes on is on disk, whoever looks."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import DROP, Pipeline, Retry, Stage, batch, collect, open_runtime, stage
from stagerun.testing import crash_at_every_commit

pytestmark = pytest.mark.real

Known = Callable[[Any], bool]


@contextmanager
def looking(path: Path) -> Iterator[Known]:
    """Tell of a value whether anybody who opens the file would find it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:

        def known(value: int) -> bool:
            (there,) = connection.execute(
                "SELECT (SELECT count(*) FROM items WHERE stage = 0 AND outcome = 0 AND item = ?1)"
                " + (SELECT count(*) FROM emissions WHERE stage = 1 AND item = ?1)",
                (value,),
            ).fetchone()
            return bool(there)

        yield known


@stage(workers=4, commit_first=True)
async def same(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n


@stage(commit_first=True)  # one worker: a child's number is then its value
async def three_of_it(n: int) -> AsyncIterator[int]:
    for part in range(3):
        yield 3 * (n - 1) + part + 1


@batch(size=7, wait=0.001, commit_first=True)
async def as_they_come(ns: list[int]) -> list[int]:
    return ns


@stage(workers=2, commit_first=True, retry=Retry(attempts=2, base=0.0))
async def at_times(n: int, ctx: Any) -> int:
    if ctx.attempt == 1 and n % 2:
        raise OSError("once more")
    return n


@pytest.mark.parametrize("first", [same, three_of_it, as_they_come, at_times], ids=lambda s: s.name)
async def test_a_result_goes_on_when_it_is_on_disk(tmp_path: Path, first: Stage) -> None:
    path, early, seen = tmp_path / "runs.db", list[int](), list[int]()

    @stage(workers=3)
    async def after(number: int) -> int:
        seen.append(number)
        if not known(number):
            early.append(number)
        return number

    async with open_runtime(path) as runtime:
        with looking(path) as known:
            run = await runtime.start(Pipeline("look", [first, after]), range(1, 301))
            with trio.fail_after(60):
                result = await run.wait()
    assert result.status == "succeeded"
    assert early == []
    assert sorted(seen) == list(range(1, (901 if first is three_of_it else 301)))


async def test_without_it_results_go_on_at_once(tmp_path: Path) -> None:
    """That the test above can fail."""
    path, early = tmp_path / "runs.db", list[int]()

    @stage
    async def after(number: int) -> int:
        if not known(number):
            early.append(number)
        return number

    async with open_runtime(path) as runtime:
        with looking(path) as known:
            plain = same.with_options(commit_first=False)
            run = await runtime.start(Pipeline("look", [plain, after]), range(1, 301))
            with trio.fail_after(60):
                await run.wait()
    assert early


async def test_while_nothing_can_be_committed_no_more_wait_than_ten_times_the_buffer(
    tmp_path: Path,
) -> None:
    path, made, taken = tmp_path / "runs.db", list[int](), list[int]()

    @stage(workers=2, commit_first=True)
    async def make(n: int) -> int:
        if not made:
            foreign.execute("BEGIN IMMEDIATE")
        made.append(n)
        return n

    @stage(buffer=2)
    async def take(n: int) -> int:
        taken.append(n)
        return n

    async with open_runtime(path) as runtime:
        with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
            run = await runtime.start(Pipeline("held", [make, take]), range(100))
            with trio.fail_after(20):
                while runtime.health().status == "ok":  # noqa: ASYNC110 - it is asked for
                    await trio.sleep(0.01)
            assert 20 <= len(made) <= 22  # each of two workers may hold one more
            assert taken == []
            foreign.execute("ROLLBACK")
        with trio.fail_after(20):
            result = await run.wait()
    assert result.status == "succeeded"
    assert taken == list(range(100))


async def test_a_run_that_stops_meanwhile_loses_nothing(tmp_path: Path) -> None:
    path, held = tmp_path / "runs.db", list[int]()

    @stage(workers=2, commit_first=True)
    async def make(n: int) -> int:
        if not held:
            foreign.execute("BEGIN IMMEDIATE")
        held.append(n)
        return n

    @stage
    async def take(n: int) -> int:
        return n

    pipeline = Pipeline("held", [make, take], grace=0.1)
    async with open_runtime(path) as runtime:
        with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
            run = await runtime.start(pipeline, range(10))
            with trio.fail_after(20):
                while len(held) < 10:  # noqa: ASYNC110 - a list tells nobody
                    await trio.sleep(0.01)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.cancel)
                await trio.sleep(0.2)
                foreign.execute("ROLLBACK")
        with trio.fail_after(20):
            assert (await run.wait()).status == "cancelled"
            result = await (await runtime.resume(run.id, pipeline)).wait()
            assert [value async for value in result.results()] == list(range(10))
    assert sorted(held) == list(range(10)), "none was made twice"


def test_it_holds_at_every_crash() -> None:
    @stage(workers=2, commit_first=True)
    async def parts(n: int) -> AsyncIterator[int]:
        for part in range(3):
            await trio.sleep(0.01)
            yield 10 * n + part

    @stage(workers=2, commit_first=True)
    async def some(n: int) -> Any:
        return DROP if n % 10 == 1 else n

    @collect
    async def total(members: Any) -> int:
        return sum([member.value async for member in members if member.ok])

    pipeline = Pipeline("sums", [parts, some, total])
    report = crash_at_every_commit(pipeline, [1, 2, 3])
    assert report.crashes > 5


async def test_a_collect_stage_right_behind_it_holds_nobody_up(tmp_path: Path) -> None:
    @collect(buffer=3)
    async def count(members: AsyncIterator[Any]) -> int:
        return len([member async for member in members])

    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("count", [same, count], deadline=60), range(2_000))
        result = (await run.wait()).raise_for_status()
        assert [value async for value in result.results()] == [2_000]
