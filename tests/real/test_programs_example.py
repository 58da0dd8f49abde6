import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from attrs import evolve, frozen

from examples.models.server import running_models
from examples.programs import storage
from examples.programs.incident import NEVER, adopt, brief, finish, leave_zombies
from examples.programs.pipeline import (
    ASKED,
    BRIEFS,
    assemble,
    pipeline,
    save,
    skeleton,
    week,
    weeks,
)
from examples.programs.program import Brief, Program
from examples.programs.servers import BEFORE, ROOT, SERVICE, Server, questions, serving, until
from stagerun import Pipeline, Result, open_runtime

pytestmark = pytest.mark.real

QUICK = evolve(ASKED, base=0.01)
FIVE_WEEKS = Brief(athlete="a diver", goal="ten minutes of calm", weeks=5, sessions=2)
ONE_AT_A_TIME = {"STAGERUN_PROGRAMS_WEEK_WORKERS": "1"}


def quick(**options: Any) -> Pipeline:
    """The example with short pauses between attempts, and other policies of `week`."""
    asked = {"retry": QUICK, **options}
    stages = [skeleton.with_options(retry=QUICK), weeks, week.with_options(**asked), assemble, save]
    return pipeline.with_options(stages=stages, deadline=60)


@pytest.fixture(autouse=True)
def own_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAMS_DB", str(tmp_path / "programs.db"))
    monkeypatch.delenv("MODELS_ADDRESS", raising=False)


# -- the pipeline ---------------------------------------------------------------------------------


async def test_each_brief_becomes_a_program_as_long_as_it_asks_for(tmp_path: Path) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        result = await (await runtime.start(pipeline)).wait()
        assert result.status == "succeeded"
        programs = [stored(identifier) async for identifier in result.results()]
    assert [program.brief for program in programs] == BRIEFS
    for program in programs:
        assert [each.number for each in program.weeks] == [*range(1, program.brief.weeks + 1)]
        assert {len(each.sessions) for each in program.weeks} == {program.brief.sessions}


async def test_an_answer_that_does_not_fit_the_schema_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models(malformed=3) as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        result = await ended(tmp_path, [FIVE_WEEKS])
        asked = await questions(models)
    assert (result.status, result.stages[2].ok) == ("succeeded", 5)
    assert (asked["contents"], asked["requests"]) == (6, 9)


async def test_a_model_that_never_gives_json_fails_the_run_and_is_quoted(tmp_path: Path) -> None:
    result = await ended(tmp_path, [evolve(FIVE_WEEKS, notes="[[always-malformed]]")])
    assert (result.status, result.cause) == ("failed", "least_ok")
    assert "skeleton: 0 of 1 items ok (1 failed)" in result.message
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        ((error, message),) = connection.execute("SELECT error, message FROM failures")
    assert error.endswith("InvalidAnswerError")
    assert "Certainly" in message


async def test_without_all_its_weeks_there_is_no_program_and_a_resume_asks_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with upstream() as models, open_runtime(tmp_path / "runs.db") as runtime:
        monkeypatch.setenv("MODELS_ADDRESS", models.address)
        run = await runtime.start(quick(workers=1), [FIVE_WEEKS])

        async def two_are_written() -> bool:
            return run.counts[2].ok >= 2

        await until(two_are_written)
        models.process.kill()  # cut off from the upstream
        result = await run.wait()
        written = result.stages[2].ok
        assert (result.status, result.cause) == ("failed", "least_ok")
        assert 2 <= written < 5
        assert not list_of_programs(tmp_path)
        async with running_models() as again:
            monkeypatch.setenv("MODELS_ADDRESS", again)
            result = await (await run.resume(failed=True)).wait()
            assert (await questions(again))["requests"] == 5 - written
    assert result.status == "succeeded"
    assert len(list_of_programs(tmp_path)) == 1


async def test_a_line_that_is_no_brief_fails_by_itself(tmp_path: Path) -> None:
    odd = {"athlete": "a diver", "goal": "depth", "weeks": 99, "sessions": 2}
    result = await ended(tmp_path, [odd, msgspec.to_builtins(FIVE_WEEKS)])
    assert (result.status, result.stages[0].failed, result.stages[4].ok) == ("succeeded", 1, 1)


