"""What the campaign has stagerun do while its disk misbehaves: small, each different.

A load opens the real runtime on a file, says what it was told, and ends. What comes out of its runs
in the end does not depend on when it was cut: ``finish()`` makes it so, and compares.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import field, frozen

from stagerun import (
    DROP,
    Pipeline,
    Result,
    Retry,
    Runtime,
    UsageError,
    batch,
    collect,
    open_runtime,
    stage,
)
from stagerun.engine.admission import AlreadyOpenError
from stagerun.store import log, writer
from tests.campaign.told import Say, reading

__all__ = ["FEW", "LOADS", "SLOW", "Load", "finish"]

SMALL, LARGE = 100, 1_500
"""Bytes of a result: one that rides in the item's row, and one that does not."""


@stage(workers=4, retry=Retry(attempts=2, base=0.0))
async def fetch(n: int, ctx: Any) -> dict[str, Any]:
    if n % 5 == 0 and ctx.attempt == 1:
        raise OSError("comes right the second time")
    if n % 11 == 0:
        raise ValueError("never comes right")
    return {"n": n, "text": "x" * (LARGE if n % 3 == 0 else SMALL)}


@stage(workers=2)
async def measure(page: dict[str, Any]) -> int:
    return int(page["n"]) * 1_000 + len(page["text"])


@stage(workers=3)
async def split(n: int) -> Any:
    for part in range(3):
        yield {"n": n, "part": part}


@stage(workers=4, key=lambda d: f"{d['n']}/{d['part']}")
async def check(d: dict[str, int]) -> Any:
    if d["n"] % 7 == 0:
        raise ValueError("never comes right")
    return DROP if d["n"] % 5 == 0 else d


@batch(size=6, wait=0.005, workers=2)
async def embed(ds: list[dict[str, int]]) -> list[dict[str, int]]:
    return [{**d, "vector": d["n"] * 3 + d["part"]} for d in ds]


@collect(by=lambda d: d["part"])
async def total(members: Any) -> int:
    return sum([m.value["vector"] async for m in members if m.ok])


@stage(workers=2)
async def slowly(n: int, ctx: Any) -> int:
    await trio.sleep(0.002)
    if n % 4 == 0:
        ctx.report("slowly", f"at {n}", n, 40)
        ctx.log.info("item %d", n)
    return n * n


PAGES: Final = Pipeline("pages", [fetch, measure])
PARTS: Final = Pipeline(
    "parts", [split, check, embed, total], source=lambda: range(1, 19),
    on_interrupt="resume", resumes=1_000,
)  # fmt: skip
SLOW: Final = Pipeline("slow", [slowly], grace=0.0)
PIPELINES: Final = (PAGES, PARTS, SLOW)


def _page(n: int) -> int:
    return n * 1_000 + (LARGE if n % 3 == 0 else SMALL)


RESULTS: Final[Mapping[str, Callable[[int], list[Any]]]] = {
    "pages": lambda items: [_page(n) for n in range(1, items + 1) if n % 11],
    "parts": lambda items: sorted(
        sum(n * 3 + part for n in range(1, items + 1) if n % 7 and n % 5) for part in range(3)
    ),
    "slow": lambda items: [n * n for n in range(items)],
}
"""What comes out of a run of each pipeline that was never cut, by how many items it was given."""


Opened = Callable[[Runtime], None]


@frozen
class Load:
    """One load, and how the engine is set for it."""

    name: str
    main: Callable[[Path, Say, Opened], Awaitable[None]]
    """Gets the database, says what it is told, and who is opened."""
    checkpoint_after: int = 64
    log_limit: int = 64 * 2**20
    failed_fsyncs: int = field(default=0)
    """How many calls of fsync fail on the way, at random."""
    refuses_for: float = field(default=0.0)
    """Seconds in which all that follow upon such a call fail as well."""

    def prepare(self) -> None:
        """Set the engine of this process for it."""
        writer._CHECKPOINT_AFTER = self.checkpoint_after
        log._LIMIT = self.log_limit


