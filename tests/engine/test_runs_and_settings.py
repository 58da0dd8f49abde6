"""Operators' settings, where they meet a run."""

import pytest

from stagerun import Pipeline, SettingError, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.store.documents import run_list
from stagerun.store.inline import InlineStore


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
        assert run._actor.hub.pipeline.stages[0].workers == 7
