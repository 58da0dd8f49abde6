"""The usual protocol's requests and their answers, as documents."""

import json
from abc import ABC, abstractmethod
from typing import Any, Final
from zlib import crc32

from examples.models import answers

__all__ = ["MODELS", "Asked", "Chat", "Embeddings"]

MODELS: Final = {
    "object": "list",
    "data": [{"id": name, "object": "model"} for name in ("chat", "embeddings")],
}


class Asked(ABC):
    """A request; what cannot be read raises a ValueError, KeyError or one of the like."""

    texts: list[str]
    """All that it says."""
    last: str
    """What it asks, at last."""

    @abstractmethod
    def answer(self, *, well: bool) -> dict[str, Any]:
        """Return the answer; `well=False`: one that is not what was asked for."""


class Chat(Asked):
    """POST /v1/chat/completions."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self.texts = [_text(message["content"]) for message in asked["messages"]]
        users = [_text(m["content"]) for m in asked["messages"] if m.get("role") == "user"]
        self.last = [*self.texts, *users][-1]

    def answer(self, *, well: bool) -> dict[str, Any]:
        said = self._said(well=well)
        message = {"role": "assistant", "content": said}
        read, written = sum(len(text.split()) for text in self.texts), len(said.split())
        return {
            "id": f"chatcmpl-{crc32(said.encode())}",
            "object": "chat.completion",
            "created": 0,
            "model": self._asked.get("model", "chat"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": written,
                "total_tokens": read + written,
            },
        }

    def _said(self, *, well: bool) -> str:
        shape = self._asked.get("response_format") or {"type": "text"}
        if shape["type"] == "text":
            length = self._asked.get("max_tokens") or self._asked.get("max_completion_tokens")
            return answers.prose(self.last, length) if well else ""
        if shape["type"] == "json_schema":
            value = answers.value(shape["json_schema"]["schema"], self.last)
        else:
            words = answers.salient(self.last)[:20]
            value = {"words": words, "text": answers.prose(self.last)}
        said = json.dumps(value)
        return said if well else f"Certainly! {said[: len(said) // 2]}"


class Embeddings(Asked):
    """POST /v1/embeddings."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self.texts = [asked["input"]] if isinstance(asked["input"], str) else [*asked["input"]]
        self.last = " | ".join(self.texts)

    def answer(self, *, well: bool) -> dict[str, Any]:
        answered = self.texts if well else self.texts[1:]
        rows = [
            {"object": "embedding", "index": i, "embedding": answers.embedding(text)}
            for i, text in enumerate(answered)
        ]
        read = sum(len(text.split()) for text in self.texts)
        return {
            "object": "list",
            "data": rows,
            "model": self._asked.get("model", "embeddings"),
            "usage": {"prompt_tokens": read, "total_tokens": read},
        }


def _text(content: Any) -> str:
    """A message's text, which may come in parts."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""
