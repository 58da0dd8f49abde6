"""Training programs, written week by week by a language model.

    stagerun run examples/programs/pipeline.py:pipeline
    stagerun run examples/programs/pipeline.py:pipeline --input briefs.jsonl

README.md beside this file tells what to see; service.py runs the same as jobs behind an API.
"""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec
from attrs import frozen

from examples.models.client import open_models, worth_another_try
from examples.programs import storage
from examples.programs.program import (
    COACH,
    Brief,
    Line,
    Program,
    Session,
    Week,
    ask_for_skeleton,
    ask_for_week,
    exactly,
)
from stagerun import Context, Pipeline, Retry, StageOutcome, collect, stage

JOB: Final[dict[str, Any]] = {
    "target": "examples.programs.pipeline:pipeline",
    "concurrency_key": "programs",
    "concurrency": 6,
}
"""How a job is started: at most six are under way at once, in all processes of the service."""

BRIEFS: Final = [
    Brief(
        athlete="rower, 42, back after a year", goal="2000 m in eight minutes", weeks=4, sessions=3
    ),
    Brief(
        athlete="beginner, 28, desk work",
        goal="ten push-ups and a quiet back",
        weeks=3,
        sessions=2,
        equipment=("mat", "resistance band"),
    ),
    Brief(
        athlete="hill runner, 35",
        goal="a mountain marathon in early summer",
        weeks=6,
        sessions=4,
        notes="The left ankle was sprained in spring.",
    ),
]


@frozen
class Skeleton:
    """A program of which only the focus of each week stands."""

    program: str
    brief: Brief
    focuses: list[Line]


@frozen
class Task:
    """A week that is to be written."""

    program: str
    brief: Brief
    number: int
    focus: Line


@frozen
class Written:
    """A week that is written."""

    program: str
    brief: Brief
    week: Week


# An answer that does not fit the schema is an error like a broken connection: it is tried again.
ASKED: Final = Retry(attempts=3, attempt_deadline=60, base=0.5, on=worth_another_try)


@stage(deadline=200, retry=ASKED, resource=open_models)
async def skeleton(brief: Brief, ctx: Context) -> Skeleton:
    """Ask for the focus of every week. Run and item name the program for ever."""
    focuses = await ctx.resource.chat(
        ask_for_skeleton(brief), system=COACH, schema=exactly(brief.weeks, Line)
    )
    return Skeleton(f"{ctx.run}-{ctx.item}", brief, focuses)


@stage
async def weeks(skeleton: Skeleton) -> AsyncGenerator[Task]:
    """Unfold a skeleton: one item in, one out for each week."""
    for number, focus in enumerate(skeleton.focuses, start=1):
        yield Task(skeleton.program, skeleton.brief, number, focus)


@stage(workers=4, deadline=200, retry=ASKED, resource=open_models, weight=10)
async def week(task: Task, ctx: Context) -> Written:
    """Ask for the sessions of a week. What was answered is never asked for again."""
    sessions = await ctx.resource.chat(
        ask_for_week(task.brief, task.number, task.focus),
        system=COACH,
        schema=exactly(task.brief.sessions, Session),
    )
    return Written(task.program, task.brief, Week(task.number, task.focus, sessions))


@collect(by=lambda each: each.program, least_ok=1)
async def assemble(outcomes: AsyncIterator[StageOutcome], ctx: Context) -> Program:
    """Put the weeks of a program together; with one missing there is no program."""
    written = msgspec.convert([each.value async for each in outcomes if each.ok], list[Written])
    brief = written[0].brief
    if len(written) != brief.weeks:
        raise ValueError(f"{len(written)} of {brief.weeks} weeks are there")
    found = sorted((each.week for each in written), key=lambda week: week.number)
    return Program(ctx.key, brief, found)


@stage(deadline=60, retry=Retry(attempts=3, on=sqlite3.OperationalError))
def save(program: Program, ctx: Context) -> str:
    """Store a program under its own id: to do it twice changes nothing."""
    storage.save(program.id, msgspec.json.encode(program).decode())
    ctx.log.info("program %s: %d weeks", program.id, len(program.weeks))
    return program.id


pipeline = Pipeline(
    "programs",
    [skeleton, weeks, week, assemble, save],
    source=BRIEFS,
    deadline=1800,
    grace=1,  # a restarted server leaves at once: what it cuts off here is asked for again
    on_interrupt="settle",  # a job goes on when somebody asks; "resume": by itself
)
