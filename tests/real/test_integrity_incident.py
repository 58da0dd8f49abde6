"""The incident and the pipeline, on the same site with the same faults, beside each other."""

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
import trio
from attrs import evolve

from examples.integrity.network import running_network
from examples.integrity.pipeline import check, pages, pipeline, records, report
from examples.integrity.service import running_service
from stagerun import Pipeline, Result, open_runtime
from tests.real.integrity_before import ROOT, before, until
from tests.real.serving import COMMAND, environment

pytestmark = pytest.mark.real

TWELVE = {"entities": 2, "records": 1500}  # pages of 250 records


def impatient(deadline: float) -> Pipeline:
    """The example with short deadlines; its files are few, so no threads are needed."""
    quick = pages.with_options(deadline=deadline, retry=evolve(pages.retry, attempt_deadline=0.6))
    return pipeline.with_options(
        stages=[quick, records, check.with_options(mode="inline"), report], deadline=60
    )


async def test_without_a_fault_both_find_the_same(tmp_path: Path) -> None:
    async with (
        running_service(**TWELVE) as address,
        before(tmp_path, address, runs=1, every=0) as incident,
    ):
        _, reports = await checked(tmp_path, address)
        await until(lambda: incident.statuses() == ["success"])
        found = json.loads(incident.rows()[0]["result"])
    assert found == {
        each["entity"]: {name: each[name] for name in ("intact", "without_hash")}
        for each in reports
    }


async def test_runs_pile_up_at_a_page_that_is_never_answered(tmp_path: Path) -> None:
    async with (
        running_service(**TWELVE, hang=1) as address,
        before(tmp_path, address, runs=3, every=0.1, watch=60) as incident,
    ):
        await until(lambda: len(incident.rows()) == 3)
        stood = []
        for _ in range(2):  # whole runs of the pipeline
            result, _ = await checked(tmp_path, address)
            assert (result.status, result.cause) == ("succeeded", "completed")
            assert (result.stages[0].ok, result.stages[0].timed_out) == (11, 1)
            stood.append([(row["status"], row["step"]) for row in incident.rows()])
        assert stood[0] == stood[1] == [("running", stood[0][0][1])] * 3
        await incident.kill()
        assert incident.statuses() == ["running"] * 3  # rows that belong to nobody


FIX = {"runs": 2, "every": 0.1, "watch": 60, "max_run_duration": 1}


async def test_with_the_fix_a_run_is_marked_and_waits_for_its_hung_thread_all_the_same(
    tmp_path: Path,
) -> None:
    async with (
        running_service(**TWELVE, hang=1) as address,
        running_network(address) as network,
        before(tmp_path, network.address, "--fix", **FIX) as incident,
    ):
        await until(lambda: incident.statuses() == ["timeout"] * 2)
        result, _ = await checked(tmp_path, address)  # a whole run of the pipeline
        assert (result.status, result.stages[0].timed_out) == ("succeeded", 1)
        assert network.connections == 2  # each held by a thread that nobody can stop
        assert "has left" not in incident.said()
        network.go_down()  # the site lets go, and only now the two go on
        await until(lambda: incident.said().count("has left after its timeout") == 2)


async def test_with_the_fix_the_program_does_not_end_while_the_page_hangs(tmp_path: Path) -> None:
    async with (
        running_service(**TWELVE, hang=1) as address,
        running_network(address) as network,
        before(tmp_path, network.address, "--fix", **FIX) as incident,
    ):
        await until(lambda: incident.statuses() == ["timeout"] * 2)
        incident.process.terminate()
        await until(lambda: "leaving: 2 timeout; 4 threads" in incident.said())
        result, _ = await checked(tmp_path, address)
        assert (result.status, result.stages[0].timed_out) == ("succeeded", 1)
        assert incident.process.poll() is None
        network.go_down()
        await until(lambda: incident.process.poll() == 0)


