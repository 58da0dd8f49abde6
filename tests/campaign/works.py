"""The pipelines of the kills, and the side file in which their stages write what they execute.

That file is the truth about what was done: a line for each call of a stage, written at once.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, frozen

from stagerun import DROP, Pipeline, Retry, Schedule, batch, collect, stage

__all__ = ["RESULTS", "Call", "SideFile", "Works", "numbers"]

LARGE: Final = 1_500
"""Bytes of a result that does not ride in the item's row."""


@frozen
class Call:
    """A stage was called: one line of the side file."""

    life: int
    run: str
    generation: int
    stage: int
    item: int
    attempt: int


@define(eq=False)
class SideFile:
    """Where the stages of one life write."""

    descriptor: int
    life: int

    @classmethod
    def opened(cls, path: Path, life: int) -> "SideFile":
        """Open it; the process's end closes it."""
        return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), life)

    def called(self, ctx: Any, item: int | None = None) -> None:
        """Write that a stage is called. *item*: its number, where it is one of a batch."""
        actor, number = ctx._desk.actor, ctx.item if item is None else item
        place = (ctx.run, actor.hub.ledger.generation, actor.index, number, ctx.attempt)
        os.write(self.descriptor, (" ".join(map(str, (self.life, *place))) + "\n").encode())

    @staticmethod
    def read(path: Path) -> list[Call]:
        """Read what all lives have written."""
        calls = []
        for line in path.read_text().splitlines() if path.exists() else ():
            life, run, *rest = line.split()
            calls.append(Call(int(life), run, *map(int, rest)))
        return calls


def numbers(count: int) -> Callable[[], Iterable[int]]:
    """Return a function that is a source."""
    return lambda: range(1, count + 1)


class Works:
    """The pipelines as one life has them. In its first life what is slow is slow."""

    def __init__(self, side: SideFile) -> None:
        self._side = side
        self._first = side.life == 1
        pipelines = (
            self._pages(), self._parts(), self._slow(), self._timed(), self._told(), self._blocks()
        )  # fmt: skip
        self.pipelines: Mapping[str, Pipeline] = {p.name: p for p in pipelines}

    def __getitem__(self, name: str) -> Pipeline:
        return self.pipelines[name]

    def schedule(self) -> Schedule:
        """Return a schedule whose slots come when somebody moves them."""
        return Schedule(
            "hourly", self["told"], every=3_600, overlap="queue", active=2, items=[1, 2]
        )

    def _pages(self) -> Pipeline:
        """One to one: retries, failures, results of two sizes."""

        @stage(workers=4, retry=Retry(attempts=2, base=0.0))
        async def fetch(n: int, ctx: Any) -> dict[str, Any]:
            self._side.called(ctx)
            if n % 5 == 0 and ctx.attempt == 1:
                raise OSError("comes right the second time")
            if n % 7 == 0:
                raise ValueError("never comes right")
            return {"n": n, "text": "x" * (LARGE if n % 3 == 0 else 100)}

        @stage(workers=2)
        async def measure(page: dict[str, Any], ctx: Any) -> int:
            self._side.called(ctx)
            return int(page["n"]) * 10_000 + len(page["text"])

        return Pipeline("pages", [fetch, measure])

    def _parts(self) -> Pipeline:
        """One to many with keys, drops, a batch and groups; taken over by whoever knows it."""

        @stage(workers=2)
        async def split(n: int, ctx: Any) -> AsyncIterator[dict[str, int]]:
            self._side.called(ctx)
            for part in range(3):
                yield {"n": n, "part": part}

        @stage(workers=3, key=lambda d: f"{d['n']}/{d['part']}")
        async def check(d: dict[str, int], ctx: Any) -> Any:
            self._side.called(ctx)
            if d["n"] % 7 == 0:
                raise ValueError("never comes right")
            return DROP if d["n"] % 5 == 0 else {**d, "item": ctx.item}

        @batch(size=4, wait=0.002, workers=2)
        async def embed(ds: list[dict[str, int]], ctx: Any) -> list[dict[str, int]]:
            for d in ds:
                self._side.called(ctx, d["item"])
            return [{**d, "vector": d["n"] * 3 + d["part"]} for d in ds]

        @collect(by=lambda d: d["part"])
        async def total(members: AsyncIterator[Any], ctx: Any) -> int:
            self._side.called(ctx)
            return sum([m.value["vector"] async for m in members if m.ok])

        return Pipeline(
            "parts", [split, check, embed, total], source=numbers(8),
            on_interrupt="resume", resumes=1_000,
        )  # fmt: skip

    def _slow(self) -> Pipeline:
        """Items that take a moment, and from the 25th on so long that the run must be stopped."""

        @stage(workers=2)
        async def slowly(n: int, ctx: Any) -> int:
            self._side.called(ctx)
            await trio.sleep(60 if self._first and n > 24 else 0.001)
            return n * n

        return Pipeline("slow", [slowly], grace=0.1)

    def _timed(self) -> Pipeline:
        """A run that does not make its deadline in its first life."""

        @stage(workers=2)
        async def linger(n: int, ctx: Any) -> int:
            self._side.called(ctx)
            await trio.sleep(60 if self._first and n > 4 else 0)
            return n + 1

        return Pipeline("timed", [linger], deadline=0.05 if self._first else 30, grace=0.1)

    def _told(self) -> Pipeline:
        """Reports and log lines; one stage is in threads."""

        @stage(workers=2)
        async def tell(n: int, ctx: Any) -> int:
            self._side.called(ctx)
            ctx.report("tell", f"at {n}", n, 6)
            ctx.log.info("item %d", n)
            return n

        @stage(workers=2)
        def plainly(n: int, ctx: Any) -> int:
            self._side.called(ctx)
            return n * 5

        return Pipeline("told", [tell, plainly])

    def _blocks(self) -> Pipeline:
        """A stage that blocks the event loop until the store's thread ends the run."""

        @stage()
        async def block(n: int, ctx: Any) -> int:
            self._side.called(ctx)
            if self._first:
                time.sleep(2.5)  # noqa: ASYNC251 - that is what it is there for
            return -n

        return Pipeline("blocks", [block], deadline=0.1 if self._first else 30, grace=0.0)


def _page(n: int) -> int:
    return n * 10_000 + (LARGE if n % 3 == 0 else 100)


RESULTS: Final[Mapping[str, Callable[[int], list[int]]]] = {
    "pages": lambda items: [_page(n) for n in range(1, items + 1) if n % 7],
    "parts": lambda items: sorted(
        sum(n * 3 + part for n in range(1, items + 1) if n % 7 and n % 5) for part in range(3)
    ),
    "slow": lambda items: [n * n for n in range(1, items + 1)],
    "timed": lambda items: [n + 1 for n in range(1, items + 1)],
    "told": lambda items: [n * 5 for n in range(1, items + 1)],
    "blocks": lambda items: [-n for n in range(1, items + 1)],
}
"""What comes out of a run of each pipeline that was never cut, by how many items it was given."""
