"""The cases with stagerun, and what it costs to have each result on disk before it goes on."""

from pathlib import Path
from time import perf_counter

import trio

from benchmarks.baselines import DEADLINE, RUN_DEADLINE
from benchmarks.process import BenchmarkError
from benchmarks.real.cases import NAMES, SIZE, Case
from benchmarks.real.stored import check_stored
from stagerun import Pipeline, Retry, open_runtime, stage

__all__ = ["measure_with_stagerun"]

_STORED = f"""
    SELECT count(*) FILTER (WHERE outcome = 0), count(*) FILTER (WHERE outcome = 1),
        sum(attempts), count(*) FILTER (WHERE length(coalesce(result, r.value)) >= {SIZE}),
        count(*) FILTER (WHERE detail LIKE '%' || message || '%' AND error IS NOT NULL),
        (SELECT count(*) FROM emissions)
    FROM items LEFT JOIN results r USING (run, stage, item, generation)
        LEFT JOIN failures USING (run, stage, item, generation)
"""


def measure_with_stagerun(
    case: Case, items: int, directory: Path, *, commit_first: bool = False
) -> dict[str, float]:
    path = directory / "stagerun.db"
    seconds = trio.run(_run, _pipeline(case, items, commit_first), path)
    check_stored(path, _STORED, case.stored(items))
    return {"seconds": seconds}


def _pipeline(case: Case, items: int, commit_first: bool) -> Pipeline:
    stages = [
        stage(
            name=name,
            workers=case.workers,
            deadline=DEADLINE,
            retry=Retry(attempts=case.attempts, base=0),
            commit_first=commit_first,
        )(function)
        for name, function in zip(NAMES, case.functions(), strict=True)
    ]
    return Pipeline("real", stages, deadline=RUN_DEADLINE, source=lambda: range(items))


async def _run(pipeline: Pipeline, path: Path) -> float:
    async with open_runtime(path) as runtime:
        started = perf_counter()
        result = await (await runtime.start(pipeline)).wait()
        seconds = perf_counter() - started
    if result.status != "succeeded":
        raise BenchmarkError(f"the run did not succeed: {result}")
    return seconds
