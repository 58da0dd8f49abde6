# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""What stages may raise and return: an outcome of the item, never the death of anything else."""

import pytest
import trio

from stagerun import DROP, Pipeline, Retry, stage
from tests.conftest import Bench, listed


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_every_item_passes_every_stage(bench: Bench, count: int) -> None:
    @stage(workers=3)
    async def double(number):
        return number * 2

    @stage(workers=2)
    async def text(number):
        return str(number)

    result = await bench.finish(Pipeline("count", [double, text]), list(range(count)))
    assert result.status == "succeeded"
    assert [s.ok for s in result.stages] == [count, count]
    assert await listed(result.results()) == [str(2 * n) for n in range(count)]


async def test_results_come_in_item_order_whatever_ends_first(bench: Bench) -> None:
    @stage(workers=4)
    async def nap(seconds):
        await trio.sleep(seconds)
        return seconds

    result = await bench.finish(Pipeline("naps", [nap]), [4, 3, 2, 1])
    assert await listed(result.results()) == [4, 3, 2, 1]
    assert result.seconds == pytest.approx(4)


class _MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class _FatalTextError(Exception):
    def __str__(self):
        raise SystemExit("the text ends the program")


class _OddModuleError(Exception):
    __module__ = "caf\udce9"


class _TrapError(Exception):
    @property
    def phase(self):
        raise RuntimeError("this property always raises")

    @property
    def retry_after(self):
        raise RuntimeError("and so does this one")


def _nested(depth):
    error: Exception = ValueError("the innermost")
    for _ in range(depth):
        error = ExceptionGroup("layer", [error])
    return error


_ERRORS = [
    ValueError("plain"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(5),
    StopAsyncIteration(),
    ExceptionGroup("two", [ValueError(1), TypeError(2)]),
    BaseExceptionGroup("grave", [SystemExit(1)]),
    ExceptionGroup("ten thousand", [ValueError(n) for n in range(10_000)]),
    _nested(900),
    RecursionError("deep"),
    MemoryError(),
    AssertionError(),
    trio.TooSlowError(),
    ValueError("\ud800 and \0"),
    ValueError("x" * 1_000_000),
    _MuteError(),
    _FatalTextError(),
    _OddModuleError(),
    _TrapError(),
]


@pytest.mark.parametrize(
    "error", _ERRORS, ids=[f"{n}-{type(e).__name__}" for n, e in enumerate(_ERRORS)]
)
async def test_whatever_a_stage_raises_is_the_outcome_of_its_item_alone(
    bench: Bench, error: BaseException
) -> None:
    @stage
    async def pick(number):
        if number == 2:
            raise error
        return number

    result = await bench.finish(Pipeline("pick", [pick]), [1, 2, 3])
    assert result.status == "succeeded"
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}
    assert bench.causes(result) == {2: "error"}


