"""Asks a language model over the usual protocol: chat completions and embeddings.

    @stage(workers=4, deadline=120, resource=open_models, retry=Retry(on=worth_another_try))
    async def summarise(text: str, ctx: Context) -> Summary:
        return await ctx.resource.chat(f"Summarise: {text}", schema=Summary)

Which server is asked, an operator says by the environment:

    MODELS_ADDRESS     any base address, http://127.0.0.1:11434/v1; without one a small server of
                       our own answers inside this program (server.py)
    MODELS_KEY         sent as `Authorization: Bearer KEY`
    MODELS_CHAT        the name of the model that writes
    MODELS_EMBEDDINGS  the name of the model that embeds
"""

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, Final

import msgspec
from attrs import frozen

from examples.models.server import Options, Server, serving
from stagerun.http import (
    Client,
    HttpConnectionError,
    HttpStatusError,
    HttpTimeout,
    Response,
    open_client,
)

__all__ = ["InvalidAnswerError", "Models", "open_models", "worth_another_try"]

LONGEST_QUOTE: Final = 200


class InvalidAnswerError(Exception):
    """The model answered, but not with what was asked for. Another try may do better."""


@asynccontextmanager
async def open_models(
    address: str | None = None,
    *,
    key: str | None = None,
    chat: str | None = None,
    embeddings: str | None = None,
) -> AsyncIterator["Models"]:
    """Open a client of the models; each call is bounded by the stage's `http_total`.

    What is not given comes from the environment, see above.
    """
    address = address or os.environ.get("MODELS_ADDRESS")
    key = key or os.environ.get("MODELS_KEY")
    async with AsyncExitStack() as stack:
        if not address:
            address = await stack.enter_async_context(serving(_our_own()))
        headers = {"Authorization": f"Bearer {key}"} if key else None
        client = await stack.enter_async_context(open_client(address, headers=headers))
        yield Models(
            client,
            chat_name=chat or os.environ.get("MODELS_CHAT", "chat"),
            embeddings_name=embeddings or os.environ.get("MODELS_EMBEDDINGS", "embeddings"),
        )


@cache
def _our_own() -> Server:
    """One server for all workers: it knows what it was asked before, by whichever of them."""
    logging.getLogger("stagerun.examples").info(
        "MODELS_ADDRESS is not set: a model server of our own answers inside this program"
    )
    return Server(Options())


@frozen
class Models:
    """The models at one address."""

    client: Client
    chat_name: str
    embeddings_name: str

    async def chat(
        self,
        prompt: str,
        *,
        system: str = "",
        schema: Any = None,
        max_tokens: int | None = None,
    ) -> Any:
        """Return the answer to a prompt: text, or a value of the type `schema`.

        `schema` is an attrs class, or any other type that msgspec knows, such as `list[str]`.

        Raises:
            InvalidAnswerError: The answer is no such value, or empty.
            HttpError: There was no answer.
        """
        messages = [{"role": "user", "content": prompt}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        asked: dict[str, Any] = {"model": self.chat_name, "messages": messages}
        if max_tokens is not None:
            asked["max_tokens"] = max_tokens
        if schema is not None:
            asked["response_format"] = _response_format(schema)
        answer = _read(await self.client.post("/chat/completions", asked), _Completion)
        text = answer.choices[0].message.content if answer.choices else None
        if not text or not text.strip():
            raise InvalidAnswerError(f"{self.chat_name} gave an empty answer")
        return text if schema is None else _decoded(text, schema)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in the same order.

        Raises:
            InvalidAnswerError: The answer has not one vector for each.
            HttpError: There was no answer.
        """
        asked = {"model": self.embeddings_name, "input": [*texts]}
        answer = _read(await self.client.post("/embeddings", asked), _Embeddings)
        rows = sorted(answer.data, key=lambda row: row.index)
        if [row.index for row in rows] != [*range(len(texts))]:
            raise InvalidAnswerError(
                f"{self.embeddings_name} gave {len(rows)} vectors for {len(texts)} texts"
            )
        return [row.embedding for row in rows]


def worth_another_try(error: Exception) -> bool:
    """Whether asking again may help; for `Retry(on=...)`.

    A busy server's Retry-After is kept by the retry itself.
    """
    if isinstance(error, HttpStatusError):
        return error.status in {408, 429} or error.status >= 500
    return isinstance(error, HttpConnectionError | HttpTimeout | InvalidAnswerError)


def _response_format(schema: Any) -> dict[str, Any]:
    """Ask for an object with the one field `answer`: few servers take another type at the top."""
    (wanted,), definitions = msgspec.json.schema_components([schema], ref_template="#/$defs/{name}")
    whole = {
        "type": "object",
        "properties": {"answer": wanted},
        "required": ["answer"],
        "additionalProperties": False,
        "$defs": definitions,
    }
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": whole}}


def _decoded(text: str, schema: Any) -> Any:
    try:
        return msgspec.convert(msgspec.json.decode(text)["answer"], schema)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        begin = text[:LONGEST_QUOTE]
        raise InvalidAnswerError(
            f"not the JSON that was asked for: {error} in {begin!r}"
        ) from error


def _read(response: Response, wanted: type[Any]) -> Any:
    try:
        return msgspec.json.decode(response.content, type=wanted)
    except msgspec.MsgspecError as error:
        raise InvalidAnswerError(f"{response.url} does not speak the protocol: {error}") from error


@frozen
class _Message:
    content: str | None


@frozen
class _Choice:
    message: _Message


@frozen
class _Completion:
    choices: list[_Choice]


@frozen
class _Row:
    index: int
    embedding: list[float]


@frozen
class _Embeddings:
    data: list[_Row]
