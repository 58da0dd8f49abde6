"""stagerun at the same work as the baselines, everything stored."""

from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

from benchmarks.baselines import DEADLINE, RUN_DEADLINE, STAGES, WORKERS, check_counts
from benchmarks.process import BenchmarkError

OUTCOMES = "SELECT stage, count(*) FROM items GROUP BY stage"


def measure_stagerun(items: int, directory: Path) -> dict[str, float]:
    path = directory / "stagerun.db"
    seconds = run_stagerun(items, path)
    check_stored(items, path)
    return {"seconds": seconds}


def run_stagerun(items: int, path: Path) -> float:
    """Return the seconds from the start of the run until everything of it was committed."""
    return trio.run(_run, _load(), items, path)


def check_stored(items: int, path: Path) -> None:
    check_counts(path, OUTCOMES, items)


def _load() -> Any:
    stagerun = import_module("stagerun")
    missing = [
        name for name in ("Pipeline", "open_runtime", "stage") if not hasattr(stagerun, name)
    ]
    if missing:
        raise BenchmarkError(f"stagerun is not finished, it has no {', '.join(missing)}")
    return stagerun


async def _run(stagerun: Any, items: int, path: Path) -> float:
    declare = stagerun.stage(workers=WORKERS, deadline=DEADLINE)
    stages = [declare(function) for function in STAGES]
    pipeline = stagerun.Pipeline(
        "overhead", stages, deadline=RUN_DEADLINE, source=lambda: range(items)
    )
    async with stagerun.open_runtime(str(path)) as runtime:
        started = perf_counter()
        run = await runtime.start(pipeline)
        result = await run.wait()
        seconds = perf_counter() - started
    if result.status != "succeeded":
        raise BenchmarkError(f"the run did not succeed: {result}")
    return seconds