async def _pages(path: Path, say: Say, opened: Opened) -> None:
    """A list, one to one: few commits, many rows each."""
    async with open_runtime(path) as runtime:
        opened(runtime)
        with reading(path, say):
            await _run(runtime, say, PAGES, range(1, 61))


async def _parts(path: Path, say: Say, opened: Opened) -> None:
    """A source, one to many, batches and groups; twice, one after the other."""
    async with open_runtime(path, pipelines=PIPELINES) as runtime:
        opened(runtime)
        with reading(path, say):
            for _ in range(2):
                await _run(runtime, say, PARTS)


async def _commits(path: Path, say: Say, opened: Opened) -> None:
    """Many small commits, with reports and log lines."""
    async with open_runtime(path) as runtime:
        opened(runtime)
        with reading(path, say, 0.002):
            await _run(runtime, say, SLOW, range(40))
            await _run(runtime, say, SLOW, range(40))


async def _cancelled(path: Path, say: Say, opened: Opened) -> None:
    """A run is cancelled in its middle, and resumed; so is what failed of another."""
    async with open_runtime(path) as runtime:
        opened(runtime)
        with reading(path, say):
            run = await runtime.start(SLOW, range(40))
            say(["started", run.id, 40])
            with trio.fail_after(20):
                while run.counts[0].ok < 15:  # noqa: ASYNC110 - nobody tells of single items
                    await trio.sleep(0.002)
            await run.cancel()
            say(["cancel", run.id, run.generation])
            await _ended(run, say)
            await _ended(await run.resume(), say)
            pages = await _run(runtime, say, PAGES, range(1, 61))
            await _ended(await runtime.resume(pages.id, PAGES, failed=True), say)


async def _reopened(path: Path, say: Say, opened: Opened) -> None:
    """The program is left in the middle of its runs, and started again, twice."""
    for times in (1, 2, 3):
        async with open_runtime(path, pipelines=PIPELINES) as runtime:
            opened(runtime)
            with reading(path, say):
                old = _unfinished(path)
                slow = await (runtime.resume(old, SLOW) if old else runtime.start(SLOW, range(40)))
                if not old:
                    say(["started", slow.id, 40])
                parts = await runtime.start(PARTS, key="parts")
                say(["started", parts.id, 0])
                if times == 3:
                    await _ended(slow, say)
                    with trio.fail_after(20):
                        await (await runtime.find(parts.id)).wait()
                else:
                    with trio.move_on_after(5):
                        while slow.counts[0].ok < 10 * times:  # noqa: ASYNC110 - as above
                            await trio.sleep(0.002)


async def _few(path: Path, say: Say, opened: Opened) -> None:
    """A little of everything, for faults at each single call."""
    async with open_runtime(path, pipelines=PIPELINES) as runtime:
        opened(runtime)
        with reading(path, say):
            await _run(runtime, say, PAGES, range(1, 13))
            await _run(runtime, say, SLOW, range(6))


async def _crowd(path: Path, say: Say, opened: Opened, *, alone: bool = False) -> None:
    """Several runs at once; one waits in line for another; *alone*: nobody reads meanwhile."""
    async with open_runtime(path, pipelines=PIPELINES) as runtime, trio.open_nursery() as nursery:
        opened(runtime)
        with nullcontext() if alone else reading(path, say, 0.002):
            runs = [
                await runtime.start(PAGES, range(1, 61)),
                await runtime.start(SLOW, range(40), concurrency_key="slow"),
                await runtime.start(SLOW, range(40), concurrency_key="slow"),
                await runtime.start(PARTS),
            ]
            for run, items in zip(runs, (60, 40, 40, 0), strict=True):
                say(["started", run.id, items])
            for run in runs[1:]:
                nursery.start_soon(_ended, run, say)
            await _ended(runs[0], say)


