"""What the HTTP side needs to know of the program that it is part of."""

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import frozen

from stagerun.engine.health import Health
from stagerun.engine.statistics import RuntimeStatistics
from stagerun.model.pipeline import Pipeline
from stagerun.store.pool import ReadingPool

__all__ = ["Backend", "Limits", "Runtime", "Started"]


@frozen(kw_only=True)
class Limits:
    """What one request may take."""

    body: int = 2**20
    """Bytes of a request's body."""
    body_seconds: float = 10.0
    """Seconds within which the whole body must have come."""
    depth: int = 64
    """Levels of lists and objects within each other in a body."""
    items: int = 100_000
    """Items of one start."""
    start_seconds: float = 30.0
    """Seconds for the runtime to acknowledge a start or a resume."""


class Started(Protocol):
    """A run, as ``start()`` returns it."""

    @property
    def id(self) -> str: ...


class Runtime(Protocol):
    """A runtime, native in trio or behind the facade of asyncio."""

    async def start(
        self,
        pipeline: Pipeline,
        items: Any = None,
        *,
        params: Any = None,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Started: ...

    async def find(self, run: str) -> Started: ...

    async def resume(
        self,
        run: str,
        pipeline: Pipeline | None = None,
        *,
        failed: bool = False,
        changed: Any = ...,
    ) -> Started: ...

    def statistics(self) -> RuntimeStatistics: ...

    def health(self) -> Health: ...


class Backend(Protocol):
    """The one value that every handler is made with."""

    @property
    def runtime(self) -> Runtime:
        """The open runtime. Raises RuntimeClosedError while there is none."""

    @property
    def pool(self) -> ReadingPool:
        """Answers questions without the runtime."""

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """What may be started, by its name."""

    @property
    def leaving(self) -> bool:
        """Whether the program is about to end: every stream ends within 0.3 s of it."""

    @property
    def body_limit(self) -> int:
        """Bytes of a request's body."""
