"""Starting: settings, arguments, keys, and a database that refuses."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from stagerun import Pipeline, SettingError, StoreError, UsageError, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.engine.run import RunActor
from stagerun.store.documents import run_list
from stagerun.store.inline import InlineStore
from tests.conftest import Bench, same_repr


@stage(workers=1)
async def work(item: int) -> int:
    return item


async def test_a_bad_setting_names_its_variable_and_leaves_a_failed_run() -> None:
    store = InlineStore()
    env = Env(environ={"STAGERUN_DEMO_WORK_WORKERS": "many"})
    async with open_runtime(store=store, env=env) as runtime:
        with pytest.raises(SettingError, match="STAGERUN_DEMO_WORK_WORKERS"):
            await runtime.start(Pipeline("demo", [work]), [1])
        (document,) = await store.ask(run_list())
    assert (document["status"], document["cause"]) == ("failed", "settings")
    assert "STAGERUN_DEMO_WORK_WORKERS" in document["message"]


async def test_a_good_setting_is_what_the_run_uses() -> None:
    env = Env(environ={"STAGERUN_DEMO_WORK_WORKERS": "7"})
    async with open_runtime(store=InlineStore(), env=env) as runtime:
        run = await runtime.start(Pipeline("demo", [work]), [1])
        assert (await run.wait()).status == "succeeded"
        assert isinstance(run._actor, RunActor)
        assert run._actor.hub.pipeline.stages[0].workers == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": "x"},
        {"key": 5},
        {"target": 5},
        {"labels": ["a"]},
        {"labels": {"a": 1}},
        {"params": object()},
        {"pipeline": work},
        {"items": "text"},
        {"items": 5},
    ],
    ids=same_repr,
)
async def test_a_wrong_argument_is_refused_before_anything_is_stored(wrong: dict[str, Any]) -> None:
    store = InlineStore()
    async with open_runtime(store=store, env=Env(environ={})) as runtime:
        given: dict[str, Any] = {"pipeline": Pipeline("demo", [work]), "items": [1]}
        with pytest.raises(UsageError):
            await runtime.start(**(given | wrong))
        assert await store.ask(run_list()) == []


async def test_a_key_belongs_to_one_pipeline_for_ever() -> None:
    async with open_runtime(store=InlineStore(), env=Env(environ={})) as runtime:
        first = await runtime.start(Pipeline("one", [work]), [1], key="k")
        await first.wait()
        again = await runtime.start(Pipeline("one", [work]), [2], key="k")
        assert again.id == first.id
        assert (await again.wait()).stages[0].accepted == 1
        with pytest.raises(UsageError, match="belongs to a run of pipeline 'one'"):
            await runtime.start(Pipeline("two", [work]), [1], key="k")


async def test_a_database_that_refuses_for_ever_does_not_hold_the_leaving(
    autojump_clock: MockClock,
) -> None:
    store = InlineStore()
    with pytest.raises(StoreError, match="full"):  # noqa: PT012 - it is the leaving that raises
        async with open_runtime(store=store, env=Env(environ={}, threads=False)) as runtime:
            assert store._connection is not None
            store._connection.execute("PRAGMA max_page_count = 1")
            await runtime.start(Pipeline("demo", [work]), lambda: ["x" * 1000] * 1000)
    assert trio.current_time() < 60


async def test_the_last_progress_becomes_an_event_though_nothing_else_happens(
    autojump_clock: MockClock, bench: Bench
) -> None:
    @stage(workers=2)
    async def work(seconds: float) -> None:
        await trio.sleep(seconds)

    run = await bench.runtime.start(Pipeline("work", [work]), [0.3, 0.4, 600])
    await trio.sleep(5)
    (body,) = bench.sql("SELECT body FROM events WHERE kind = 'progress' ORDER BY seq DESC LIMIT 1")
    assert json.loads(body[0])["stages"]["work"][:2] == [3, 2]
    await run.cancel()
