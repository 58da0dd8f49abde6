"""Schedules over HTTP: listed, shown, paused, resumed and triggered, whatever the runtime does."""

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from stagerun import Pipeline, Schedule, open_runtime, stage
from stagerun.engine import triggering
from tests.web.asked import ELSEWHERE, Api, counting, often, serving
from tests.web.test_worlds import World, in_asyncio, worlds


@worlds
def test_a_schedule_is_listed_shown_paused_resumed_and_triggered(
    tmp_path: Path, world: World
) -> None:
    async def main(api: Api) -> None:
        (listed,) = (await api.get("/schedules")).json["schedules"]
        assert (listed["name"], listed["state"], listed["fired"]) == ("often", "waiting", 0)
        assert (await api.get("/schedules/often")).json == {**listed, "slots": []}

        paused = await api.post("/schedules/often/pause")
        assert (paused.status, paused.json["state"]) == (200, "paused")
        triggered = await api.post("/schedules/often/trigger", root_path="/jobs")
        assert triggered.status == 202
        run = triggered.json["run"]
        assert triggered.headers["location"] == f"/jobs/runs/{run}"
        assert triggered.json["asked_by"] == "127.0.0.1 over HTTP"
        assert (await api.ended(run))["labels"] == {"schedule": "often"}
        resumed = await api.post("/schedules/often/resume", {})
        assert (resumed.status, resumed.json["state"]) == (200, "waiting")
        (slot,) = (await api.get("/schedules/often")).json["slots"]
        assert (slot["run"], slot["status"]) == (run, "succeeded")

    world(tmp_path, main, schedules=[often])


async def test_a_trigger_that_its_overlap_does_not_let_through_says_why(tmp_path: Path) -> None:
    @stage
    async def hangs(_value: Any) -> None:
        await anyio.sleep_forever()

    stuck = Schedule("stuck", Pipeline("stuck", [hangs], source=[1], grace=0.1), every=3600)
    async with serving(tmp_path, schedules=[stuck]) as api:
        first = (await api.post("/schedules/stuck/trigger")).json["run"]
        second = await api.post("/schedules/stuck/trigger")
        assert (second.status, second.json["decision"]) == (202, "skipped")
        assert first in second.json["reason"]
        assert "location" not in second.headers
        await api.post(f"/runs/{first}/cancel")
        await api.ended(first)


@pytest.mark.parametrize("what", ["", "/pause", "/resume", "/trigger"])
async def test_one_that_is_not_there_is_404_with_the_names_of_those_that_are(
    tmp_path: Path, what: str
) -> None:
    async with serving(tmp_path, schedules=[often]) as api:
        ask = api.post if what else api.get
        answer = await ask(f"/schedules/oftn{what}")
        assert (answer.status, answer.json["type"]) == (404, "urn:stagerun:no-schedule")
        assert "there is often" in answer.json["detail"]
        assert (await ask(f"/schedules/{'x' * 5000}%00\x1b{what}")).status == 404


async def test_one_that_nobody_serves_can_be_paused_and_not_triggered(tmp_path: Path) -> None:
    async with open_runtime(tmp_path / "runs.db", schedules=[often]):
        pass
    async with serving(tmp_path) as api:
        assert (await api.get("/schedules/often")).json["state"] == "unserved"
        answer = await api.post("/schedules/often/trigger")
        assert (answer.status, answer.json["type"]) == (409, "urn:stagerun:unserved")
        assert "start one" in answer.json["detail"]
        assert (await api.post("/schedules/often/pause")).json["state"] == "paused"
        assert (await api.post("/schedules/often/resume")).json["state"] == "unserved"


async def test_what_changes_something_needs_the_token_and_takes_no_body(tmp_path: Path) -> None:
    async with serving(tmp_path, schedules=[often]) as api:
        for what in ("pause", "resume", "trigger"):
            path = f"/schedules/often/{what}"
            assert (await api.post(path, token=None)).status == 401
            answer = await api.post(path, {"reason": "why not"})
            assert (answer.status, answer.json["detail"]) == (
                422,
                "'reason' is not known here; nothing is",
            )
        assert (await api.get("/schedules", client=ELSEWHERE)).status == 401
        schedule = (await api.get("/schedules/often")).json
        assert (schedule["state"], schedule["slots"]) == ("waiting", [])


def test_while_a_stage_blocks_all_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggering, "_LOOKS", 5)

    @stage
    async def block(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the fault that is played here

    async def main(api: Api) -> None:
        run = (await api.post("/runs", {"pipeline": "blocks", "items": [4]})).json["id"]
        with anyio.fail_after(20):
            while (await api.get(f"/runs/{run}")).json["verdict"] != "blocked":  # noqa: ASYNC110 - of a blocked loop
                await anyio.sleep(0.05)
        assert (await api.get("/schedules")).json["schedules"][0]["state"] == "waiting"
        assert (await api.post("/schedules/often/pause")).json["state"] == "paused"
        asked = await api.post("/schedules/often/trigger")
        assert (asked.status, asked.json["decision"]) == (202, None)
        assert (await api.get(f"/runs/{run}")).json["finished_at"] is None
        await api.ended(run)
        with anyio.fail_after(20):  # it stays, and is answered when the runtime can
            while (await api.get("/schedules/often")).json["last"]["decision"] != "fired":  # noqa: ASYNC110 - of another thread
                await anyio.sleep(0.02)

    blocks = Pipeline("blocks", [block], grace=0.1)
    in_asyncio(tmp_path, main, pipelines=[blocks, counting], schedules=[often])
