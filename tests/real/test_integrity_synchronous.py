"""A client without any timeout, in threads and in processes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from examples.integrity.network import running_network
from examples.integrity.pipeline import check, records, report
from examples.integrity.service import running_service
from examples.integrity.synchronous import in_thread, pages, sync_process, sync_thread
from examples.integrity.vendor import SiteError, get
from stagerun import Pipeline, Retry, Run, Stage, open_runtime
from tests.real.integrity_before import ROOT, until
from tests.real.serving import COMMAND, LONGEST, environment

pytestmark = pytest.mark.real

ONE = {"entities": 1, "records": 1500}  # six pages


def reading_by(stage: Stage, pipeline: Pipeline, **options: Any) -> Pipeline:
    """The example with other policies of its first stage; its files are few: no threads needed."""
    quick = stage.with_options(least_ok=0.8, **options)
    return pipeline.with_options(
        stages=[quick, records, check.with_options(mode="inline"), report], deadline=60
    )


async def test_a_thread_that_hangs_is_left_behind_and_named(tmp_path: Path) -> None:
    retry = evolve(in_thread.retry, attempt_deadline=1)
    pipeline = reading_by(in_thread, sync_thread, retry=retry, workers=1)
    async with (
        running_service(**ONE, hang=1) as address,
        running_network(address) as network,
        open_runtime(tmp_path / "runs.db") as runtime,
    ):
        run = await runtime.start(pipeline, params={"address": network.address})
        result = await run.wait()
        assert (result.status, result.cause) == ("succeeded", "completed")
        assert (result.stages[0].ok, result.stages[0].timed_out) == (5, 1)
        document = await run.document()
        assert [name for name in document["survivors"] if "pages" in name] == document["survivors"]
        assert len(document["survivors"]) == 1
        assert document["stopped_at"] is None
        assert (network.connections, runtime.statistics().survivors) == (1, 1)
        network.go_down()  # the site lets go: what was left behind ends, too
        await until(lambda: runtime.statistics().survivors == 0)


async def test_a_process_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    pipeline = reading_by(pages, sync_process, retry=Retry(attempts=1), deadline=3, workers=1)
    async with (
        running_service(**ONE, hang=1, page_delay=0.2) as address,  # so that each page is seen
        running_network(address) as network,
        open_runtime(tmp_path / "runs.db") as runtime,
    ):
        run = await runtime.start(pipeline, params={"address": network.address})
        seen: set[int] = set()
        while run.status in ("queued", "running"):
            seen |= await processes(run)
        result = await run.wait()
        assert (result.status, result.cause) == ("succeeded", "completed")
        assert (result.stages[0].ok, result.stages[0].timed_out) == (5, 1)
        document = await run.document()
        assert document["survivors"] == []
        assert document["stopped_at"] is not None
        assert network.connections == 0
    assert len(seen) == 2
    for process in seen:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize("name", ["sync_thread", "sync_process"])
async def test_the_command_ends_while_the_call_still_hangs(name: str, tmp_path: Path) -> None:
    target = ROOT / "examples" / "integrity" / f"synchronous.py:{name}"
    limits = {"RETRY_ATTEMPT_DEADLINE": "1", "DEADLINE": "3", "LEAST_OK": "0.8"}
    settings = {f"STAGERUN_{name.upper()}_PAGES_{option}": limits[option] for option in limits}
    async with running_service(**ONE, hang=1) as address, running_network(address) as network:
        command = [*COMMAND, "run", str(target), "--param", f"address={network.address}", "--json"]
        with trio.fail_after(LONGEST):
            done = await trio.run_process(
                command, cwd=tmp_path, env=environment(**settings), capture_stdout=True
            )
    document = json.loads(done.stdout)
    assert (document["status"], document["stages"][0]["timed_out"]) == ("succeeded", 1)


async def test_a_busy_or_broken_page_is_read_again_and_a_missing_one_is_not(tmp_path: Path) -> None:
    retry = evolve(in_thread.retry, base=0.01)
    options = {"busy": 1, "reset": 1, "retry_after": 0}
    async with running_service(**ONE, **options) as address:
        async with open_runtime(tmp_path / "runs.db") as runtime:
            for stage, pipeline in ((in_thread, sync_thread), (pages, sync_process)):
                run = await runtime.start(
                    reading_by(stage, pipeline, retry=retry), params={"address": address}
                )
                assert (await run.wait()).stages[0].ok == 6
        with pytest.raises(SiteError, match="404"):
            await trio.to_thread.run_sync(get, f"{address}/nothing")


async def processes(run: Run) -> set[int]:
    """The processes in which pages are read at this moment."""
    document = await run.why()
    working = [work for each in document.get("stages", ()) for work in each.get("working", ())]
    names = [work["process"] for work in working if work["process"]]
    return {int(name.removeprefix("the worker process ").split()[0]) for name in names}
