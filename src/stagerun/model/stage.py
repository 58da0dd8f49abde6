"""The declaration of a stage: a function and its policies, as one frozen value."""

import inspect
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Literal, get_args

from attrs import Attribute, evolve, field, frozen

from stagerun.errors import PolicyError
from stagerun.model.policy import Batch, Collect, Restart, Retry, number, share, whole

__all__ = ["Kind", "Mode", "Stage", "name_validator"]

Mode = Literal["async", "thread", "inline", "process", "asyncio"]


class Kind(Enum):
    """What a stage makes of what it gets."""

    EACH = "each"
    """One item in, one result out (or ``DROP``)."""
    MANY = "many"
    """One item in, any number out: an async generator."""
    BATCH = "batch"
    """A list of items in, as many results out."""
    COLLECT = "collect"
    """All outcomes of a group in, one result out."""


def name_validator(owner: Any, attribute: "Attribute[Any]", value: Any) -> None:
    """Check a name: it stands in documents, log lines and environment variables."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", value):
        raise PolicyError(
            f"{type(owner).__name__}.{attribute.name}",
            f"must begin with a letter and hold up to 64 letters, digits, - and _, got {value!r}",
        )


@frozen(kw_only=True, eq=False)
class Stage:
    """One stage of a pipeline. Made by ``@stage``, ``@batch`` and ``@collect``; still callable.

    The type of the function's first parameter, when it is annotated, is what stored values are
    decoded to; a second parameter named ``ctx`` receives the ``Context`` of the attempt.
    """

    function: Callable[..., Any]
    kind: Kind
    name: str = field(validator=name_validator)
    version: int = field(default=1, validator=whole())
    """Raise it when the meaning of the results changes: a resume then repeats the stage."""
    workers: int = field(default=1, validator=whole())
    """Items (or batches) under way at once."""
    deadline: float | None = field(default=300.0, validator=number(none=True))
    """Seconds: an item's whole budget here, from its first start, pauses between attempts
    included, waiting for a worker excluded. None switches it off."""
    retry: Retry = field(factory=lambda: Retry(attempts=1))
    buffer: int = field(default=100, validator=whole())
    """Items that may wait in front of the stage, and items that may pause between attempts."""
    mode: Mode = field()
    """``async`` or ``asyncio``, on a loop of its own; for a plain ``def``: ``thread`` (the
    default), ``process``, or ``inline``, on the event loop."""
    resource: Callable[[], AbstractAsyncContextManager[Any]] | None = field(default=None)
    """Makes an async context manager. Each worker opens its own; ``ctx.resource`` is its value."""
    restart: Restart = field(factory=Restart)
    heartbeat_timeout: float | None = field(default=None, validator=number(none=True))
    """Seconds without a sign of life (``ctx.heartbeat()``, ``ctx.report()``, or a child given)
    after which an attempt counts as stalled and is cut. None: only the deadlines cut."""
    weight: float = field(default=1.0, validator=number(zero=True))
    """The stage's part in the run's percentage, relative to the others."""
    least_ok: float = field(default=0.0, validator=share())
    """The least share of ``ok`` among the items that were not ``skipped``; below it, and always
    when none is ``ok``, the run ends ``failed``. Of a collect stage: the share in each group."""
    key: Callable[[Any], Any] | None = field(default=None)
    """An item's key in this stage. A second item with the same key is ``skipped``."""
    commit_first: bool = field(default=False)
    """Whether a result goes on to the next stage only when it is on disk. The worker does not wait
    for that, the item does. For a next stage whose effects must not outlive what caused them."""
    result_limit: int = field(default=4 * 2**20, validator=whole())
    """Bytes of one encoded result. A larger one fails its item."""
    http_total: float = field(default=300.0, validator=number())
    """Seconds for one call of ``stagerun.http``, from connecting to the last byte."""
    batch: Batch | None = field(default=None)
    collect: Collect | None = field(default=None)
    wants_ctx: bool = field(init=False)
    value_type: Any = field(init=False)
    """The annotation of the first parameter; ``Any`` when there is none."""
    result_type: Any = field(init=False)
    """The annotation of one result; ``Any`` when there is none."""

    @mode.default
    def _(self) -> Mode:
        return "async" if _is_async(self.function) else "thread"

    @wants_ctx.default
    def _(self) -> bool:
        return "ctx" in _signature(self.function).parameters

    @value_type.default
    def _(self) -> Any:
        if self.kind is Kind.COLLECT:
            return Any
        parameters = list(_signature(self.function, evaluate=True).parameters.values())
        annotation = parameters[0].annotation if parameters else inspect.Parameter.empty
        if self.kind is Kind.BATCH:
            annotation = next(iter(get_args(annotation)), inspect.Parameter.empty)
        return Any if annotation is inspect.Parameter.empty else annotation

    @result_type.default
    def _(self) -> Any:
        annotation = _signature(self.function, evaluate=True).return_annotation
        if self.kind in (Kind.MANY, Kind.BATCH):  # AsyncIterator[result], list[result]
            annotation = next(iter(get_args(annotation)), inspect.Signature.empty)
        return Any if annotation is inspect.Signature.empty else annotation

    def __attrs_post_init__(self) -> None:
        self._check_types()
        self._check_mode()
        self._check_parameters()

    def _check_types(self) -> None:
        expected = {
            "retry": (self.retry, Retry),
            "restart": (self.restart, Restart),
            "batch": (self.batch, Batch | None),
            "collect": (self.collect, Collect | None),
        }
        for option, (value, kind) in expected.items():
            if not isinstance(value, kind):
                wanted = getattr(kind, "__name__", str(kind))
                raise self._refusal(option, f"must be a {wanted}, got {value!r}")
        if not isinstance(self.commit_first, bool):
            raise self._refusal("commit_first", f"must be True or False, got {self.commit_first!r}")
        for option in ("resource", "key"):
            value = getattr(self, option)
            if value is not None and not callable(value):
                raise self._refusal(option, f"must be a function or None, got {value!r}")

    def _check_mode(self) -> None:
        is_async = _is_async(self.function)
        fitting = ("async", "asyncio") if is_async else ("thread", "process", "inline")
        if self.mode not in fitting:
            what = "an async function" if is_async else "a plain function"
            choice = " or ".join(repr(mode) for mode in fitting)
            raise self._refusal("mode", f"of {what} must be {choice}, got {self.mode!r}")
        if self.kind is Kind.MANY and not inspect.isasyncgenfunction(self.function):
            raise self._refusal("function", "must be an async generator to give many results")
        if self.kind is not Kind.MANY and inspect.isasyncgenfunction(self.function):
            raise self._refusal("function", "is an async generator: declare it with @stage")
        if inspect.isgeneratorfunction(self.function):
            raise self._refusal("function", "is a plain generator: write it as `async def … yield`")
        if self.kind is Kind.COLLECT and not is_async:
            raise self._refusal("function", "must be async: it gets an async iterator of outcomes")
        if self.mode == "asyncio" and self.kind in (Kind.MANY, Kind.COLLECT):
            what = "gives" if self.kind is Kind.MANY else "gets"
            raise self._refusal("mode", f"cannot be 'asyncio' where a stage {what} an iterator")
        if self.mode in ("asyncio", "process") and self.resource is not None:
            problem = f"is opened under trio, which mode={self.mode!r} is not: open it in the stage"
            raise self._refusal("resource", problem)
        if self.mode == "process" and "<" in getattr(self.function, "__qualname__", "<"):
            problem = "must stand at the top level of a module: a worker process imports it by name"
            raise self._refusal("function", problem)

    def _check_parameters(self) -> None:
        parameters = list(_signature(self.function).parameters)
        if not parameters or parameters[0] == "ctx":
            raise self._refusal("function", "must take the item as its first parameter")
        if self.key is not None and self.kind in (Kind.BATCH, Kind.COLLECT):
            raise self._refusal("key", "is for stages that take one item at a time")

    def _refusal(self, option: str, problem: str) -> PolicyError:
        return PolicyError(f"Stage.{option}", f"{problem} (stage {self.name!r})")

    def with_options(self, **options: Any) -> "Stage":
        """Return the same stage with other policies: ``fetch.with_options(workers=8)``."""
        return evolve(self, **options)

    @property
    def attempt_limit(self) -> float | None:
        """Seconds for the first attempt: the smaller one of attempt deadline and budget."""
        limits = [x for x in (self.deadline, self.retry.attempt_deadline) if x is not None]
        return min(limits, default=None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as a unit test would."""
        return self.function(*args, **kwargs)


def _is_async(function: Any) -> bool:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(function, "__call__", function)  # noqa: B004 - the method is wanted
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _signature(function: Any, *, evaluate: bool = False) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=evaluate)
    except NameError:  # an annotation of a name that exists for type checkers only
        return inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature takes the item alone
        only = inspect.Parameter("item", inspect.Parameter.POSITIONAL_ONLY)
        return inspect.Signature([only])
