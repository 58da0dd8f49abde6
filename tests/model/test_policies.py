"""Policies and declarations: checked when built, with the option's name in the error."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError

from stagerun import (
    Batch,
    Collect,
    Context,
    Kind,
    Pipeline,
    PolicyError,
    Restart,
    Retry,
    Stage,
    StageOutcome,
    batch,
    collect,
    stage,
)
from tests.conftest import same_repr


async def work(item: Any) -> Any:
    return item


def many_lines(item: str) -> list[str]:
    return [item]


NONSENSE = [-1, math.nan, math.inf, True, "5", [1]]
SECONDS: list[tuple[Any, str]] = [
    (Retry, "attempt_deadline"),
    (Retry, "base"),
    (Retry, "factor"),
    (Retry, "cap"),
    (Restart, "base"),
    (Restart, "cap"),
    (Restart, "deadline"),
    (Batch, "wait"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "deadline"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "weight"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "http_total"),
    (partial(Pipeline, "p", [stage(work)]), "deadline"),
    (partial(Pipeline, "p", [stage(work)]), "source_deadline"),
    (partial(Pipeline, "p", [stage(work)]), "grace"),
]
WHOLE: list[tuple[Any, str]] = [
    (Retry, "attempts"),
    (Restart, "attempts"),
    (Batch, "size"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "workers"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "buffer"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "version"),
    (partial(Stage, function=work, kind=Kind.EACH, name="work"), "result_limit"),
]


@pytest.mark.parametrize(("policy", "option"), SECONDS + WHOLE)
@pytest.mark.parametrize("value", NONSENSE, ids=same_repr)
def test_nonsense_is_refused_with_the_name_of_the_option(
    policy: Any, option: str, value: Any
) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(**{option: value})
    assert caught.value.option.endswith(f".{option}")
    assert option in str(caught.value)


@pytest.mark.parametrize(("policy", "option"), SECONDS)
def test_seconds_beyond_all_numbers_are_refused(policy: Any, option: str) -> None:
    with pytest.raises(PolicyError, match=option):
        policy(**{option: 10**400})


@pytest.mark.parametrize(("policy", "option"), WHOLE)
@pytest.mark.parametrize("value", [0, 1.0, 1.5])
def test_numbers_of_things_are_whole_and_at_least_one(policy: Any, option: str, value: Any) -> None:
    with pytest.raises(PolicyError, match="whole number of at least 1"):
        policy(**{option: value})


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, True, "1", None])
def test_a_share_is_from_0_to_1(share: Any) -> None:
    with pytest.raises(PolicyError, match="Stage.least_ok must be a share from 0 to 1"):
        stage(least_ok=share)(work)
    with pytest.raises(PolicyError, match="Pipeline.least_ok"):
        Pipeline("p", [stage(work)], least_ok=share)


@pytest.mark.parametrize("on", [int, (), (ValueError, 3), BaseException, "ValueError", None])
def test_retry_on_takes_error_classes_or_a_function(on: Any) -> None:
    with pytest.raises(PolicyError, match="Retry.on"):
        Retry(on=on)


def test_deadlines_have_safe_defaults_and_are_switched_off_explicitly_only() -> None:
    assert stage(work).deadline == 300
    assert Pipeline("p", [stage(work)]).deadline == 1800
    assert stage(deadline=None)(work).deadline is None


def test_an_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(PolicyError, match="did you mean 'workers'"):
        stage(worker=3)(work)  # type: ignore[call-overload]
    with pytest.raises(PolicyError, match="Pipeline.dedline"):
        Pipeline("p", [stage(work)]).with_options(dedline=3)


def test_policies_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Retry().attempts = 9  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        stage(work).workers = 9  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "9lives", "a b", "ä", "x" * 65, None, "a/b", "a.b"])
def test_names_fit_into_documents_and_variables(name: Any) -> None:
    with pytest.raises(PolicyError, match="name must begin with a letter"):
        stage(name=name)(work)
    with pytest.raises(PolicyError, match="Pipeline.name"):
        Pipeline(name, [stage(work)])


def test_a_pipeline_refuses_what_are_no_stages() -> None:
    with pytest.raises(PolicyError, match="at least one stage"):
        Pipeline("p", [])
    with pytest.raises(PolicyError, match="decorate it with @stage"):
        Pipeline("p", [work])
    with pytest.raises(PolicyError, match=r"\['work'\] more than once"):
        Pipeline("p", [stage(work), stage(work)])
    with pytest.raises(PolicyError, match="cannot begin with a collect stage"):
        Pipeline("p", [collect()(work)])


def test_the_kind_of_a_stage_follows_from_its_function() -> None:
    @stage
    async def each(item: str) -> str:
        return item

    @stage
    async def many(item: str, ctx: Context) -> AsyncIterator[str]:
        yield item

    @batch(size=3)
    def some(items: list[int]) -> list[int]:
        return items

    @collect(by=str)
    async def all_(outcomes: AsyncIterator[StageOutcome]) -> int:
        return 0

    kinds = [declared.kind for declared in (each, many, some, all_)]
    assert kinds == [Kind.EACH, Kind.MANY, Kind.BATCH, Kind.COLLECT]
    assert [declared.mode for declared in (each, many, some, all_)] == [
        "async",
        "async",
        "thread",
        "async",
    ]
    assert [declared.value_type for declared in (each, many, some, all_)] == [str, str, int, Any]
    assert many.wants_ctx
    assert not each.wants_ctx
    assert isinstance(some.batch, Batch)
    assert isinstance(all_.collect, Collect)


def test_a_stage_can_still_be_called_as_the_function_it_is() -> None:
    assert stage(many_lines)("a") == ["a"]


@asynccontextmanager
async def resource() -> AsyncIterator[int]:
    yield 1


async def children(item: str) -> AsyncIterator[str]:
    yield item


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: stage(mode="thread")(work), "of an async function must be 'async'"),
        (lambda: stage(mode="async")(many_lines), "of a plain function must be 'thread'"),
        (lambda: stage(mode="process")(work), "of an async function must be 'async' or 'asyncio'"),
        (lambda: stage(mode="asyncio")(many_lines), "'thread' or 'process' or 'inline'"),
        (lambda: stage(mode="asyncio")(children), "where a stage gives an iterator"),
        (lambda: collect(mode="asyncio")(work), "where a stage gets an iterator"),
        (lambda: stage(mode="process", name="one")(lambda item: item), "at the top level"),
        (lambda: stage(mode="process", name="one")(partial(many_lines)), "at the top level"),
        (lambda: stage(mode="process", resource=resource)(many_lines), "open it in the stage"),
        (lambda: stage(mode="asyncio", resource=resource)(work), "open it in the stage"),
        (lambda: stage(name="one")(lambda: 1), "must take the item"),
        (lambda: collect()(many_lines), "must be async"),
        (lambda: stage(retry=3)(work), "Stage.retry must be a Retry"),  # type: ignore[call-overload]
        (lambda: stage(key="id")(work), "Stage.key must be a function"),  # type: ignore[call-overload]
        (lambda: stage(stage(work)), "is a stage already"),
    ],
)
def test_a_declaration_that_cannot_work_says_why(declare: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        declare()


def test_odd_callables_are_stages_too() -> None:
    class Doubler:
        async def __call__(self, item: int) -> int:
            return 2 * item

    assert stage(Doubler()).name == "Doubler"
    assert stage(Doubler()).mode == "async"
    assert stage(name="part")(partial(work)).mode == "async"
    assert stage(len).mode == "thread"


def test_a_stage_can_be_varied_without_being_changed() -> None:
    declared = stage(workers=2, resource=resource)(work)
    varied = declared.with_options(workers=8)
    assert (declared.workers, varied.workers, varied.resource) == (2, 8, resource)
    with pytest.raises(PolicyError):
        declared.with_options(workers=0)
