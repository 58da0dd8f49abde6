"""Items from files and pipes: one JSON value a line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagerun.cli.inputs import InputFile, InputStream, open_input
from stagerun.errors import InputError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(values=st.lists(VALUES, max_size=10), blank=st.sampled_from(["\n", "\r\n", "\n \n", "\n\n"]))
def test_a_file_gives_its_values_whenever_it_is_read(
    tmp_path: Path, values: list[Any], blank: str
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(blank.join(json.dumps(value) for value in values).encode())
    items = open_input(str(path))
    assert isinstance(items, InputFile)
    assert len(items) == len(values)
    assert list(items) == list(items) == values
    assert items[:] == values
    assert [items[-n - 1] for n in range(len(values))] == values[::-1]


BROKEN = [
    (b"1\nx\n", "line 2"),
    (b"1\n\n\n[1, 2\n", "line 4"),
    (b"NaN\n", "line 1"),
    (b'{"a": 1} {"b": 2}\n', "line 1"),
    (b'"\xff"\n', "line 1"),
    (b"[\n1\n]\n", "jq -c"),
    (b"123456789012345678901234567890\n", "cannot be stored"),
    (b"[" * 100_000, "line 1"),
]


@pytest.mark.parametrize(("content", "words"), BROKEN)
def test_a_broken_line_of_a_file_is_refused_with_its_number(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_input(str(path))
    assert words in str(caught.value)
    assert caught.value.line is not None


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        open_input(str(tmp_path / "none"))


async def test_a_pipe_gives_a_value_as_soon_as_its_line_is_there() -> None:
    reading, writing = os.pipe()
    items = InputStream(reading, "a pipe")
    os.write(writing, b'\xef\xbb\xbf1\n\n"two"\n[3')
    assert await anext(items) == 1
    assert await anext(items) == "two"
    os.write(writing, b"]")
    os.close(writing)
    assert await anext(items) == [3]
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    os.close(reading)
    assert items.error is None


@pytest.mark.parametrize(("content", "words"), BROKEN)
async def test_a_broken_line_of_a_pipe_comes_after_what_came_before_it(
    content: bytes, words: str
) -> None:
    reading, writing = os.pipe()
    items = InputStream(reading, "a pipe")

    def feed() -> None:
        os.write(writing, content)
        os.close(writing)

    got = []

    async def read() -> None:
        async for value in items:
            got.append(value)  # noqa: PERF401 - what comes before an error counts

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, feed)
        with pytest.raises(InputError, match=words.replace("[", r"\[")) as caught:
            await read()
    os.close(reading)
    assert items.error is caught.value
    assert got == ([1] if content.startswith(b"1\n") else [])
