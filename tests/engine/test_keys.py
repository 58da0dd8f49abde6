# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Keys: the second item with the same key in a stage is skipped, whatever keys look like."""

from dataclasses import dataclass

import pytest
import trio

from stagerun import Pipeline, Retry, stage
from tests.conftest import Bench, listed, same_repr


def keyed(key, **options):
    @stage(name="keyed", key=key, **options)
    async def work(value, ctx):
        return [ctx.key, value]

    return work


async def test_the_second_item_with_a_key_is_skipped(bench: Bench) -> None:
    pipeline = Pipeline("keys", [keyed(lambda n: n % 3, workers=4)])
    result = await bench.finish(pipeline, list(range(9)))
    assert await listed(result.results()) == [[0, 0], [1, 1], [2, 2]]
    assert result.stages[0].skipped == 6
    assert set(bench.causes(result).values()) == {"duplicate"}


async def test_keys_of_one_run_do_not_meet_those_of_another(bench: Bench) -> None:
    pipeline = Pipeline("keys", [keyed(lambda n: n)])
    for _ in range(2):
        result = await bench.finish(pipeline, [1, 2])
        assert result.stages[0].ok == 2


async def test_more_keys_than_are_kept_in_memory(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr("stagerun.engine.keys._RECENT", 10)
    pipeline = Pipeline("keys", [keyed(lambda n: n % 100, workers=3)])
    result = await bench.finish(pipeline, list(range(1000)))
    assert (result.stages[0].ok, result.stages[0].skipped) == (100, 900)


@pytest.mark.parametrize("key", [1, None, 0, "", "k", b"\0", [1, 2], {"a": 1}, 1.5], ids=same_repr)
async def test_an_item_keeps_its_key_over_its_attempts(bench: Bench, key) -> None:
    keys = []

    @stage(key=lambda _value: key, retry=Retry(attempts=3, base=0))
    async def flaky(value, ctx):
        keys.append(ctx.key)
        if ctx.attempt < 3:
            raise ValueError("again")
        return value

    result = await bench.finish(Pipeline("keys", [flaky]), [1])
    assert bench.outcomes(result) == {1: "ok"}
    assert keys == [key] * 3


@dataclass(repr=False)
class _Unshown:
    number: int

    def __repr__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "key",
    [lambda n: n["missing"], lambda _n: object(), lambda _n: "\ud800", lambda _n: 2**70],
    ids=["raises", "object", "surrogate", "too great"],
)
async def test_a_key_that_cannot_be_told_fails_its_item(bench: Bench, key) -> None:
    result = await bench.finish(Pipeline("keys", [keyed(key)]), [{}, {}])
    assert bench.causes(result) == {1: "key", 2: "key"}


async def test_a_key_function_that_exits_fails_its_item_alone(bench: Bench) -> None:
    def leave(number):
        if number == 2:
            raise SystemExit
        return number

    result = await bench.finish(Pipeline("keys", [keyed(leave)]), [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}


async def test_a_key_that_cannot_be_shown_harms_nobody(bench: Bench) -> None:
    pipeline = Pipeline("keys", [keyed(lambda _n: _Unshown(5))])
    result = await bench.finish(pipeline, [1, 2])
    assert bench.outcomes(result) == {1: "ok", 2: "skipped"}


async def test_nothing_is_begun_after_a_cancellation_while_keys_are_looked_up(bench: Bench) -> None:
    late: list[int] = []

    @stage(key=lambda n: n, workers=4)
    async def work(number):
        if cancelled:
            late.append(number)
        await trio.lowlevel.checkpoint()

    cancelled = []
    run = await bench.runtime.start(Pipeline("keys", [work]), list(range(1000)))
    for _ in range(20):
        await trio.lowlevel.checkpoint()
    cancelled.append(True)
    await run.cancel()
    await run.wait()
    assert late == []