# -- the service ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["kill", "terminate"])
async def test_a_job_cut_short_is_interrupted_and_a_retry_asks_for_no_written_week_again(
    fault: str, tmp_path: Path
) -> None:
    cause = {"kill": "owner_died", "terminate": "shutdown"}[fault]
    async with upstream() as models:
        async with serving(SERVICE, tmp_path, models.address, settings=ONE_AT_A_TIME) as server:
            job = await under_way(server, models)
            await (server.kill() if fault == "kill" else server.terminate())
        models.process.send_signal(signal.SIGCONT)
        async with serving(SERVICE, tmp_path, models.address, workers=2) as server:
            found = await server.job(job)
            assert (found["status"], found["cause"]) == ("interrupted", cause)
            assert found["message"]
            written = found["weeks"]["written"]
            assert 2 <= written < 5
            assert (await server.retry(job)).status_code == 202
            found = await ended_as("succeeded", server, job)
            assert [each["cause"] for each in found["earlier"]] == [cause]
            program = await server.get(found["program"])
            assert len(program["weeks"]) == 5
            asked = await questions(models.address)
            # Six questions; the one that was cut off may have been heard, and was asked again.
            assert (asked["contents"], asked["requests"] <= 7) == (6, True)
            assert (await server.retry(job)).status_code == 409


async def test_with_on_interrupt_resume_nobody_has_to_ask(tmp_path: Path) -> None:
    settings = {**ONE_AT_A_TIME, "STAGERUN_PROGRAMS_ON_INTERRUPT": "resume"}
    async with upstream() as models:
        async with serving(SERVICE, tmp_path, models.address, settings=settings) as server:
            job = await under_way(server, models)
            await server.kill()
        models.process.send_signal(signal.SIGCONT)
        async with serving(SERVICE, tmp_path, models.address, settings=settings) as server:
            found = await ended_as("succeeded", server, job)
            assert [each["status"] for each in found["earlier"]] == ["interrupted"]


