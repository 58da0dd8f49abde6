# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Values that cannot be stored fail their item and say why; words never harm the database."""

import math
from dataclasses import dataclass

import attrs
import msgspec
import pytest
import trio

from stagerun import Pipeline, UsageError, stage
from tests.conftest import Bench, listed, same_repr


@stage
async def same(value):
    return value


def _cycle():
    cycle: list[object] = []
    cycle.append(cycle)
    return cycle


def _deep(depth):
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


_REFUSED = {
    "object": object(),
    "lone surrogate": "\ud800",
    "surrogate inside": {"names": ["caf\udce9"]},
    "5 MB of text": "x" * 5_000_000,
    "cycle": _cycle(),
    "2**70": 2**70,
    "very deep": _deep(100_000),
    "function": print,
    "exception": ValueError("returned"),
    "class": int,
    "complex": 1j,
    "coroutine-like": iter([]),
}


@pytest.mark.parametrize("value", _REFUSED.values(), ids=_REFUSED)
@pytest.mark.parametrize("last", [True, False], ids=["last stage", "first stage"])
async def test_what_cannot_be_stored_fails_its_item_alone(bench: Bench, value, last: bool) -> None:
    @stage
    async def make(number):
        return value if number == 2 else number

    stages = [make] if last else [make, same]
    result = await bench.finish(Pipeline("strange", stages), [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}
    ((_, cause, message, _),) = bench.failures(result)
    assert cause == "result"
    assert "make" in message
    assert await listed(result.results()) == [1, 3]


@dataclass
class Data:
    number: int


@attrs.frozen
class Frozen:
    number: int


class Struct(msgspec.Struct):
    number: int


_KEPT = {
    "nan": (math.nan, pytest.approx(math.nan, nan_ok=True)),
    "inf": (-math.inf, -math.inf),
    "tuple": ((1, 2), [1, 2]),
    "set": ({1}, [1]),
    "odd keys": ({1: "a", None: "b", 2.5: "c"}, {1: "a", None: "b", 2.5: "c"}),
    "bytes key": ({b"k": 1}, {b"k": 1}),
    "dataclass": (Data(1), {"number": 1}),
    "attrs": (Frozen(1), {"number": 1}),
    "struct": (Struct(1), {"number": 1}),
    "2**64 - 1": (2**64 - 1, 2**64 - 1),
    "-2**63": (-(2**63), -(2**63)),
    "null character": ("a\0b", "a\0b"),
    "None": (None, None),
    "nothing": ({}, {}),
    "bytes": (b"\xff" * 1000, b"\xff" * 1000),
    "bytearray": (bytearray(b"ab"), b"ab"),
}


@pytest.mark.parametrize(("value", "expected"), _KEPT.values(), ids=_KEPT)
async def test_what_can_be_stored_reaches_the_next_stage_as_the_store_gives_it(
    bench: Bench, value, expected
) -> None:
    seen = []

    @stage
    async def make(_number):
        return value

    @stage
    async def note(value):
        seen.append(value)
        return value

    result = await bench.finish(Pipeline("kept", [make, note]), [1])
    assert seen == [expected]
    assert await listed(result.results()) == [expected]


@pytest.mark.parametrize("kind", [Data, Frozen, Struct])
async def test_an_annotated_stage_gets_its_type_back(bench: Bench, kind) -> None:
    @stage
    async def make(number):
        return kind(number)

    async def use(value):
        assert type(value) is kind
        return value.number

    use.__annotations__["value"] = kind
    result = await bench.finish(Pipeline("typed", [make, stage(use)]), [1, 2])
    assert await listed(result.results()) == [1, 2]


async def test_a_result_that_the_next_stage_does_not_take_fails_where_it_was_made(
    bench: Bench,
) -> None:
    @stage
    async def make(number):
        return number if number != 2 else "two"

    @stage
    async def use(number: int):
        return number

    result = await bench.finish(Pipeline("typed", [make, use]), [1, 2, 3])
    assert bench.outcomes(result) == {1: "ok", 2: "failed", 3: "ok"}
    assert "use" in bench.failures(result)[0][2]


async def test_what_a_stage_does_to_its_value_does_not_change_what_was_stored(
    bench: Bench,
) -> None:
    @stage
    async def make(number):
        return {"number": number}

    @stage
    async def spoil(value):
        value["number"] = "spoilt"
        return value["number"]

    await bench.finish(Pipeline("spoil", [make, spoil]), [1])
    from stagerun.store import codec

    ((stored,),) = bench.sql("SELECT result FROM items WHERE stage = 0")
    assert codec.decode(stored) == {"number": 1}


# -- words: they are cut and escaped, and never raise -------------------------------------------

_WORDS = {
    "surrogate": "caf\udce9",
    "null": "a\0b",
    "long": "x" * 10_000_000,
    "number": 5,
    "none": None,
    "object": object(),
    "bytes": b"\xff",
}


@pytest.mark.parametrize("text", _WORDS.values(), ids=_WORDS)
@pytest.mark.parametrize("place", ["step", "message"])
async def test_a_report_of_any_words_harms_nothing(bench: Bench, text, place: str) -> None:
    @stage
    async def tell(number, ctx):
        ctx.report(**({"step": "step"} | {place: text}))
        await trio.sleep(1)
        return number

    run = await bench.runtime.start(Pipeline("words", [tell]), [1])
    with trio.fail_after(10):
        assert (await run.wait()).status == "succeeded"
    document = await run.document()
    assert len(str(document)) < 100_000


@pytest.mark.parametrize(
    "number",
    [math.nan, math.inf, -1, 2**70, 10**400, "3", None, object()],
    ids=lambda n: repr(n)[:9],
)
async def test_a_report_of_any_number_harms_nothing(bench: Bench, number) -> None:
    @stage
    async def tell(value, ctx):
        ctx.report("step", done=number, total=number)
        await trio.sleep(1)
        return value

    run = await bench.runtime.start(Pipeline("words", [tell]), [1])
    with trio.fail_after(10):
        assert (await run.wait()).status == "succeeded"


@pytest.mark.parametrize("text", _WORDS.values(), ids=_WORDS)
async def test_log_lines_of_any_words_harm_nothing(bench: Bench, text) -> None:
    @stage
    async def tell(number, ctx):
        ctx.log.info("%s", text)
        ctx.log.info(text)
        ctx.log.info("%d %d", text)  # noqa: PLE1206 - what happens then is the subject
        return number

    result = await bench.finish(Pipeline("words", [tell]), [1])
    assert result.status == "succeeded"


@pytest.mark.parametrize("text", _WORDS.values(), ids=_WORDS)
async def test_a_reason_of_any_words_cancels_a_run(bench: Bench, text) -> None:
    @stage
    async def nap(_number):
        await trio.sleep(100)

    run = await bench.runtime.start(Pipeline("words", [nap]), [1])
    await trio.sleep(1)
    await run.cancel(text)
    with trio.fail_after(10):
        assert (await run.wait()).status == "cancelled"


async def test_a_token_s_reason_of_any_words_cancels_a_run(bench: Bench) -> None:
    from stagerun import CancellationToken

    @stage
    async def nap(_number):
        await trio.sleep(100)

    token = CancellationToken()
    run = await bench.runtime.start(Pipeline("words", [nap]), [1], token=token)
    await trio.sleep(1)
    token.cancel("caf\udce9")
    with trio.fail_after(10):
        assert (await run.wait()).status == "cancelled"


@pytest.mark.parametrize(
    "options",
    [
        {"labels": {"a": "\ud800"}},
        {"labels": {"\ud800": "a"}},
        {"key": "\ud800"},
        {"target": "\ud800"},
    ],
    ids=str,
)
async def test_words_that_cannot_be_stored_are_refused_at_the_start(bench: Bench, options) -> None:
    with trio.fail_after(10):
        with pytest.raises(UsageError):
            await bench.runtime.start(Pipeline("words", [same]), [1], **options)
        result = await bench.finish(Pipeline("words", [same]), [1])
    assert result.status == "succeeded"


@pytest.mark.parametrize("params", [object(), "\ud800", 2**70, {1: {2: object()}}], ids=same_repr)
async def test_params_that_cannot_be_stored_are_refused(bench: Bench, params) -> None:
    with pytest.raises(UsageError, match="params"):
        await bench.runtime.start(Pipeline("words", [same]), [1], params=params)


@pytest.mark.parametrize(
    "params", [{1: 2}, {None: 1}, b"\xff", math.nan, {"a": math.inf}], ids=same_repr
)
async def test_a_document_can_be_read_whatever_params_were_given(bench: Bench, params) -> None:
    run = await bench.runtime.start(Pipeline("words", [same]), [1], params=params)
    await run.wait()
    assert (await run.document())["status"] == "succeeded"
