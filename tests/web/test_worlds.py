"""The same API under asyncio and under trio, and reads that wait for nobody."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.asyncio import open_runtime as open_in_asyncio
from stagerun.store.opening import connect
from stagerun.web.backend import Limits
from tests.web.asked import Api, serving

World = Callable[..., Any]


def in_trio(tmp_path: Path, main: Callable[[Api], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with serving(tmp_path, open_=open_runtime, **options) as api:
            await main(api)

    trio.run(whole)


def in_asyncio(tmp_path: Path, main: Callable[[Api], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with serving(tmp_path, open_=open_in_asyncio, **options) as api:
            await main(api)

    asyncio.run(whole())


worlds = pytest.mark.parametrize("world", [in_trio, in_asyncio])


@worlds
def test_a_run_is_started_followed_cancelled_and_resumed(tmp_path: Path, world: World) -> None:
    @stage
    async def slow(value: Any) -> Any:
        if value:
            await trio.sleep_forever()

    async def main(api: Api) -> None:
        run = (await api.post("/runs", {"pipeline": "slow", "items": [0, 1]})).json["id"]
        why = (await api.get(f"/runs/{run}/why")).json
        assert why["told_by"] == "process"
        assert (await api.post(f"/runs/{run}/cancel", {})).status in (200, 202)
        assert (await api.ended(run))["status"] == "cancelled"
        told = (await api.get(f"/runs/{run}/events")).body
        assert b'"status":"cancelled"' in told
        resumed = await api.post(f"/runs/{run}/resume", {})
        assert (resumed.status, resumed.json["generation"]) == (202, 2)
        assert (await api.post(f"/runs/{run}/cancel")).json["run"] == run
        assert (await api.ended(run))["generation"] == 2

    world(tmp_path, main, pipelines=[Pipeline("slow", [slow], grace=0.1)])


@worlds
def test_many_ask_at_once(tmp_path: Path, world: World) -> None:
    async def main(api: Api) -> None:
        statuses: list[int] = []

        async def client(number: int) -> None:
            body = {"pipeline": "counting", "key": f"k{number % 5}"}
            run = (await api.post("/runs", body)).json["id"]
            for path in (f"/runs/{run}", "/runs", f"/runs/{run}/why", "/overview", "/pipelines"):
                answer = await api.get(path)
                statuses.append(answer.status)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(client, number)
        assert set(statuses) <= {200, 503}  # 503: the machine was too busy for a turn in time
        assert statuses.count(200) > 50
        assert len((await api.get("/runs")).json["runs"]) == 5

    world(tmp_path, main)


@worlds
def test_reads_answer_while_another_program_writes(tmp_path: Path, world: World) -> None:
    async def main(api: Api) -> None:
        run = (await api.post("/runs", {"pipeline": "counting"})).json["id"]
        await api.ended(run)
        other = connect(tmp_path / "runs.db")
        other.execute("BEGIN IMMEDIATE")
        try:
            with anyio.fail_after(5):
                for path in ("/runs", f"/runs/{run}", f"/runs/{run}/items", f"/runs/{run}/why"):
                    assert (await api.get(path)).status == 200
        finally:
            other.execute("ROLLBACK")
            other.close()

    world(tmp_path, main)


def test_while_a_stage_blocks_all_is_read_and_a_start_says_what_blocks(tmp_path: Path) -> None:
    @stage
    async def block(value: Any) -> None:
        time.sleep(value)  # noqa: ASYNC251 - that is what is tested

    async def main(api: Api) -> None:
        body = {"pipeline": "blocking", "items": [5], "key": "one"}
        run = (await api.post("/runs", body)).json["id"]
        with anyio.fail_after(6):
            while (await api.get(f"/runs/{run}")).json["verdict"] != "blocked":  # noqa: ASYNC110 - of a blocked loop
                await anyio.sleep(0.05)
        slowest = 0.0
        for path in ("/runs", f"/runs/{run}", f"/runs/{run}/logs", "/overview", "/healthz") * 4:
            began = time.perf_counter()
            assert (await api.get(path)).status == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 1
        refused = await api.post("/runs", {**body, "key": "two"})
        assert (refused.status, refused.json["type"]) == (503, "urn:stagerun:blocked")
        assert "test_worlds.py" in refused.json["detail"]
        cancelled = await api.post(f"/runs/{run}/cancel", {})
        assert cancelled.json["became"] == "cancelling"
        assert "blocked" in cancelled.json["message"]

    known = [Pipeline("blocking", [block], grace=0.1)]
    in_asyncio(tmp_path, main, pipelines=known, limits=Limits(start_seconds=0.5))