async def test_the_service_says_what_it_cannot_do(tmp_path: Path) -> None:
    async with (
        running_models() as models,
        serving(SERVICE, tmp_path, models) as server,
        httpx.AsyncClient(base_url=server.address) as client,
    ):
        for body in (b"", b"{", b"[]", b'{"athlete": "x"}', b'"\xff"', b'{"weeks": 1e999}'):
            answer = await client.post("/api/programs/generate", content=body)
            assert answer.status_code == 422, body
        for path in ("/api/programs/jobs/nobody", "/api/programs/nobody"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/api/programs/jobs/nobody/retry")).status_code == 404
        assert "Brief" in (await client.get("/openapi.json")).text

        content = msgspec.json.encode(FIVE_WEEKS)
        key = {"Idempotency-Key": "once"}
        asked = [
            await client.post("/api/programs/generate", content=content, headers=key)
            for _ in range(3)
        ]
        assert len({answer.json()["job"] for answer in asked}) == 1
        other = msgspec.json.encode(evolve(FIVE_WEEKS, weeks=4))
        refused = await client.post("/api/programs/generate", content=other, headers=key)
        assert (refused.status_code, asked[0].json()["job"] in refused.text) == (409, True)
        assert (await client.get("/api/health")).json()["status"] == "ok"


# -- before, and what became of it ----------------------------------------------------------------


async def test_before_is_well_while_nobody_restarts_it(tmp_path: Path) -> None:
    async with running_models() as models, serving(BEFORE, tmp_path, models) as old:
        job = await old.generate(FIVE_WEEKS)
        await ended_as("completed", old, job)
        assert len((await old.get(f"/api/programs/{job}"))["weeks"]) == 5


async def test_cleaning_up_at_the_start_ends_the_living_jobs_of_other_processes(
    tmp_path: Path,
) -> None:
    async with running_models(delay=NEVER) as models, serving(BEFORE, tmp_path, models) as old:
        job = await old.generate(FIVE_WEEKS)
        async with serving(BEFORE, tmp_path, models, settings={"CLEAN_UP_AT_START": "1"}):
            found = await old.job(job)
            assert (found["status"], (await questions(models))["open"]) == ("failed", 1)
        await old.kill()


async def test_eighteen_zombies_of_the_old_service_end_as_programs_of_the_new_one(
    tmp_path: Path,
) -> None:
    jobs = await leave_zombies(tmp_path, 18)
    async with running_models() as models, serving(BEFORE, tmp_path, models) as old:
        assert [(await old.job(job))["status"] for job in jobs] == ["in_progress"] * 18
        assert (await questions(models))["requests"] == 0  # and nobody works on them

    ended = await finish(tmp_path, jobs)
    assert [each["status"] for each in ended] == ["succeeded"] * 18
    assert any(each["earlier"] for each in ended)
    programs = [stored(each["program"].rpartition("/")[2]) for each in ended]
    assert [program.brief for program in programs] == [brief(number) for number in range(18)]
    assert [len(program.weeks) for program in programs] == [each.brief.weeks for each in programs]
    with closing(sqlite3.connect(tmp_path / "programs.db")) as connection:
        rows = connection.execute(
            "SELECT status, error FROM program_generation_jobs ORDER BY rowid"
        ).fetchall()
    assert {status for status, _ in rows} == {"failed"}
    assert all(each["job"] in error for (_, error), each in zip(rows, ended, strict=True))


async def test_adopting_again_starts_nothing(tmp_path: Path) -> None:
    jobs = await leave_zombies(tmp_path, 3)
    set_request(tmp_path, jobs[2], "{}")
    async with running_models() as models, serving(SERVICE, tmp_path, models) as new:
        first = await adopt(tmp_path, new)
        assert "3 jobs of" in first
        assert "now there are 0" in first
        assert "cannot be started again" in first
        assert "0 jobs of" in await adopt(tmp_path, new)
        for job in jobs[:2]:  # as if it had been killed before it settled the rows
            set_status(tmp_path, job, "in_progress")
        assert "2 jobs of" in await adopt(tmp_path, new)
        for job in jobs[:2]:
            await ended_as("succeeded", new, job)
        assert len((await new.get("/jobs/runs"))["runs"]) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"", "no such table"),
        (b"no database at all, but long enough" * 100, "not a database"),
    ],
)
async def test_adopting_from_what_is_no_old_database_says_so_and_changes_nothing(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    old = tmp_path / "old.db"
    if content is not None:
        old.write_bytes(content)
    command = [sys.executable, "-m", "examples.programs.adopt", str(old)]
    done = await trio.run_process(command, cwd=ROOT, capture_stderr=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert content is None or old.read_bytes() == content


async def test_the_old_service_is_not_asked_to_adopt_its_own_jobs(tmp_path: Path) -> None:
    await leave_zombies(tmp_path, 1)
    async with running_models() as models, serving(BEFORE, tmp_path, models) as old:
        with pytest.raises(subprocess.CalledProcessError):
            await adopt(tmp_path, old)
    assert len(storage.zombies(tmp_path / "programs.db")) == 1


async def ended(folder: Path, items: Any) -> Result:
    async with open_runtime(folder / "runs.db") as runtime:
        run = await runtime.start(quick(), items)
        return await run.wait()


def stored(identifier: str) -> Program:
    document = storage.load(identifier)
    assert document is not None
    return msgspec.json.decode(document, type=Program)


def list_of_programs(folder: Path) -> list[str]:
    if not (folder / "programs.db").exists():
        return []
    with closing(sqlite3.connect(folder / "programs.db")) as connection:
        return [identifier for (identifier,) in connection.execute("SELECT id FROM programs")]


@frozen
class Upstream:
    """A model server whose process may be stopped, so that it falls silent, or killed."""

    process: trio.Process
    address: str


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    command = [sys.executable, "-m", "examples.models.server", "--delay", "0.1"]
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with process.stdout:
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        yield Upstream(process, msgspec.json.decode(line)["address"])
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def under_way(server: Server, models: Upstream) -> str:
    """Start a job of five weeks; when two are written, no more answers come."""
    job = await server.generate(FIVE_WEEKS)

    async def two_are_written() -> bool:
        return bool((await server.job(job))["weeks"]["written"] >= 2)

    await until(two_are_written)
    models.process.send_signal(signal.SIGSTOP)
    return job


async def ended_as(status: str, server: Server, job: str) -> dict[str, Any]:
    """Wait for a job's end."""
    found: dict[str, Any] = {}

    async def it_is() -> bool:
        found.update(await server.job(job))
        assert found["status"] in {"in_progress", "queued", "running", "interrupted", status}, found
        return bool(found["status"] == status)

    await until(it_is)
    return found


def set_status(folder: Path, job: str, status: str) -> None:
    change(folder, "UPDATE program_generation_jobs SET status = ? WHERE id = ?", status, job)


def set_request(folder: Path, job: str, request: str) -> None:
    change(folder, "UPDATE program_generation_jobs SET request = ? WHERE id = ?", request, job)


def change(folder: Path, sql: str, *values: str) -> None:
    with closing(sqlite3.connect(folder / "programs.db")) as connection, connection:
        connection.execute(sql, values)