LOADS: Final = {
    load.name: load
    for load in (
        Load("pages", _pages),
        Load("parts", _parts, checkpoint_after=3),
        Load("commits", _commits, checkpoint_after=7),
        Load("cancelled", _cancelled, checkpoint_after=5),
        Load("reopened", _reopened, checkpoint_after=9),
        Load("crowd", _crowd, checkpoint_after=4, log_limit=100_000),
        Load("refused", _crowd, checkpoint_after=4, failed_fsyncs=6),
        Load(
            "gone",
            partial(_crowd, alone=True),
            checkpoint_after=4,
            failed_fsyncs=4,
            refuses_for=0.02,
        ),
    )
}
FEW: Final = Load("few", _few, checkpoint_after=4)


async def _run(runtime: Runtime, say: Say, pipeline: Pipeline, items: Any = None) -> Any:
    run = await runtime.start(pipeline, items)
    say(["started", run.id, 0 if items is None else len(items)])
    await _ended(run, say)
    return run


async def _ended(run: Any, say: Say) -> None:
    with trio.fail_after(30):
        result = await run.wait()
    say(["ended", run.id, result.generation, result.status])
    wrong = await _differences(result)
    if wrong:
        raise AssertionError(*wrong)


def _unfinished(path: Path) -> str | None:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        row = connection.execute(
            "SELECT r.id FROM runs r JOIN generations g USING (run, generation)"
            " WHERE r.pipeline = 'slow' AND g.status = 'interrupted'"
        ).fetchone()
    return None if row is None else str(row[0])


# -- afterwards ----------------------------------------------------------------------------------


async def finish(
    path: Path, *, started: Collection[str] = (), settled_within: float = 1.0
) -> list[str]:
    """Open the file as the next process does, have all runs go on, and return what is wrong.

    *started*: runs whose start was acknowledged. One that was cut before may never begin.
    """
    wrong = list[str]()
    async with open_runtime(path, pipelines=PIPELINES) as runtime:
        began = trio.current_time()
        while left := _left(path):
            if trio.current_time() - began > settled_within:
                return [f"not settled {settled_within} s after the start: {left}"]
            await trio.sleep(0.005)
        with trio.move_on_after(30) as patience:
            for id_, pipeline in _runs(path):
                try:
                    result = await _to_its_end(runtime, id_)
                except UsageError as error:
                    if "has never begun" not in str(error) or id_ in started:
                        wrong.append(f"{pipeline} {id_[:8]}: {error}")
                    continue
                if result.status != "succeeded":
                    wrong.append(f"{pipeline} {id_[:8]} ended {result.status}: {result.message}")
                wrong += await _differences(result)
        if patience.cancelled_caught:
            wrong.append(f"not all runs ended within 30 s of the start: {runtime.tree()}")
    return wrong


async def _to_its_end(runtime: Runtime, id_: str) -> Result:
    while True:
        run = await runtime.find(id_)
        result = await run.wait()
        if result.status not in ("interrupted", "cancelled"):
            return result
        try:
            await runtime.resume(id_)
        except AlreadyOpenError:  # by on_interrupt="resume", just now
            await trio.sleep(0.002)


async def _differences(result: Result) -> list[str]:
    """Compare the results of a run with those of one that was never cut."""
    if result.status != "succeeded":
        return []
    values = [value async for value in result.results()]
    if result.pipeline == "parts":  # groups come as they may; else it is the items' order
        values.sort()
    if values != RESULTS[result.pipeline](result.stages[0].accepted):
        return [f"{result.pipeline} {result.id[:8]} gave {values}"]
    return []


def _left(path: Path) -> list[Any]:
    """Return what runs, or waits in line, for an owner that has gone."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(
            "SELECT r.id, g.status FROM runs r JOIN generations g USING (run, generation)"
            " JOIN owners o ON o.owner = g.owner WHERE g.finished_at IS NULL AND g.owner <>"
            " (SELECT max(owner) FROM owners)"
        ).fetchall()


def _runs(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute("SELECT id, pipeline FROM runs ORDER BY run").fetchall()
