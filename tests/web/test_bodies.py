"""Bodies: what is not strictly JSON, too large, too deep or too slow is refused."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun.store.pool import ReadingPool
from stagerun.web.backend import Limits
from stagerun.web.bodies import parse
from stagerun.web.problems import Problem
from tests.web.asked import (
    JSON,
    TOKEN,
    Answer,
    Api,
    Backend,
    FalseRuntime,
    api_of,
    ask,
    doubling,
    empty_database,
)

START = b'{"pipeline": "doubling", "items": %s}'


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    pool = ReadingPool(empty_database(tmp_path))
    runtime = FalseRuntime(lambda: pytest.fail("nothing may be started"))
    yield api_of(
        Backend(runtime, pool, {"doubling": doubling}, body_limit=2**16),
        Limits(body=2**16, body_seconds=0.1, items=3),
    )
    assert runtime.started == 0
    pool.close()


async def post(api: Api, body: Any, **options: Any) -> Answer:
    given = {"headers": JSON, "token": TOKEN}
    with trio.fail_after(5):
        return await ask(api.app, "/runs", "POST", body=body, **(given | options))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (b"[NaN]", "holds NaN"),
        (b"[Infinity]", "holds Infinity"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e999]", "too large"),
        (b'["\\ud800"]', "half of a character"),
        (b'{"\\udfff": 1}', "half of a character"),
        (b"[" * 63 + b"]" * 63 + b"]", "brackets do not match"),
        (b"[" * 64 + b"]" * 64, "deeper than 64"),
        (b'{"a":' * 64 + b"1" + b"}" * 64, "deeper than 64"),
        (b"[" * 30_000, "deeper than 64"),
        (b"[" + b"9" * 5_000 + b"]", "too long"),
        (b"[-" + b"9" * 4_000 + b"]", "beyond 64 bits"),
        (b"[18446744073709551616]", "beyond 64 bits"),
        (b'[{"a": 1, "a": 1}]', "gives the name 'a' twice"),
        (b'["\xff"]', "is not UTF-8"),
        (b'["\xed\xa0\x80"]', "is not UTF-8"),
        (b'["a\x00b"]', "is not JSON"),
        (b"[1,]", "is not JSON"),
        (b"['a']", "is not JSON"),
        (b'["a]', "brackets do not match"),
        (b"[1] // comment", "is not JSON"),
        (b'"' + b'\\"' * 30_000, "brackets do not match"),
        (b"1} {", "is not JSON"),
    ],
)
async def test_what_is_not_strictly_json_is_refused(api: Api, items: bytes, said: str) -> None:
    answer = await post(api, START % items)
    assert (answer.status, answer.json["type"]) == (400, "urn:stagerun:body"), answer.body[:200]
    assert said in answer.json["detail"]


@pytest.mark.parametrize("body", [b"5", b"null", b'"text"', b"[]", b"true", b"1.5e3"])
async def test_a_value_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    assert (await post(api, body)).status == 422


@pytest.mark.parametrize(
    "body", [b"", b" ", b"\xef\xbb\xbf{}", b"\x00", b"{", b"\xff\xfe{\x00}\x00"]
)
async def test_what_is_no_value_at_all_is_refused(api: Api, body: bytes) -> None:
    assert (await post(api, body)).status == 400


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"pipeline": 5}, "pipeline"),
        ({"pipeline": None}, "pipeline"),
        ({"items": {"a": 1}}, "items"),
        ({"items": "abc"}, "items"),
        ({"items": [1, 2, 3, 4]}, "items"),
        ({"params": [1]}, "params"),
        ({"params": "x"}, "params"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {"": "a"}}, "labels"),
        ({"key": ""}, "key"),
        ({"key": 7}, "key"),
        ({"key": "x" * 201}, "key"),
        ({"key": "a\nb"}, "key"),
        ({"key": "a\0b"}, "key"),
        ({"module": "os:system"}, "module"),
        ({"target": "os:system"}, "target"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_its_name(
    api: Api, more: dict[str, Any], field: str
) -> None:
    answer = await post(api, json.dumps({"pipeline": "doubling", "items": [], **more}).encode())
    assert (answer.status, answer.json["field"]) == (422, field)


async def test_text_that_no_database_takes_is_refused(api: Api) -> None:
    body = {"pipeline": "doubling", "items": [], "labels": {"a": "\0"}}
    answer = await post(api, json.dumps(body).encode())
    assert answer.status == 422
    assert "cannot be stored" in answer.json["detail"]


async def test_a_body_that_is_announced_too_large_is_refused_unread(api: Api) -> None:
    async def receive() -> Any:
        raise AssertionError("it was read")

    for length in (str(300 * 2**20), "9" * 5_000):
        headers = {**JSON, "content-length": length}
        answer = await post(api, b"", headers=headers, receive=receive)
        assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_a_body_that_becomes_too_large_is_refused_on_the_way(api: Api) -> None:
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 2**14, "more_body": True}

    for headers in (JSON, {**JSON, "content-length": "10"}):
        read = 0
        assert (await post(api, b"", headers=headers, receive=receive)).status == 413
        assert read == 5


async def test_a_body_that_drips_is_given_up(api: Api) -> None:
    async def receive() -> Any:
        await trio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    answer = await post(api, b"", receive=receive)
    assert (answer.status, answer.headers["connection"]) == (408, "close")


async def test_a_client_that_goes_in_the_middle_of_its_body_is_no_failure(api: Api) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    assert (await post(api, b"", receive=receive)).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/jsonp"},
        {**JSON, "content-encoding": "gzip"},
    ],
)
async def test_another_kind_of_content_is_refused(api: Api, headers: dict[str, str]) -> None:
    assert (await post(api, START % b"[]", headers=headers)).status == 415


async def test_a_content_length_that_is_no_number_is_refused(api: Api) -> None:
    for length in ("-1", "1e3", "\u00b2", "0x10", ""):
        headers = {**JSON, "content-length": length}
        assert (await post(api, b"", headers=headers)).status == 400


def test_brackets_within_text_are_no_levels() -> None:
    assert parse(b'["' + b"[" * 100 + b'", "\\"[", "\\\\"]', 1) == ["[" * 100, '"[', "\\"]
    assert parse(b"[" * 64 + b"]" * 64, 64)
    with pytest.raises(Problem):
        parse(b"[" * 65 + b"]" * 65, 64)


def test_the_widest_bodies_are_parsed_in_a_moment() -> None:
    """Each would take minutes if anything looked at it again and again."""
    size = 2**20
    for raw in (b'"' + b'\\"' * (size // 2), b"[" * size, b"[]" * (size // 2), b'"' * size):
        with at_most(1.0), pytest.raises(Problem):
            parse(raw, 64)
    for raw in (b"[" + b"[]," * (size // 3) + b"1]", b"[" + b"1," * (size // 2) + b"1]"):
        with at_most(3.0):
            parse(raw, 64)


class at_most:  # noqa: N801 - used as a function
    """Fails when a block takes longer; processor time, so that a busy machine does not matter."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        import time

        self.began = time.process_time()

    def __exit__(self, *_: object) -> None:
        import time

        assert time.process_time() - self.began < self.seconds
