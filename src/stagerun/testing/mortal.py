"""A pipeline's stages as one process runs them: they stop with it, whatever they are doing.

No task can be taken out of a running program, so in a simulation the code of a killed process is
cancelled where it waits, and never called again. What it does in its ``finally`` is done all the
same: the one thing that a real kill -9 would have prevented.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, Protocol

from attrs import evolve

from stagerun.model.pipeline import Pipeline
from stagerun.model.stage import Stage

__all__ = ["Body", "ProcessDied", "mortal"]


class ProcessDied(Exception):  # noqa: N818 - named for what happened
    """The process in which this was called has died meanwhile: what came of it is unknown."""


class Body(Protocol):
    """The process, as its stages see it."""

    def called(self, stage: str, value: Any) -> None:
        """Hear that a stage is called. Raises ``ProcessDied`` once the process is dead."""

    async def awake(self) -> None:
        """Wait while the process is stopped. Raises ``ProcessDied`` once it is dead."""

    def alive(self) -> Any:
        """Return a context in which what waits is cancelled when the process dies."""


def mortal(pipeline: Pipeline, body: Body) -> Pipeline:
    """Return *pipeline* as *body* runs it."""
    stages = [evolve(stage, function=_mortal(stage, body)) for stage in pipeline.stages]
    return pipeline.with_options(stages=stages)


def _mortal(stage: Stage, body: Body) -> Callable[..., Any]:
    function = stage.function

    @wraps(function)
    async def call(value: Any, **context: Any) -> Any:
        await body.awake()
        body.called(stage.name, value)
        with body.alive():
            result = await function(value, **context)
        await body.awake()
        return result

    @wraps(function)
    async def give(value: Any, **context: Any) -> AsyncIterator[Any]:
        await body.awake()
        body.called(stage.name, value)
        async with aclosing(function(value, **context)) as given:
            while True:
                with body.alive():
                    try:
                        child = await anext(given)
                    except StopAsyncIteration:
                        return
                await body.awake()
                yield child

    @wraps(function)
    def plain(value: Any, **context: Any) -> Any:
        body.called(stage.name, value)
        return function(value, **context)

    if inspect.isasyncgenfunction(function):
        return give
    return call if stage.mode in ("async", "asyncio") else plain
