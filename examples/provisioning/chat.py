"""A question to a data set is a pipeline of its own: it has its deadline and its record."""

from pathlib import Path

from attrs import frozen

from examples.models.client import open_models, worth_another_try
from examples.provisioning.asking import Answer, ask
from stagerun import Context, Pipeline, Retry, stage

__all__ = ["Question", "chat"]


@frozen
class Question:
    """What is asked of which file."""

    data_set: str
    question: str


@stage(
    deadline=60,
    resource=open_models,
    retry=Retry(attempts=3, attempt_deadline=20, on=worth_another_try),
)
async def answer(asked: Question, ctx: Context) -> Answer:
    """Look the answer up."""
    return await ask(ctx.resource, Path(asked.data_set), asked.question)


chat = Pipeline("chat", [answer], deadline=90)
