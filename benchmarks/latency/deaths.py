"""Processes that die: how soon a reader tells, and how soon somebody has settled their runs."""

import time
from contextlib import closing
from itertools import count
from pathlib import Path

from benchmarks.latency.figure import Figure
from benchmarks.latency.program import heard, program, seen
from stagerun.store.documents import run_document
from stagerun.store.opening import read_only

__all__ = ["beside", "start"]

_VICTIM = """
import sys, trio
from stagerun import Pipeline, open_runtime, stage

begun = trio.Event()

@stage(deadline=None)
async def hang(item):
    begun.set()
    await trio.sleep_forever()

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        run = await runtime.start(Pipeline("hang", [hang]), [1])
        await begun.wait()
        print(run.id, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
_OPENER = """
import sys, time, trio
from stagerun import open_runtime

async def main():
    print(time.monotonic(), flush=True)
    async with open_runtime(sys.argv[1]):
        print("open", flush=True)
        if sys.argv[2:] == ["stay"]:
            await trio.sleep_forever()

trio.run(main)
"""
_SETTLED = (
    "SELECT 1 FROM runs r JOIN generations g USING (run)"
    " WHERE r.id = ? AND g.status = 'interrupted' AND g.cause = 'owner_died'"
)
_LOOK = 5.0
"""Seconds between two looks of a living runtime at the other owners."""
_STEP = 0.618 * _LOOK
"""Deaths are spread over that time evenly, whatever their number."""


def start(repeats: int, directory: Path) -> list[Figure]:
    """A process with a run under way is killed; then another one opens the database."""
    path, samples = directory / "start.db", []
    for _ in range(repeats):
        with program(_VICTIM, path) as victim:
            run = heard(victim)
            victim.kill()
            victim.wait(timeout=30)
        with program(_OPENER, path) as opener:
            began = float(heard(opener))
            samples.append((seen(path, _SETTLED, run) - began) * 1000)
            opener.wait(timeout=30)
    return [Figure("dead owner, settled at the next start", samples, bound=1000)]


def beside(repeats: int, directory: Path) -> list[Figure]:
    """A process with a run under way is killed beside a living runtime on the same database."""
    path, told, settled = directory / "beside.db", [], []
    offsets = (_STEP * number % _LOOK for number in count())
    with program(_OPENER, path, "stay") as living:
        began = float(heard(living))
        heard(living)
        for _ in range(repeats):
            with program(_VICTIM, path) as victim:
                run = heard(victim)
                time.sleep((next(offsets) - (time.monotonic() - began)) % _LOOK)
                killed = time.monotonic()
                victim.kill()
                told.append((_told(path, run) - killed) * 1000)
                settled.append((seen(path, _SETTLED, run) - killed) * 1000)
    return [
        Figure("dead owner, told by `show`", told),
        Figure("dead owner, settled by a living runtime", settled, bound=6000),
    ]


def _told(path: Path, run: str) -> float:
    """Return when the document of a run says that its process has died."""
    with closing(read_only(path)) as connection:
        while run_document(run)(connection)["cause"] != "owner_died":
            pass
        return time.monotonic()
