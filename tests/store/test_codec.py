"""Values to bytes and back."""

from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from stagerun.store import codec

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(values)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert codec.decode(codec.encode(value)) == value


@frozen
class Page:
    url: str
    size: int


def test_typed_values_come_back_as_their_type() -> None:
    encoded = codec.encode(Page("http://a", 3))
    assert codec.decoder(Page)(encoded) == Page("http://a", 3)
    assert codec.decode(encoded) == {"url": "http://a", "size": 3}


cyclic: list[Any] = []
cyclic.append(cyclic)


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", cyclic, {1, object()}, lambda: 1])
def test_what_cannot_be_stored_raises(value: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017 - whichever: the engine takes them all
        codec.encode(value)


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@given(st.text(st.characters(), max_size=50) | st.builds(Mute) | values)
def test_words_about_anything_can_be_stored(value: Any) -> None:
    text = codec.words(value)
    text.encode("utf-8")
    assert "\0" not in text


@given(st.text(st.characters(), max_size=50))
def test_a_text_is_storable_as_it_is_unless_no_database_takes_it(text: str) -> None:
    stored = codec.storable(text)
    assert codec.storable(stored) == stored
    refused = "\0" in text or any("\ud800" <= each <= "\udfff" for each in text)
    assert (stored != text) == refused


@pytest.mark.parametrize("text", ["session_id=42", "password=hunter2", "x" * 10_000])
def test_secrets_and_long_texts_are_storable_as_they_are(text: str) -> None:
    assert codec.storable(text) == text
    assert codec.words(text) != text


def test_long_words_are_cut_and_say_so() -> None:
    text = codec.words("x" * 10_000, 100)
    assert text == "x" * 100 + "… [9900 more characters cut]"


def test_the_traceback_of_any_error_can_be_told() -> None:
    deep: BaseException = ValueError(Mute())
    for _ in range(50):
        deep = ExceptionGroup("g", [deep]) if isinstance(deep, Exception) else deep
    assert codec.detail(deep)
