"""Who may ask for what: every route with every kind of visitor, and what strangers try."""

import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from stagerun.errors import StoreError
from stagerun.store.pool import ReadingPool
from stagerun.web.app import build
from stagerun.web.guard import Guard
from tests.web.asked import (
    ELSEWHERE,
    HERE,
    JSON,
    TOKEN,
    Answer,
    Api,
    Backend,
    FalseRuntime,
    api_of,
    ask,
    counting,
    doubling,
    empty_database,
    serving,
)

OPEN = {"/", "/docs", "/healthz", "/readyz", "/openapi.json", "/static/{name:path}"}
"""What needs no token anywhere. A route that is added is not among them."""


class Nothing:
    """A backend for looking at the routes only."""

    body_limit = 2**20


ROUTES = [(o.method, o.path) for o in build(Nothing()).operations]  # type: ignore[arg-type]  # see it


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path, hosts=["localhost", "127.0.0.1", "[::1]", "jobs.example"]) as api:
        yield api


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Api]:
    """The same doors with nothing behind them."""
    pool = ReadingPool(empty_database(tmp_path))
    backend = Backend(FalseRuntime(lambda: None), pool, {"doubling": doubling})
    yield api_of(backend, hosts=["localhost", "127.0.0.1", "[::1]", "jobs.example"])
    pool.close()


async def visit(api: Api, method: str, path: str, **options: Any) -> Answer:
    """Ask at a route as anybody might: whatever it names is not there."""
    path = re.sub(r"{[^}]*}", "none", path)
    body = b"{}" if method == "POST" else b""
    given = {"headers": JSON if method == "POST" else {}, "body": body}
    return await ask(api.app, path, method, **(given | options))


@pytest.mark.parametrize(
    "visitor",
    [
        {"host": "jobs.example"},
        {"client": ELSEWHERE},
        {"client": None},
        {"client": ("testclient", 1)},
        {"headers": {"x-forwarded-for": "127.0.0.1", **JSON}},
        {"headers": {"forwarded": "for=127.0.0.1", **JSON}},
        {"headers": {"via": "1.1 proxy", **JSON}},
        {"http_version": "1.0"},
        {"headers": {"sec-fetch-site": "cross-site"}},
    ],
    ids=["host", "far", "socket", "name", "x-forwarded", "forwarded", "via", "old", "page"],
)
@pytest.mark.parametrize("token", ["none", "wrong", "empty", "twice"])
async def test_beyond_this_machine_every_route_asks_for_the_token(
    doors: Api, visitor: dict[str, Any], token: str
) -> None:
    headers = list(visitor.get("headers", JSON).items())
    shown = {"none": [], "wrong": [TOKEN[:-1] + "x"], "empty": [""], "twice": [TOKEN, TOKEN]}
    headers += [("authorization", f"Bearer {each}") for each in shown[token]]
    for method, path in ROUTES:
        answer = await visit(doors, method, path, **{**visitor, "headers": headers})
        if path in OPEN:
            assert answer.status in (200, 404), path
        elif method == "POST" and any(name == "sec-fetch-site" for name, _ in headers):
            assert answer.status == 403, path
        else:
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), path
            assert TOKEN not in answer.body.decode()


@pytest.mark.parametrize("client", [HERE, ELSEWHERE, None])
async def test_with_the_token_every_route_answers(
    doors: Api, client: tuple[str, int] | None
) -> None:
    for method, path in ROUTES:
        answer = await visit(doors, method, path, token=TOKEN, host="jobs.example", client=client)
        assert answer.status not in (400, 401, 403, 405, 415, 500), path


@pytest.mark.parametrize("client", [HERE, ("::1", 7), ("::ffff:127.0.0.1", 7), ("127.8.8.8", 7)])
async def test_on_this_machine_reading_needs_no_token_and_changing_does(
    doors: Api, client: tuple[str, int]
) -> None:
    for method, path in ROUTES:
        answer = await visit(doors, method, path, client=client)
        assert (answer.status == 401) == (method == "POST"), path


