"""The model server of the examples, and the client that asks it."""

import json
from math import dist, isclose
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import pytest
import trio
from attrs import field, frozen
from msgspec import Meta, ValidationError, convert

from examples.models import answers
from examples.models.client import InvalidAnswerError, Models, open_models, worth_another_try
from examples.models.server import running_models, serving_models
from stagerun import Context, Pipeline, Retry, open_runtime, stage
from stagerun.http import HttpConnectionError, HttpStatusError, HttpTimeout

pytestmark = pytest.mark.real

TEXT = "The harbour froze in winter; the harbour master sold ice, and the ice kept the fish fresh."


@frozen
class Exercise:
    name: Annotated[str, Meta(min_length=1, max_length=12)]
    kind: Literal["swim", "ice", "run"]
    minutes: Annotated[int, Meta(ge=5, le=90, multiple_of=5)]
    load: Annotated[float, Meta(gt=0, lt=1)]
    rest: bool
    note: str | None


@frozen
class Week:
    number: int
    exercises: Annotated[list[Exercise], Meta(min_length=4, max_length=6)]
    by_day: dict[str, float]
    next: "Week | None" = field(default=None)


@frozen
class Column:
    name: Annotated[str, Meta(pattern="^[a-z_]+$")]
    code: Annotated[str, Meta(min_length=40, max_length=60)]


async def test_an_answer_has_the_type_that_was_asked_for_and_the_words_of_the_question() -> None:
    async with serving_models() as address, open_models(address) as models:
        week = await models.chat(TEXT, schema=Week)
        assert isinstance(week, Week)
        assert 4 <= len(week.exercises) <= 6
        assert week.exercises[0].kind == "ice"  # what the text speaks of
        assert week.exercises[0].name == "harbour"
        first, *_ = await models.chat(TEXT, schema=list[Column])
        assert first.name == "harbour"
        assert await models.chat(TEXT, schema=list[str]) == ["harbour", "froze", "winter"]
        assert await models.chat(TEXT, schema=Week) == week


async def test_prose_is_made_of_the_words_and_as_long_as_it_may_be() -> None:
    async with serving_models() as address, open_models(address) as models:
        said = await models.chat(TEXT, system="You write about boats.", max_tokens=30)
        assert len(said.split()) == 30
        assert "harbour" in said
        assert "boats" not in said
        assert said == await models.chat(TEXT, max_tokens=30)
        assert len((await models.chat(TEXT)).split()) == 80
        assert await models.chat("", max_tokens=5)


async def test_texts_with_words_in_common_lie_close_together() -> None:
    async with serving_models() as address, open_models(address) as models:
        first, second, third, empty = await models.embed(
            [TEXT, "The harbour master sold ice in winter.", "A violin needs rosin.", ""]
        )
        assert await models.embed([TEXT]) == [first]
        assert await models.embed([]) == []
    assert len(first) == 64
    assert all(isclose(dist(each, [0] * 64), 1) for each in (first, second, third, empty))
    assert dist(first, second) < dist(first, third)


async def test_asked_by_hand_it_speaks_the_usual_protocol() -> None:
    async with serving_models() as address, httpx.AsyncClient(base_url=address) as client:
        asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": TEXT}]}
        answer = (await client.post("/chat/completions", json=asked)).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert (answer["object"], answer["model"]) == ("chat.completion", "m")
        parts = [{"type": "text", "text": TEXT}]
        asked["messages"] = [{"role": "user", "content": parts}]
        again = (await client.post("/chat/completions", json=asked)).json()
        assert again["choices"] == answer["choices"]
        asked["response_format"] = {"type": "json_object"}
        whole = (await client.post("/chat/completions", json=asked)).json()
        assert json.loads(whole["choices"][0]["message"]["content"])["words"][0] == "harbour"
        one = (await client.post("/embeddings", json={"model": "e", "input": TEXT})).json()
        assert [row["index"] for row in one["data"]] == [0]
        names = [row["id"] for row in (await client.get("/models")).json()["data"]]
        assert names == ["chat", "embeddings"]
        nonsenses: list[Any] = [{}, {"messages": 3}, {"messages": []}, [], None]
        for nonsense in nonsenses:
            refused = await client.post("/chat/completions", json=nonsense)
            assert refused.status_code == 400, nonsense
            assert "not a request" in refused.json()["error"]["message"]
        assert (await client.get("/elsewhere")).status_code == 404


async def test_so_many_contents_as_asked_misbehave_in_the_order_of_their_coming() -> None:
    options = {"hang": 1, "drip": 1, "busy": 1, "malformed": 2, "reset": 1}
    async with running_models(**options, retry_after=7) as address:
        async with open_models(address) as models:
            for _ in range(2):
                assert await hangs(models, "first")
                assert await hangs(models, "second")
            with pytest.raises(HttpStatusError) as busy:
                await models.chat("third")
            assert (busy.value.status, busy.value.retry_after) == (429, 7)
            for asked in (models.chat("fourth", schema=list[str]), models.chat("fifth")):
                with pytest.raises(InvalidAnswerError):
                    await asked
            with pytest.raises(HttpConnectionError):
                await models.chat("sixth")
            for text in ("third", "fourth", "fifth", "sixth", "seventh"):
                assert await models.chat(text)
        counted = await until_open(address, 0)
    assert (counted["requests"], counted["contents"]) == (13, 7)
    assert (counted["chats"], counted["embeddings"]) == (13, 0)
    assert counted["latest"][-2:] == ["sixth", "seventh"]


