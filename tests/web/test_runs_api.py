"""The API around a real runtime: what can be done with runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, Retry, stage
from stagerun.errors import RuntimeClosedError, SettingError, StoreError, UsageError
from stagerun.store.pool import ReadingPool, TooSlowError
from stagerun.web.backend import Limits
from tests.web.asked import (
    ELSEWHERE,
    JSON,
    TOKEN,
    Backend,
    FalseRuntime,
    api_of,
    ask,
    doubling,
    empty_database,
    serving,
)


async def test_a_run_is_started_shown_and_listed(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        body = {
            "pipeline": "doubling",
            "items": [1, None, "x", [2], {"a": 1.5}],
            "params": {"deep": [1]},
            "labels": {"project": "p:1"},
        }
        answer = await api.post("/runs", body)
        document = answer.json
        assert answer.status == 202
        assert answer.headers["location"] == f"/runs/{document['id']}"
        assert (document["pipeline"], document["params"]) == ("doubling", {"deep": [1]})
        ended = await api.ended(document["id"])
        assert (ended["status"], ended["stages"][0]["ok"]) == ("succeeded", 5)
        found = (await api.get("/runs", "label=project:p:1&pipeline=doubling")).json
        assert [run["id"] for run in found["runs"]] == [document["id"]]
        assert (await api.get("/runs", "label=project:other")).json == {"runs": [], "next": None}
        assert (await api.get("/runs/latest")).json["id"] == document["id"]
        assert (await api.get(f"/runs/{document['id'][:8]}")).json["id"] == document["id"]


async def test_labels_and_keys_that_look_like_secrets_are_labels_and_keys(tmp_path: Path) -> None:
    labels, key = {"session_id": "42", "password=": "hunter2"}, "sync-session_id=42"
    async with serving(tmp_path) as api:
        native = await api.backend.runtime.start(doubling, [1], labels=labels, key=key)
        body = {"pipeline": "doubling", "items": [1], "labels": labels}
        again = await api.post("/runs", {**body, "key": key})
        assert (again.status, again.json["id"], again.json["labels"]) == (200, native.id, labels)
        there = {**JSON, "Idempotency-Key": "token=abc"}
        run = (await api.post("/runs", body, headers=there)).json["id"]
        for query in ("label=session_id:42", "label=password%3D:hunter2"):
            found = (await api.get("/runs", query)).json["runs"]
            assert {each["id"] for each in found} == {native.id, run}
        assert (await api.get("/runs", "pipeline=password%3Dx")).json["runs"] == []
        odd = {**body, "labels": {"a": "\0"}}
        assert (await api.post("/runs", odd)).status == 422
        with pytest.raises(UsageError, match="cannot be stored"):
            await api.backend.runtime.start(doubling, [1], labels={"\ud800": "a"})


async def test_a_pipelines_own_source_is_used_where_no_items_are_given(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        run = (await api.post("/runs", {"pipeline": "counting"})).json["id"]
        assert (await api.ended(run))["stages"][0]["accepted"] == 3
        refused = await api.post("/runs", {"pipeline": "doubling", "items": None})
        assert refused.status == 422
        assert "no source of its own" in refused.json["detail"]


async def test_a_start_with_a_key_that_was_used_is_answered_with_the_first_run(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as api:
        body = {"pipeline": "doubling", "items": [1], "key": "order 7"}
        first = await api.post("/runs", body)
        second = await api.post("/runs", {**body, "items": [1, 2]})
        assert (first.status, second.status) == (202, 200)
        assert first.json["id"] == second.json["id"]
        assert second.headers["location"] == first.headers["location"]
        for text in ("order 7", '"order 7"'):
            again = await api.post(
                "/runs",
                {"pipeline": "doubling", "items": []},
                headers={**JSON, "Idempotency-Key": text},
            )
            assert (again.status, again.json["id"]) == (200, first.json["id"])
        both = {**JSON, "Idempotency-Key": "another"}
        assert (await api.post("/runs", body, headers=both)).status == 422
        other = await api.post("/runs", {"pipeline": "counting", "key": "order 7"})
        assert other.status == 422
        assert "pipeline 'doubling'" in other.json["detail"]
        assert len((await api.get("/runs")).json["runs"]) == 1


@pytest.mark.parametrize("text", ["", " ", "x" * 201, "a\tb", "\u00e9"])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as api:
        given = {**JSON, "Idempotency-Key": text}
        answer = await api.post("/runs", {"pipeline": "counting"}, headers=given)
        assert (answer.status, answer.json["field"]) == (422, "Idempotency-Key")


async def test_pages_follow_each_other_by_their_links(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        started = [
            (await api.post("/runs", {"pipeline": "doubling", "items": [n]})).json["id"]
            for n in range(5)
        ]
        seen, query = [], "limit=2&pipeline=doubling"
        while query:
            page = await api.get("/runs", query)
            seen += [run["id"] for run in page.json["runs"]]
            link = page.headers.get("link")
            assert (link is None) == (page.json["next"] is None)
            assert link is None or link.startswith("<?limit=2&pipeline=doubling&after=")
            query = "" if link is None else link.removeprefix("<?").removesuffix('>; rel="next"')
        assert seen == started[::-1]


async def test_items_and_lines_are_told_page_by_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        run = (await api.post("/runs", {"pipeline": "doubling", "items": [1, "bad", 3]})).json["id"]
        await api.ended(run)
        items = (await api.get(f"/runs/{run}/items", "outcome=failed,timed_out")).json["items"]
        assert [(item["item"], item["outcome"]) for item in items] == [(2, "failed")]
        assert items[0]["message"] == "<img src=x onerror=alert(1)>"
        first = await api.get(f"/runs/{run}/items", "limit=2&stage=double")
        after = first.json["next"]
        rest = await api.get(f"/runs/{run}/items", f"limit=2&after={after}")
        assert [item["item"] for item in first.json["items"] + rest.json["items"]] == [1, 2, 3]
        page = (await api.get(f"/runs/{run}/logs", "limit=1")).json
        assert page["run"] == run
        more = (await api.get(f"/runs/{run}/logs", f"after={page['next']}")).json["logs"]
        assert all(line["seq"] > page["logs"][0]["seq"] for line in more)
        assert (await api.get(f"/runs/{run}/items", "stage=none")).status == 422


async def test_cancelling_is_heard_and_cancelling_what_has_ended_tells_how(tmp_path: Path) -> None:
    @stage
    async def hang(value: Any) -> None:
        await trio.sleep_forever()

    async with serving(tmp_path, pipelines=[Pipeline("hanging", [hang])]) as api:
        run = (await api.post("/runs", {"pipeline": "hanging", "items": [1]})).json["id"]
        asked = await api.post(f"/runs/{run}/cancel", {"reason": "not wanted"})
        assert asked.status in (200, 202)
        assert asked.json["became"] in ("ended", "cancelling")
        ended = await api.ended(run)
        assert ended["status"] == "cancelled"
        assert ended["message"] == "not wanted (asked by 127.0.0.1 over HTTP)"
        again = await api.post(f"/runs/{run[:9]}/cancel", headers={})
        assert (again.status, again.json["became"], again.json["run"]) == (200, "ended", run)


async def test_what_failed_is_resumed_and_what_runs_is_not(tmp_path: Path) -> None:
    broken = [True]
    release = trio.Event()

    @stage(retry=Retry(attempts=1))
    async def sometimes(value: Any) -> Any:
        if broken[0]:
            raise ValueError("not today")
        await release.wait()
        return value

    async with serving(tmp_path, pipelines=[Pipeline("moody", [sometimes])]) as api:
        run = (await api.post("/runs", {"pipeline": "moody", "items": [1]})).json["id"]
        assert (await api.ended(run))["status"] == "failed"
        broken[0] = False
        resumed = await api.post(f"/runs/{run}/resume", {"failed": True})
        assert (resumed.status, resumed.json["generation"]) == (202, 2)
        assert resumed.headers["location"] == f"/runs/{run}"
        conflict = await api.post(f"/runs/{run}/resume", {})
        assert (conflict.status, conflict.json["type"]) == (409, "urn:stagerun:conflict")
        release.set()
        assert (await api.ended(run))["status"] == "succeeded"
        assert (await api.post(f"/runs/{run}/resume", {})).status == 409
        assert (await api.post(f"/runs/{run}/resume", {"changed": "perhaps"})).status == 422


async def test_a_run_of_a_pipeline_that_is_not_known_here_is_not_resumed(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        run = (await api.post("/runs", {"pipeline": "counting"})).json["id"]
        await api.ended(run)
        api.backend.pipelines = {}
        answer = await api.post(f"/runs/{run}/resume", {})
        assert answer.status == 409
        assert "does not know" in answer.json["detail"]


async def test_what_is_not_there_is_a_problem_that_says_what_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        for path in ("/runs/nope", "/runs/nope/items", "/runs/nope/why", "/runs/nope/events"):
            answer = await api.get(path)
            assert answer.status == 404
            assert answer.headers["content-type"] == "application/problem+json"
            assert "there is no run" in answer.json["detail"]
        missing = await api.post("/runs", {"pipeline": "os:system", "items": []})
        assert (missing.status, missing.json["pipelines"]) == (404, ["counting", "doubling"])
        assert (await api.get("/pipelines/none/durations")).status == 404
        for path in ("/nothing", "/runs/", "/static/../guard.py", "/static/guard.py", "/\x00"):
            answer = await api.get(path)
            assert (answer.status, answer.json["status"]) == (404, 404)


async def test_every_view_of_a_run_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        run = (await api.post("/runs", {"pipeline": "doubling", "items": [1, "bad"]})).json["id"]
        await api.ended(run)
        why = (await api.get(f"/runs/{run}/why")).json
        assert why["summary"]
        assert (await api.get(f"/runs/{run}/charts")).json["run"] == run
        assert (await api.get("/pipelines/doubling/durations")).json["runs"][-1]["id"] == run
        by_name = {each["name"]: each for each in (await api.get("/pipelines")).json["pipelines"]}
        assert by_name["counting"]["has_source"]
        assert by_name["counting"]["last"] is None
        assert (by_name["doubling"]["runs"], by_name["doubling"]["startable"]) == (1, True)
        assert by_name["doubling"]["last"]["id"] == run
        overview = (await api.get("/overview")).json
        assert sum(overview["counts"].values()) == 1
        assert (overview["owners"], overview["health"]["status"]) == (1, "ok")


async def test_methods_are_told_and_head_has_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        wrong = await ask(api.app, "/runs", "DELETE", token=TOKEN)
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        options = await ask(api.app, "/runs/x/cancel", "OPTIONS")
        assert (options.status, options.headers["allow"]) == (204, "OPTIONS, POST")
        got, head = await api.get("/runs"), await ask(api.app, "/runs", "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


async def test_mounted_under_a_prefix_it_tells_where_runs_are_seen_from_outside(
    tmp_path: Path,
) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    async with serving(tmp_path) as api:
        inner = Starlette(routes=[Mount("/jobs", app=api.app)])
        outer = Starlette(routes=[Mount("/a b", app=inner)])
        given: dict[str, Any] = {
            "body": json.dumps({"pipeline": "counting"}).encode(),
            "headers": JSON,
        }
        answer = await ask(outer, "/a b/jobs/runs", "POST", token=TOKEN, **given)
        assert answer.status == 202
        assert answer.headers["location"] == f"/a%20b/jobs/runs/{answer.json['id']}"
        assert (await ask(outer, f"/a b/jobs/runs/{answer.json['id']}")).status == 200
        assert (await ask(outer, "/a b/jobs/")).status == 200
        assert (await ask(outer, "/a b/jobs/nothing")).json["status"] == 404
        behind = await ask(api.app, "/runs", "POST", root_path="/proxy", token=TOKEN, **given)
        assert behind.headers["location"].startswith("/proxy/runs/")


async def test_pages_are_not_sent_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        first = await api.get("/")
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        assert first.headers["cache-control"] == "no-cache"
        again = await api.get("/", headers={"if-none-match": f'"x", {first.headers["etag"]}'})
        assert (again.status, again.body) == (304, b"")


async def test_a_closed_or_leaving_service_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        assert (await api.get("/readyz")).json == {"status": "ready", "problem": None}
        api.backend.leaving = True
        answer = await api.get("/readyz")
        assert (answer.status, answer.json["problem"]) == (503, "the service is about to end")
        assert (await api.get("/healthz")).status == 200


async def test_a_runtime_whose_loop_is_blocked_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blocked(FalseRuntime):
        async def find(self, run: str) -> Any:
            await trio.sleep_forever()

    monkeypatch.setattr("stagerun.web.overview._READY_WITHIN", 0.05)
    pool = ReadingPool(empty_database(tmp_path))
    api = api_of(Backend(Blocked(lambda: None), pool, {}))
    answer = await api.get("/readyz")
    assert (answer.status, answer.json["status"]) == (503, "not ready")
    assert "blocked" in answer.json["problem"]
    pool.close()


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UsageError("no"), 422, "usage"),
        (StoreError("the disk is full"), 503, "store"),
        (TooSlowError("too slow"), 503, "store"),
        (RuntimeClosedError("left"), 503, "closed"),
        (SettingError("STAGERUN_X", "must be a number"), 503, "setting"),
    ],
)
async def test_each_error_of_a_start_has_its_status(
    tmp_path: Path, error: Exception, status: int, kind: str
) -> None:
    def fail() -> None:
        raise error

    pool = ReadingPool(empty_database(tmp_path))
    api = api_of(Backend(FalseRuntime(fail), pool, {"doubling": doubling}))
    answer = await api.post("/runs", {"pipeline": "doubling", "items": []})
    assert (answer.status, answer.json["type"]) == (status, f"urn:stagerun:{kind}")
    assert str(error) in answer.json["detail"]
    assert ("retry-after" in answer.headers) == (kind in ("store", "closed"))
    pool.close()


async def test_a_runtime_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    class Blocked(FalseRuntime):
        async def start(self, *_: Any, **__: Any) -> Any:
            await trio.sleep_forever()

    pool = ReadingPool(empty_database(tmp_path))
    backend = Backend(Blocked(lambda: None), pool, {"doubling": doubling})
    api = api_of(backend, Limits(start_seconds=0.05))
    with trio.fail_after(5):
        answer = await api.post("/runs", {"pipeline": "doubling", "items": []})
    assert (answer.status, answer.json["type"]) == (503, "urn:stagerun:blocked")
    assert "ask again with the same key" in answer.json["detail"]
    pool.close()


async def test_what_nobody_has_foreseen_has_a_number_and_no_detail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("/secret/place")

    pool = ReadingPool(empty_database(tmp_path))
    api = api_of(Backend(FalseRuntime(fail), pool, {"doubling": doubling}))
    answer = await api.post("/runs", {"pipeline": "doubling", "items": []})
    assert answer.status == 500
    assert "secret" not in answer.body.decode()
    assert answer.json["incident"] in caplog.text
    assert "/secret/place" in caplog.text
    pool.close()


async def test_from_elsewhere_nothing_is_told_of_what_makes_it_unready(tmp_path: Path) -> None:
    async with serving(tmp_path, hosts=["jobs.example"]) as api:
        api.backend.leaving = True
        far = await api.get("/readyz", client=ELSEWHERE, host="jobs.example")
        assert "about to end" not in far.json["problem"]
