# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""A small service as docs/deployment.md shows one, for tests that deploy it.

Each execution of an item is a line of the file EXECUTED, so that a test can count them.
"""

import os
import time
from pathlib import Path

import trio
from fastapi import FastAPI

from stagerun import Pipeline, stage
from stagerun.web import Service


def note(number):
    with Path(os.environ["EXECUTED"]).open("a") as lines:
        lines.write(f"{number}\n")


@stage(workers=4, deadline=60)
async def step(item):
    note(item["number"])
    await trio.sleep(item["seconds"])
    return item["number"]


@stage(deadline=60)
async def freeze(item):
    note(item["number"])
    time.sleep(item["seconds"])  # noqa: ASYNC251 - the fault that is played here
    return item["number"]


@stage(workers=4, deadline=5)
async def crunch(item):
    """Use the processor in small pieces, as healthy code does."""
    note(item["number"])
    for _ in range(item["pieces"]):
        sum(range(2_000))
        await trio.lowlevel.checkpoint()
    return item["number"]


PIPELINES = [
    Pipeline("work", [step], on_interrupt="resume"),
    Pipeline("frozen", [freeze]),
    Pipeline("busy", [crunch]),
]

service = Service(os.environ["JOBS_DB"], pipelines=PIPELINES)
app = FastAPI(lifespan=service.lifespan())
app.mount("/jobs", service.app)
