"""The declaration of a pipeline, and the three decorators that make stages."""

import difflib
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypedDict, Unpack, overload

from attrs import evolve, field, fields, frozen

from stagerun.errors import PolicyError
from stagerun.model.policy import Batch, Collect, Restart, Retry, number, share, whole
from stagerun.model.stage import Kind, Mode, Stage, name_validator

__all__ = ["Pipeline", "StageOptions", "batch", "collect", "stage"]


class StageOptions(TypedDict, total=False):
    """The options of every stage; their meanings stand at the fields of ``Stage``."""

    name: str
    version: int
    workers: int
    deadline: float | None
    retry: Retry
    buffer: int
    mode: Mode
    resource: Callable[[], AbstractAsyncContextManager[Any]] | None
    restart: Restart
    heartbeat_timeout: float | None
    weight: float
    least_ok: float
    key: Callable[[Any], Any] | None
    commit_first: bool
    result_limit: int
    http_total: float


_Decorator = Callable[[Callable[..., Any]], Stage]


@overload
def stage(function: Callable[..., Any], /) -> Stage: ...
@overload
def stage(**options: Unpack[StageOptions]) -> _Decorator: ...
def stage(
    function: Callable[..., Any] | None = None, /, **options: Unpack[StageOptions]
) -> Stage | _Decorator:
    """Declare a stage: one result for each item, or many from an async generator.

    Raises:
        PolicyError: An option is unknown or out of its range.
    """

    def declare(function: Callable[..., Any]) -> Stage:
        many = inspect.isasyncgenfunction(function)
        return _declare(function, Kind.MANY if many else Kind.EACH, options)

    return declare if function is None else declare(function)


@overload
def batch(function: Callable[..., Any], /) -> Stage: ...
@overload
def batch(*, size: int = 100, wait: float = 0.1, **options: Unpack[StageOptions]) -> _Decorator: ...
def batch(
    function: Callable[..., Any] | None = None,
    /,
    *,
    size: int = 100,
    wait: float = 0.1,
    **options: Unpack[StageOptions],
) -> Stage | _Decorator:
    """Declare a stage that gets a list of up to *size* items and returns as many results.

    Each result is a value, ``DROP`` or an exception (that item's failure).

    Args:
        function: When it stands without parentheses.
        size: Items in a call at most.
        wait: Seconds from the first item's arrival until an incomplete batch is taken.
        options: Those of every stage.
    """
    policy = Batch(size=size, wait=wait)

    def declare(function: Callable[..., Any]) -> Stage:
        return _declare(function, Kind.BATCH, options, batch=policy)

    return declare if function is None else declare(function)


@overload
def collect(function: Callable[..., Any], /) -> Stage: ...
@overload
def collect(
    *, by: Callable[[Any], Any] | None = None, **options: Unpack[StageOptions]
) -> _Decorator: ...
def collect(
    function: Callable[..., Any] | None = None,
    /,
    *,
    by: Callable[[Any], Any] | None = None,
    **options: Unpack[StageOptions],
) -> Stage | _Decorator:
    """Declare a stage that gets an async iterator over the stored outcomes of a group.

    It begins when the stage before it is through. The outcomes come in item order, read from the
    database page by page.

    Args:
        function: When it stands without parentheses.
        by: The group of a value; of an item without a result, of the value it went in with.
        options: Those of every stage. ``least_ok`` is the least share of ``ok`` among a group's
            outcomes that were not ``skipped``; below it the group ends ``failed``.
    """
    policy = Collect(by=by)

    def declare(function: Callable[..., Any]) -> Stage:
        return _declare(function, Kind.COLLECT, options, collect=policy)

    return declare if function is None else declare(function)


def _declare(
    function: Callable[..., Any], kind: Kind, options: StageOptions, **policy: Any
) -> Stage:
    if isinstance(function, Stage):
        raise PolicyError("Stage.function", f"is a stage already: {function.name!r}")
    known = StageOptions.__annotations__
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
            raise PolicyError(f"Stage.{option}", f"is not an option of a stage{hint}")
    given = dict[str, Any](options)
    given.setdefault("name", getattr(function, "__name__", type(function).__name__))
    return Stage(function=function, kind=kind, **given, **policy)


_MOST = 10_000
"""Stages of a pipeline: what is stored of each outcome has room for a few more."""


def _stages(value: Any) -> tuple[Any, ...]:
    return tuple(value)


@frozen(kw_only=False, eq=False)
class Pipeline:
    """Stages in order, and the policies of a whole run.

    Example::

        pipeline = Pipeline("crawl", [fetch, parse], deadline=1800)
    """

    name: str = field(validator=name_validator)
    stages: tuple[Stage, ...] = field(converter=_stages)
    deadline: float | None = field(default=1800.0, validator=number(none=True), kw_only=True)
    """Seconds for a whole run, from its start; beyond it the run ends ``timed_out``."""
    least_ok: float = field(default=0.0, validator=share(), kw_only=True)
    """The least share of the run's items that must come out of the last stage, of those that were
    not ``skipped`` on the way; below it the run ends ``failed``."""
    source: Any = field(default=None, kw_only=True)
    """Where items come from when none are given: an iterable, an async iterable, or a function
    giving one (called with the run's params when it takes an argument)."""
    source_deadline: float = field(default=300.0, validator=number(), kw_only=True)
    """Seconds that the source may take for its next item."""
    grace: float = field(default=5.0, validator=number(zero=True), kw_only=True)
    """Seconds that stages with a ``ctx`` get to stop by themselves after a cancellation."""
    on_interrupt: Literal["settle", "resume"] = field(default="settle", kw_only=True)
    """What becomes of a run whose process died: it is settled, or resumed by the next process that
    knows this pipeline."""
    resumes: int = field(default=5, validator=whole(least=0), kw_only=True)
    """How many times a run is resumed by ``on_interrupt="resume"``; then it stays settled. Resumes
    that somebody asks for are not counted."""

    @stages.validator
    def _(self, _attribute: Any, stages: tuple[Any, ...]) -> None:
        if not stages:
            raise PolicyError("Pipeline.stages", f"of {self.name!r} must hold at least one stage")
        for number_, each in enumerate(stages, 1):
            if not isinstance(each, Stage):
                hint = "decorate it with @stage" if callable(each) else "expected a stage"
                raise PolicyError("Pipeline.stages", f"no. {number_} is {each!r}: {hint}")
        if len(stages) > _MOST:
            raise PolicyError("Pipeline.stages", f"holds {len(stages)}, at most {_MOST} can be")
        names = [each.name for each in stages]
        twins = {name for name in names if names.count(name) > 1}
        if twins:
            raise PolicyError("Pipeline.stages", f"holds {sorted(twins)} more than once: name them")
        if stages[0].kind is Kind.COLLECT:
            raise PolicyError("Pipeline.stages", "cannot begin with a collect stage")

    @on_interrupt.validator
    def _(self, _attribute: Any, value: Any) -> None:
        if value not in ("settle", "resume"):
            raise PolicyError(
                "Pipeline.on_interrupt", f"must be 'settle' or 'resume', got {value!r}"
            )

    def with_options(self, **options: Any) -> "Pipeline":
        """Return the same pipeline with other policies.

        Raises:
            PolicyError: An option is unknown or out of its range.
        """
        known = [attribute.name for attribute in fields(Pipeline)]
        for option in options:
            if option not in known:
                raise PolicyError(f"Pipeline.{option}", f"is not one of {', '.join(known)}")
        return evolve(self, **options)