async def test_a_timeout_of_the_socket_does_not_help_against_a_page_that_drips(
    tmp_path: Path,
) -> None:
    async with (
        running_service(**TWELVE, drip=1) as address,
        before(tmp_path, address, runs=1, every=0, watch=60, socket_timeout=0.5) as incident,
    ):
        await until(lambda: incident.rows() and incident.rows()[0]["step"])
        result, _ = await checked(tmp_path, address)
        assert result.status == "succeeded"
        assert (result.stages[0].ok, result.stages[0].timed_out) == (11, 1)
        assert incident.statuses() == ["running"]


async def test_a_network_that_is_lost_and_comes_back_hangs_the_one_and_not_the_other(
    tmp_path: Path,
) -> None:
    later = tmp_path / "later"
    later.mkdir()
    stages = [pages.with_options(workers=1, deadline=20), *impatient(20).stages[1:]]
    one_by_one = impatient(20).with_options(stages=stages)
    async with (
        running_service(**TWELVE, page_delay=0.5) as address,
        running_network(address) as network,
        open_runtime(tmp_path / "runs.db") as runtime,
        before(tmp_path, network.address, runs=1, every=0, watch=60) as incident,
    ):
        run = await runtime.start(one_by_one, params={"address": network.address})
        await until(lambda: run.counts[0].ok and incident.rows()[0]["step"])
        network.lose()
        await until(lambda: network.caught == 2)
        network.come_up()
        result = await run.wait()
        assert (result.status, result.stages[0].ok) == ("succeeded", 12)
        async with before(later, network.address, runs=1, every=0, watch=60) as another:
            await until(lambda: another.statuses() == ["success"])  # the site is well
        assert incident.statuses() == ["running"]
        assert network.caught == 1


async def test_killed_in_the_middle_the_one_lies_for_ever_and_the_other_is_resumed(
    tmp_path: Path,
) -> None:
    target = f"{ROOT / 'examples' / 'integrity' / 'pipeline.py'}:pipeline"
    limits = environment(STAGERUN_INTEGRITY_PAGES_WORKERS="1")
    async with running_service(**TWELVE, page_delay=0.2) as address:
        command = [*COMMAND, "run", target, "--param", f"address={address}"]
        process = await trio.lowlevel.open_process(
            command, cwd=tmp_path, env=limits, stdout=DEVNULL, stderr=DEVNULL
        )
        await until(lambda: settled_pages(tmp_path / "stagerun.db") > 0)
        process.kill()
        await process.wait()
        async with before(tmp_path, address, runs=1, every=0, watch=60) as incident:
            await until(lambda: incident.rows() and incident.rows()[0]["step"])
            await incident.kill()
            assert incident.statuses() == ["running"]
        document = await told(tmp_path, "show", "latest")
        assert (document["status"], document["cause"]) == ("interrupted", "owner_died")
        document = await told(tmp_path, "resume", "latest")
    assert (document["status"], document["generation"]) == ("succeeded", 2)
    assert document["stages"][0]["ok"] == 12


async def checked(folder: Path, address: str) -> tuple[Result, list[dict[str, Any]]]:
    """Return how a run of the pipeline ended, and its reports."""
    async with open_runtime(folder / "runs.db") as runtime:
        run = await runtime.start(impatient(4), params={"address": address})
        result = await run.wait()
        return result, [each async for each in result.results()]


async def told(folder: Path, *command: str) -> dict[str, Any]:
    """What `stagerun COMMAND --json` tells."""
    done = await trio.run_process(
        [*COMMAND, *command, "--json"], cwd=folder, env=environment(), capture_stdout=True
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def settled_pages(database: Path) -> int:
    """How many outcomes another process has on disk by now."""
    with (
        suppress(sqlite3.OperationalError),  # it has not made its tables yet
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection,
    ):
        [(count,)] = connection.execute("SELECT count(*) FROM items WHERE stage = 0")
        return int(count)
    return 0
