"""Values to bytes and back."""

import traceback
from collections.abc import Callable
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


def dive(depth: int) -> None:
    if depth:
        dive(depth - 1)
    raise ValueError("at the ground\nof it")


def noted() -> None:
    error = ValueError("with a note")
    error.add_note("the note")
    raise error


def chained() -> None:
    try:
        dive(0)
    except ValueError as error:
        raise KeyError("no such thing") from error


def in_passing(*, told: bool) -> None:
    try:
        dive(0)
    except ValueError:
        if told:
            raise KeyError("no such thing")  # noqa: B904 - the subject of the test
        raise KeyError("no such thing") from None


def grouped() -> None:
    raise ExceptionGroup("two", [ValueError(1), KeyError(2)])


@pytest.mark.parametrize(
    "fails",
    [
        lambda: 1 // 0,
        lambda: dive(0),
        lambda: dive(2),
        lambda: dive(10),
        lambda: dive(200),
        lambda: [dict[int, int]()[n] for n in [1]],
        lambda: int(
            "one",
            base=99,
        ),
        lambda: compile("a b", "file.py", "exec"),
        lambda: exec("1 / 0"),
        noted,
        chained,
        lambda: in_passing(told=True),
        lambda: in_passing(told=False),
        grouped,
    ],
)
def test_a_traceback_is_what_python_writes(fails: Callable[[], object]) -> None:
    for _ in range(2):  # the second time places are known
        with pytest.raises(Exception) as caught:
            fails()
        written = "".join(traceback.format_exception(caught.value))
        assert codec.detail(caught.value) == codec.words(written, 20_000)
