"""Whatever is sent, nothing fails: every answer is one that was meant, and well formed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagerun.store.pool import ReadingPool
from tests.web.asked import (
    JSON,
    TOKEN,
    Api,
    Backend,
    FalseRuntime,
    api_of,
    ask,
    counting,
    doubling,
    empty_database,
)

EXAMPLES = int(os.environ.get("STAGERUN_TEST_FUZZ", "150"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
fields = st.dictionaries(
    st.sampled_from(["pipeline", "items", "params", "labels", "key", "reason", "failed", "changed"])
    | st.text(max_size=5),
    st.sampled_from(["doubling", "counting", "refuse", True, [], {}, [1, "a"], {"a": "b"}])
    | anything,
    max_size=6,
)
bodies = st.one_of(
    st.binary(max_size=200),
    anything.map(lambda value: json.dumps(value).encode()),
    fields.map(lambda value: json.dumps(value).encode()),
    fields.map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    st.tuples(fields.map(lambda value: json.dumps(value).encode()), st.integers(0, 200)).map(
        lambda pair: pair[0][: pair[1]]
    ),
)
names = st.sampled_from(
    ["limit", "after", "status", "pipeline", "label", "stage", "outcome", "level", "name", "x"]
)
words = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=10),
    st.integers().map(str),
    st.sampled_from(
        ["running", "failed,ok", "a:b", "1.1", "%00", "%ff%fe", "%ed%a0%80", "9" * 400]
    ),
)
queries = st.lists(st.tuples(names, words), max_size=4).map(
    lambda pairs: "&".join(f"{name}={word}" for name, word in pairs)
)
texts = st.text(st.characters(max_codepoint=255), max_size=30)
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "host",
                "origin",
                "authorization",
                "content-type",
                "content-length",
                "content-encoding",
                "transfer-encoding",
                "sec-fetch-site",
                "idempotency-key",
                "last-event-id",
                "if-none-match",
                "access-control-request-method",
                "forwarded",
            ]
        ),
        texts | st.sampled_from(["application/json", "same-origin", f"Bearer {TOKEN}", "gzip"]),
    ),
    max_size=4,
)
paths = st.sampled_from(
    [
        *("/runs", "/runs/x", "/runs/x/items", "/runs/x/logs", "/runs/x/why", "/runs/x/charts"),
        *("/runs/x/cancel", "/runs/x/resume", "/runs/x/events", "/pipelines", "/labels"),
        *("/pipelines/x/durations", "/overview", "/healthz", "/readyz", "/metrics", "/docs", "/"),
        *("/openapi.json", "/static/app.js", "/static/%2e%2e/x", "/runs/\udcff", "/runs/\x00"),
    ]
) | st.text(max_size=20).map(lambda text: f"/{text}")


class Ran:
    id = "x"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path: Path = empty_database(tmp_path_factory.mktemp("fuzz"))
    pool = ReadingPool(path)
    yield api_of(Backend(FalseRuntime(Ran), pool, {"doubling": doubling, "counting": counting}))
    pool.close()


def well_formed(answer: Any) -> None:
    assert answer.status != 500, answer.body
    if answer.status >= 400 and answer.body:
        problem = answer.json
        assert answer.headers["content-type"] in ("application/problem+json", "application/json")
        assert problem["status"] in (answer.status, "not ready")
    for name, value in answer.headers.items():
        assert not {"\r", "\n"} & set(name + value)


@fuzzed
@given(body=bodies, path=st.sampled_from(["/runs", "/runs/x/cancel", "/runs/x/resume"]))
def test_no_body_makes_it_fail(api: Api, body: bytes, path: str) -> None:
    async def main() -> None:
        answer = await ask(api.app, path, "POST", body=body, headers=JSON, token=TOKEN)
        well_formed(answer)
        assert answer.status in (400, 404, 415, 422), answer.body

    trio.run(main)


@fuzzed
@given(path=paths, query=queries, method=st.sampled_from(["GET", "HEAD", "OPTIONS", "DELETE"]))
def test_no_address_makes_it_fail(api: Api, path: str, query: str, method: str) -> None:
    async def main() -> None:
        answer = await ask(api.app, path, method, query=query, token=TOKEN)
        well_formed(answer) if method != "HEAD" else None
        assert answer.status != 500

    trio.run(main)


@fuzzed
@given(given=headers, path=paths, method=st.sampled_from(["GET", "POST", "OPTIONS"]))
def test_no_headers_make_it_fail(
    api: Api, given: list[tuple[str, str]], path: str, method: str
) -> None:
    async def main() -> None:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in given]
        body = b"{}" if method == "POST" else b""
        well_formed(await ask(api.app, path, method, headers=raw, body=body, token=TOKEN))

    trio.run(main)