@pytest.mark.parametrize("kind", ["chat", "embed"])
async def test_a_text_can_ask_for_misbehaviour(kind: str) -> None:
    async with serving_models() as address, open_models(address) as models:

        async def ask(text: str) -> Any:
            return await (models.chat(text, schema=str) if kind == "chat" else models.embed([text]))

        for mode, error in (
            ("busy", HttpStatusError),
            ("malformed", InvalidAnswerError),
            ("reset", HttpConnectionError),
        ):
            with pytest.raises(error):
                await ask(f"one [[{mode}]]")
            assert await ask(f"one [[{mode}]]")
        for mode, error in (
            ("always-busy", HttpStatusError),
            ("always-malformed", InvalidAnswerError),
        ):
            for _ in range(3):
                with pytest.raises(error):
                    await ask(f"two [[{mode}]]")
        for mode in ("hang", "drip"):
            with trio.move_on_after(0.3) as scope:
                await ask(f"three [[{mode}]]")
            assert scope.cancelled_caught


async def test_a_hanging_request_is_open_until_its_client_leaves() -> None:
    async with serving_models() as address, open_models(address) as models:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(models.chat, "[[hang]]")
            await until_open(address, 1)
            nursery.cancel_scope.cancel()
        await until_open(address, 0)


async def test_without_an_address_a_stage_is_answered_inside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELS_ADDRESS", raising=False)
    retry = Retry(attempts=2, base=0.01, attempt_deadline=2, on=worth_another_try)

    @stage(workers=2, deadline=10, retry=retry, resource=open_models)
    async def code(text: str, ctx: Context) -> Any:
        return await ctx.resource.chat(text, schema=list[str])

    texts = [TEXT, f"{TEXT} [[malformed]]", f"{TEXT} [[reset]]", f"{TEXT} [[always-malformed]]"]
    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(Pipeline("codes", [code]), texts)
        result = await run.wait()
        codes = [each async for each in result.results()]
    assert (result.stages[0].ok, result.stages[0].failed) == (3, 1)
    assert codes == [["harbour", "froze", "winter"]] * 3


async def test_what_is_no_model_server_is_said_so() -> None:
    async with serving_models() as address:
        async with open_models(address.removesuffix("/v1")) as models:
            with pytest.raises(HttpStatusError) as missing:
                await models.chat("anything")
        assert not worth_another_try(missing.value)
    async with open_models(address) as models:
        with pytest.raises(HttpConnectionError) as gone:
            await models.chat("anything")
    assert worth_another_try(gone.value)


def test_what_is_worth_another_try() -> None:
    url = "http://127.0.0.1/v1"
    for status, worth in ((400, False), (401, False), (408, True), (429, True), (503, True)):
        error = HttpStatusError("POST", url, "read-body", None, status=status, content=b"")
        assert worth_another_try(error) == worth
    assert worth_another_try(HttpTimeout("POST", url, "connect", None, limit=1, spent=1))
    assert worth_another_try(InvalidAnswerError())
    assert not worth_another_try(ValueError())


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3, "maximum": 3},
        {"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 0},
        {"type": ["string", "null"]},
        {"const": 7},
        {"enum": ["a", None]},
        {"oneOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}}]},
        {"allOf": [{"type": "object"}, {"properties": {"a": {"type": "number"}}}]},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
        {"type": "string", "format": "date"},
        {"$ref": "#/$defs/Tree", "$defs": {"Tree": {"items": {"$ref": "#/$defs/Tree"}}}},
        {},
        True,
    ],
)
def test_a_value_can_be_had_for_any_schema(schema: Any) -> None:
    assert json.loads(json.dumps(made := answers.value(schema, TEXT))) == made
    assert answers.value(schema, TEXT) == made


def test_the_strictness_of_answers_is_that_of_msgspec() -> None:
    with pytest.raises(ValidationError):
        convert({"name": "Not snake", "code": "x" * 40}, Column)


async def hangs(models: Models, text: str) -> bool:
    with trio.move_on_after(0.3) as scope:
        await models.chat(text)
    return scope.cancelled_caught


async def until_open(address: str, count: int) -> dict[str, Any]:
    """Wait until so many requests are open; return what the server has counted."""
    url = address.removesuffix("/v1") + "/requests"
    async with httpx.AsyncClient() as client:
        with trio.fail_after(30):
            while True:
                counted = dict((await client.get(url)).json())
                if counted["open"] == count:
                    return counted
                await trio.sleep(0.02)