async def test_endless_recursion_fails_its_item_alone(bench: Bench) -> None:
    @stage
    async def dig(number):
        def deeper(n):
            return deeper(n + 1) + 1

        return deeper(0) if number == 2 else number

    result = await bench.finish(Pipeline("dig", [dig]), [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}


async def test_when_no_item_is_ok_the_run_fails_and_names_the_stage(bench: Bench) -> None:
    @stage
    async def broken(_number):
        raise ValueError("always")

    result = await bench.finish(Pipeline("broken", [broken]), [1, 2])
    assert (result.status, result.cause) == ("failed", "least_ok")
    assert "broken" in result.message


async def test_a_failed_stage_shows_its_last_error_in_the_document(bench: Bench) -> None:
    @stage
    async def broken(_number):
        raise ValueError("always")

    run = await bench.runtime.start(Pipeline("broken", [broken]), [1, 2])
    await run.wait()
    (document,) = (await run.document())["stages"]
    assert document["error"] is not None
    assert document["error"]["code"] == "builtins.ValueError"


async def test_dropped_items_are_skipped_and_reach_nobody(bench: Bench) -> None:
    seen = []

    @stage
    async def odd(number):
        return number if number % 2 else DROP

    @stage
    async def note(number):
        seen.append(number)

    result = await bench.finish(Pipeline("odd", [odd, note]), [1, 2, 3, 4])
    assert result.status == "succeeded"
    assert [(s.accepted, s.ok, s.skipped) for s in result.stages] == [(4, 2, 2), (2, 2, 0)]
    assert seen == [1, 3]


async def test_a_run_whose_items_are_all_dropped_succeeds(bench: Bench) -> None:
    @stage
    async def none(_number):
        return DROP

    @stage
    async def after(number):
        return number

    result = await bench.finish(Pipeline("none", [none, after]), [1, 2])
    assert result.status == "succeeded"
    assert result.stages[1].accepted == 0


async def test_too_few_successes_fail_the_run_after_all_was_tried(bench: Bench) -> None:
    @stage(least_ok=0.9)
    async def half(number):
        if number % 2:
            raise ValueError(number)
        return number

    result = await bench.finish(Pipeline("half", [half]), list(range(10)))
    assert (result.status, result.cause) == ("failed", "least_ok")
    assert result.stages[0].settled == 10


async def test_one_run_failing_changes_nothing_in_another(bench: Bench) -> None:
    @stage
    async def broken(_number):
        await trio.sleep(1)
        raise SystemExit("hostile")

    @stage(workers=2)
    async def nap(number):
        await trio.sleep(number)
        return number

    good = await bench.runtime.start(Pipeline("good", [nap]), [1, 2, 3, 4])
    bad = [await bench.runtime.start(Pipeline("bad", [broken]), [1, 2]) for _ in range(3)]
    gone = await bench.runtime.start(Pipeline("gone", [nap]), [100])
    await trio.sleep(1.5)
    await gone.cancel()
    assert (await good.wait()).status == "succeeded"
    assert [(await run.wait()).status for run in bad] == ["failed"] * 3
    assert (await gone.wait()).status == "cancelled"
    assert await listed(good.results()) == [1, 2, 3, 4]


async def test_a_second_stage_begins_while_the_first_is_under_way(bench: Bench) -> None:
    times = {}

    @stage
    async def slow(number):
        await trio.sleep(1)
        return number

    @stage
    async def note(number):
        times[number] = trio.current_time()

    began = trio.current_time()
    await bench.finish(Pipeline("flow", [slow, note]), [1, 2, 3])
    assert {n: t - began for n, t in times.items()} == pytest.approx({1: 1, 2: 2, 3: 3})


async def test_no_more_items_wait_between_two_stages_than_the_buffer_holds(bench: Bench) -> None:
    ahead = []
    begun: list[int] = []
    ended: list[int] = []

    @stage
    async def quick(number):
        begun.append(number)
        ahead.append(len(begun) - len(ended))
        return number

    @stage(buffer=5)
    async def slow(number):
        await trio.sleep(1)
        ended.append(number)

    await bench.finish(Pipeline("pressure", [quick, slow]), list(range(50)))
    assert max(ahead) <= 8


async def test_a_broken_retry_policy_fails_the_item_and_names_itself(bench: Bench) -> None:
    def refuse(_error):
        raise KeyError("policy")

    @stage(retry=Retry(on=refuse))
    async def broken(_number):
        raise ValueError("always")

    result = await bench.finish(Pipeline("policy", [broken]), [1])
    ((_, cause, message, _),) = bench.failures(result)
    assert cause == "error"
    assert "Retry.on" in message


async def test_a_retry_policy_that_exits_is_no_more_than_the_item_s_failure(bench: Bench) -> None:
    def leave(_error):
        raise SystemExit("policy")

    @stage(retry=Retry(on=leave))
    async def broken(_number):
        raise ValueError("always")

    result = await bench.finish(Pipeline("policy", [broken]), [1])
    assert bench.outcomes(result) == {1: "failed"}


async def test_context_variables_of_one_stage_do_not_reach_the_next(bench: Bench) -> None:
    from contextvars import ContextVar

    tenant = ContextVar("tenant", default="nobody")
    seen = []

    @stage
    async def first(number):
        tenant.set(f"tenant {number}")
        return number

    @stage
    async def second(number):
        seen.append(tenant.get())

    await bench.finish(Pipeline("tenants", [first, second]), [1])
    assert seen == ["nobody"]
