"""The report's incident, with real processes: 18 jobs die with the old service.

    python -m examples.programs.incident --jobs 18

1. The old service (before.py) has 18 jobs under way and is killed (-9). Restarted, it says of all
   of them `in_progress`, and will for ever.
2. The new service (service.py) is started, four processes; adopt.py settles the old rows and has
   each job started again.
3. While they are worked off, one of the processes is killed, then all of them are, then they are
   restarted in order.
"""

import argparse
import sys
from collections import Counter
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import trio

from examples.models.server import running_models
from examples.programs.program import Brief
from examples.programs.servers import (
    BEFORE,
    LONGEST,
    ROOT,
    SERVICE,
    Server,
    questions,
    serving,
    until,
)

NEVER: Final = 3600.0
"""Seconds for an answer of a model whose client is killed before."""
USUAL: Final = 0.25
"""Seconds for an answer."""
GO_ON: Final = {"STAGERUN_PROGRAMS_ON_INTERRUPT": "resume"}
"""Nobody is there to ask for a retry."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.programs.incident",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=18)
    parser.add_argument("--folder", type=Path, help="for databases and logs; else one for now only")
    asked = parser.parse_args()
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        trio.run(incident, asked.folder or Path(folder), asked.jobs)


async def incident(folder: Path, count: int) -> None:
    """Tell the whole story."""
    jobs = await leave_zombies(folder, count)
    async with running_models() as models, serving(BEFORE, folder, models) as old:
        found = Counter([(await old.job(job))["status"] for job in jobs])
        print(f"the old service, killed and started again: {dict(found)}")
    tell(await finish(folder, jobs))


async def leave_zombies(folder: Path, count: int) -> list[str]:
    """Have the old service begin so many jobs, and kill it; return the jobs."""
    async with running_models(delay=NEVER) as models, serving(BEFORE, folder, models) as old:
        jobs = [await old.generate(brief(number)) for number in range(count)]

        async def all_wait_for_an_answer() -> bool:
            return bool((await questions(models))["open"] == count)

        await until(all_wait_for_an_answer)
        await old.kill()
    return jobs


def brief(number: int) -> Brief:
    return Brief(
        athlete=f"member {number} of the rowing club",
        goal=f"race {number} of the season",
        weeks=3 + number % 3,
        sessions=2 + number % 2,
    )


async def finish(folder: Path, jobs: list[str]) -> list[dict[str, Any]]:
    """Have the new service adopt the jobs and end them under kills; return how each one ended."""
    count = len(jobs)
    async with running_models(delay=USUAL) as models:
        start = partial(serving, SERVICE, folder, models, workers=4, settings=GO_ON)
        async with start() as new:
            print((await adopt(folder, new)).splitlines()[-1])
            await new.until_succeeded(count * 0.2)
            await new.kill_one()
            await new.until_succeeded(count * 0.5)
            await new.kill()
        async with start() as new:
            await new.until_succeeded(count * 0.8)
        async with start() as new:
            await new.until_succeeded(count)
            asked = await questions(models)
            print(f"the model answered {asked['contents']} questions, {asked['requests']} requests")
            return [await new.job(job) for job in jobs]


async def adopt(folder: Path, service: Server) -> str:
    """Run the adoption program; return what it prints."""
    arguments = [str(folder / "programs.db"), "--service", service.address]
    with trio.fail_after(LONGEST):
        done = await trio.run_process(
            [sys.executable, "-m", "examples.programs.adopt", *arguments],
            cwd=ROOT,
            capture_stdout=True,
        )
    return str(done.stdout.decode())


def tell(jobs: list[dict[str, Any]]) -> None:
    """Print how each job ended, and how long after its adoption."""
    for job in sorted(jobs, key=seconds):
        earlier = [f"{each['status']} ({each['cause']})" for each in job["earlier"]]
        print(f"  {job['job'][:8]} {job['status']} after {seconds(job):4.1f} s", *earlier, sep="; ")
    print(f"{dict(Counter(job['status'] for job in jobs))}")


def seconds(job: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(job[at]) for at in ("created_at", "finished_at"))
    return (ended - began).total_seconds()


if __name__ == "__main__":
    main()
