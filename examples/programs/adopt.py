"""Settle the jobs that the old service left `in_progress`, and have the new one start them again.

    python -m examples.programs.adopt OLD.db --service http://127.0.0.1:8000

Stop the old service first: its table cannot tell a job that somebody works on from one that nobody
does. Each row ends `failed` with a reason that names the job which goes on with it. That one is
started under a key of the row's own: asked again, or killed in the middle, nothing starts twice.
"""

import argparse
import sqlite3
import sys
from pathlib import Path

import httpx

from examples.programs import storage
from examples.programs.storage import OldJob


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.programs.adopt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, help="the old service's database")
    parser.add_argument("--service", default="http://127.0.0.1:8000", help="the new service")
    asked = parser.parse_args()
    try:
        adopt(asked.old, asked.service)
    except (ValueError, sqlite3.Error) as error:
        sys.exit(f"{asked.old} cannot be adopted from: {error}")
    except httpx.HTTPError as error:
        sys.exit(f"{asked.service} does not start jobs ({error}): see to it, then adopt again")


def adopt(old: Path, service: str) -> None:
    """Adopt every job that the old table calls `in_progress`, and print what became of it."""
    jobs = storage.zombies(old)
    with httpx.Client(base_url=service, timeout=30) as client:
        client.get("/jobs/readyz").raise_for_status()  # the old service has no such path
        for job in jobs:
            run, reason = started_again(client, job)
            storage.settle(old, job.id, reason, run)
            print(f"{job.id} failed: {reason}")
    left = len(storage.zombies(old))
    print(f"{len(jobs)} jobs of {old} were in_progress; now there are {left}")


def started_again(client: httpx.Client, job: OldJob) -> tuple[str | None, str]:
    """Return the run that goes on with a job, and the reason for its row."""
    key = {"Idempotency-Key": f"adopted {job.id}"}
    answer = client.post("/api/programs/generate", content=job.request, headers=key)
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        problem = answer.json()["detail"]
        return None, f"the server was restarted, and this cannot be started again: {problem}"
    run = answer.raise_for_status().json()["job"]
    return run, f"the server was restarted; job {run} goes on with this one"


if __name__ == "__main__":
    main()