async def test_reading_on_this_machine_needs_the_token_too_where_that_is_wanted(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, reads_need_token=True) as api:
        for method, path in ROUTES:
            answer = await visit(api, method, path)
            assert (answer.status == 401) == (path not in OPEN), path
            assert (await visit(api, method, path, token=TOKEN)).status != 401, path
    async with serving(tmp_path, reads_need_token=True, token=lambda: None) as api:
        assert (await api.get("/runs")).status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "post", "get", "X" * 100])
async def test_other_methods_need_the_token_too(doors: Api, method: str) -> None:
    assert (await ask(doors.app, "/runs", method)).status == 401
    assert (await ask(doors.app, "/runs", method, token=TOKEN)).status == 405


async def test_a_service_without_a_token_lets_everybody_do_everything(tmp_path: Path) -> None:
    async with serving(tmp_path, token=lambda: None) as api:
        for method, path in ROUTES:
            answer = await visit(api, method, path, client=ELSEWHERE)
            assert answer.status not in (401, 403)
        assert (await api.post("/runs", {"pipeline": "counting"}, token=None)).status == 202
        cross = {**JSON, "origin": "https://evil.example"}
        answer = await api.post("/runs", {"pipeline": "counting"}, token=None, headers=cross)
        assert answer.status == 403


async def test_the_token_counts_in_its_header_only(doors: Api) -> None:
    for query in (f"token={TOKEN}", f"access_token={TOKEN}", f"authorization=Bearer%20{TOKEN}"):
        assert (await ask(doors.app, "/runs", query=query, client=ELSEWHERE)).status == 401
    for header in ("cookie", "x-token", "proxy-authorization"):
        headers = {header: f"Bearer {TOKEN}"}
        assert (await ask(doors.app, "/runs", headers=headers, client=ELSEWHERE)).status == 401
    for shown in (TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", f"Bearer {TOKEN} x", "Bearer \u00e9"):
        headers = {"authorization": shown}
        assert (await ask(doors.app, "/runs", headers=headers, client=ELSEWHERE)).status == 401
    headers = {"authorization": f"bearer  {TOKEN} "}
    assert (await ask(doors.app, "/runs", headers=headers, client=ELSEWHERE)).status == 200


async def test_the_token_is_never_logged_nor_answered(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run = (await api.post("/runs", {"pipeline": "counting"})).json["id"]
    await api.ended(run)
    answers = [await visit(api, method, path, token=TOKEN) for method, path in ROUTES]
    answers += [await api.get(f"/runs/{run}{view}") for view in ("", "/logs", "/why", "/events")]
    assert all(TOKEN.encode() not in answer.body for answer in answers)
    assert all(TOKEN not in str(answer.headers) for answer in answers)
    assert TOKEN not in caplog.text


async def test_a_token_that_cannot_be_read_is_told_as_a_problem(tmp_path: Path) -> None:
    def fail() -> str:
        raise StoreError("the file of the token cannot be read")

    pool = ReadingPool(empty_database(tmp_path))
    api = api_of(Backend(FalseRuntime(lambda: None), pool, {}), token=fail)
    assert (await api.get("/runs")).status == 503
    pool.close()


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "localhost@evil.example",
        "localhost:80:80",
        "localhost:x",
        "localhost/x",
        "local host",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "[::2]",
        "::1",
        "[::1",
        "jobs.example.",
        "localhost\t",
        "LOCALHOST,evil.example",
    ],
)
async def test_a_host_that_is_not_listed_is_refused(doors: Api, host: str | None) -> None:
    fine = host in ("jobs.example.", "localhost\t")  # the same name, written in full; and blanks
    for path in ("/", "/runs", "/healthz", "/nothing"):
        answer = await ask(doors.app, path, host=host, token=TOKEN)
        assert (answer.status == 400) == (not fine)


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1:1", "[::1]:8000"])
async def test_a_host_that_is_listed_is_served_at_any_port(doors: Api, host: str) -> None:
    assert (await ask(doors.app, "/runs", host=host)).status == 200


async def test_two_hosts_are_none(doors: Api) -> None:
    answer = await ask(doors.app, "/runs", headers=[(b"host", b"localhost")])
    assert answer.status == 400


async def test_no_address_is_made_from_what_the_client_says(tmp_path: Path) -> None:
    async with serving(tmp_path, hosts=["*"]) as api:
        headers = {**JSON, "x-forwarded-host": "evil.example", "x-forwarded-prefix": "/evil"}
        body = {"pipeline": "counting"}
        answer = await api.post("/runs", body, host="evil.example", headers=headers)
        assert answer.status == 202
        assert "evil" not in str(answer.headers) + answer.body.decode()
        for path in ("/runs/", "//evil.example/runs", "/runs//"):
            answer = await ask(api.app, path, host="evil.example", token=TOKEN)
            assert answer.status == 404
            assert "location" not in answer.headers
        mounted = await api.post("/runs", body, root_path="//evil.example")
        assert mounted.headers["location"].startswith("/evil.example/runs/")


@pytest.mark.parametrize(
    "page",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost.evil.example"},
        {"origin": ""},
        {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("path", ["/runs", "/runs/x/cancel", "/runs/x/resume"])
async def test_a_foreign_page_changes_nothing_even_with_the_token(
    doors: Api, page: dict[str, str], path: str
) -> None:
    answer = await ask(doors.app, path, "POST", headers={**JSON, **page}, token=TOKEN, body=b"{}")
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "page", [{"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}, {}]
)
async def test_the_own_page_changes_what_it_may(api: Api, page: dict[str, str]) -> None:
    answer = await api.post("/runs", {"pipeline": "counting"}, headers={**JSON, **page})
    assert answer.status == 202


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_form_cannot_cancel_even_where_no_token_is_asked_for(
    tmp_path: Path, kind: str | None
) -> None:
    async with serving(tmp_path, token=lambda: None) as api:
        run = (await api.post("/runs", {"pipeline": "counting"}, token=None)).json["id"]
        headers = {} if kind is None else {"content-type": kind}
        for body in (b"", b"{}"):
            answer = await ask(api.app, f"/runs/{run}/cancel", "POST", headers=headers, body=body)
            assert answer.status == 415


async def test_nothing_is_changed_by_reading(doors: Api) -> None:
    for action in ("cancel", "resume"):
        assert (await doors.get(f"/runs/x/{action}", token=TOKEN)).status == 405


async def test_origins_that_are_listed_may_ask_and_no_others(tmp_path: Path) -> None:
    async with serving(tmp_path, origins=["https://tools.example"]) as api:
        listed = {"origin": "https://tools.example", "sec-fetch-site": "cross-site"}
        answer = await api.get("/runs", headers=listed)
        assert answer.headers["access-control-allow-origin"] == "https://tools.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["vary"] == "origin"
        started = await api.post("/runs", {"pipeline": "counting"}, headers={**JSON, **listed})
        assert started.status == 202
        assert "location" in started.headers["access-control-expose-headers"]
        preflight = {"access-control-request-method": "POST"}
        asked = await ask(api.app, "/runs", "OPTIONS", headers={**listed, **preflight})
        assert asked.status == 204
        assert "idempotency-key" in asked.headers["access-control-allow-headers"]
        for foreign in ("https://evil.example", "https://tools.example.evil.example", "null"):
            headers = {"origin": foreign, **preflight}
            for method in ("GET", "OPTIONS"):
                answer = await ask(api.app, "/runs", method, headers=headers, token=TOKEN)
                assert not any(name.startswith("access-control") for name in answer.headers)


async def test_every_answer_has_the_headers_that_keep_pages_apart(doors: Api) -> None:
    visitors: list[dict[str, Any]] = [{"token": TOKEN}, {"client": ELSEWHERE}, {"host": "evil.x"}]
    places = [*ROUTES, ("GET", "/nothing"), ("PUT", "/runs")]
    for answer in [await visit(doors, *place, **who) for place in places for who in visitors]:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")


SQL = ["' OR 1=1 --", "1; DROP TABLE runs", "x' UNION SELECT token --", "%", "_", "*", "\x00", "\\"]


async def test_sql_is_text_wherever_it_stands(api: Api) -> None:
    run = (await api.post("/runs", {"pipeline": "counting"})).json["id"]
    for text in SQL:
        await try_sql(api, run, text)
        assert len((await api.get("/runs")).json["runs"]) == 1


async def try_sql(api: Api, run: str, text: str) -> None:
    given = quote(text)
    for query in (f"pipeline={given}", f"label={given}:{given}", f"label=a:{given}"):
        answer = await api.get("/runs", query)
        assert answer.status == 422 if text == "\x00" else answer.json["runs"] == []
    for query in (f"status={given}", f"after={given}", f"limit={given}", f"{given}=1"):
        assert (await api.get("/runs", query)).status == 422
    for query in (f"stage={given}", f"outcome={given}", f"after={given}"):
        assert (await api.get(f"/runs/{run}/items", query)).status == 422
    for path in (f"/runs/{text}", f"/runs/{text}/why"):
        assert (await api.get(path)).status == 404


@pytest.mark.parametrize("limit", ["0", "501", "-1", "1e3", "9" * 5_000, "", "\u0663", "1_0", " 1"])
@pytest.mark.parametrize("path", ["/runs", "/runs/x/items", "/runs/x/logs"])
async def test_no_page_is_larger_than_the_largest(doors: Api, path: str, limit: str) -> None:
    answer = await doors.get(path, f"limit={quote(limit)}")
    assert (answer.status, answer.json["field"]) == (422, "limit")


@pytest.mark.parametrize("name", ["os:system", "os.system", "builtins:eval", "../x", "a/b.py:p"])
async def test_a_pipeline_is_never_an_import_path(doors: Api, name: str) -> None:
    seen: list[str] = []
    watching = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and event in ("import", "exec", "compile", "os.system", "subprocess.Popen"):
            seen.append(f"{event} {args[:1]}")

    await doors.post("/runs", {"pipeline": "warm", "items": []})
    sys.addaudithook(hook)
    answer = await doors.post("/runs", {"pipeline": name, "items": []})
    watching[0] = False
    assert answer.status == 404
    assert not any("os" in each or "builtins" in each for each in seen), seen


async def test_identifiers_cannot_be_guessed(api: Api) -> None:
    runs = [(await api.post("/runs", {"pipeline": "counting"})).json["id"] for _ in range(8)]
    assert all(re.fullmatch("[0-9a-f]{32}", run) for run in runs)
    assert len({run[:6] for run in runs}) == 8
    assert runs not in (sorted(runs), sorted(runs, reverse=True))


async def test_a_stranger_hears_nothing_of_any_run(api: Api) -> None:
    run = (await api.post("/runs", {"pipeline": "doubling", "items": ["secret"]})).json["id"]
    await api.ended(run)
    for path in ("/healthz", "/readyz", "/openapi.json", "/", "/docs"):
        told = (await api.get(path, client=ELSEWHERE, host="jobs.example")).body.decode()
        assert not {
            name
            for name in (run, "doubling", "counting", str(api.backend.pool.path))
            if name in told
        }


async def test_a_web_socket_is_closed(tmp_path: Path) -> None:
    pool = ReadingPool(empty_database(tmp_path))
    backend = Backend(FalseRuntime(lambda: None), pool, {"a": doubling, "b": counting})
    guard = Guard(build(backend).app, token=lambda: TOKEN)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await guard({"type": "websocket", "path": "/runs", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
