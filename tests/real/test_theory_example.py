# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Auto-coding of interviews: before, one that hangs held everything at 25; now it costs itself."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
import trio

from examples.models.server import running_models
from examples.theory.pipeline import DEFAULTS, pipeline
from examples.theory.texts import fragments_of
from stagerun import Retry, open_runtime

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
TEXTS = Path(DEFAULTS["folder"])
NAMES = sorted(file.name for file in TEXTS.iterdir())
FIRST, *OTHERS = NAMES
FRAGMENTS = {file.name: len(fragments_of(file.read_text())) for file in TEXTS.iterdir()}
LONGEST = 60.0
QUICK = {
    "STAGERUN_THEORY_INTERVIEWS_DEADLINE": "6",
    "STAGERUN_THEORY_CODE_DEADLINE": "6",
    "STAGERUN_LOG_LEVEL": "INFO",
}


async def test_before_stays_at_25_and_the_pipeline_ends_with_one_interview_timed_out(
    tmp_path,
) -> None:
    async with running_models(hang=1) as models:
        async with running("examples.theory.before:app", tmp_path / "before", models) as before:
            old = await before.start()
            await before.until(old, lambda _: coded_before(before.folder, old) == OTHERS)
            stood = await before.status(old)
            assert (stood["status"], stood["step"], stood["progress"]) == (
                "running",
                "auto_code",
                25,
            )

            async with running("examples.theory.service:app", tmp_path / "now", models) as now:
                new = await now.start()
                seen = await now.until(new, ended)
            assert await before.status(old) == stood  # all that time

    progress = [each["progress"] for each in seen]
    assert progress == sorted(progress)
    assert progress[0] >= 25
    assert 38.8 in progress  # all but one interview of twelve: 25 + 15 * 11 / 12
    waiting = seen[progress.index(38.8)]
    assert (waiting["status"], waiting["step"]) == ("running", "auto_code")
    last = seen[-1]
    assert (last["status"], last["step"], last["progress"]) == ("succeeded", "done", 100)
    assert (last["error"], last["error_code"]) == (None, None)
    assert (last["interviews"]["ok"], last["interviews"]["timed_out"]) == (11, 1)
    assert len({each["updated_at"] for each in seen}) > 5

    theory = theory_in(now.folder / "store" / "interviews")
    assert (theory["complete"], theory["partial"], theory["lost"]) == (OTHERS, [], [FIRST])
    assert_whole(now.folder / "store" / "interviews", OTHERS)
    assert "[theory_stage]" not in before.log()  # the program's own lines: nobody has seen them
    assert "GET /api/projects/interviews/generate-theory/status" in before.log()
    assert "item 1 timed out" in now.log()


async def test_a_task_is_cancelled_and_known_in_its_own_project_only(tmp_path) -> None:
    async with running_models(hang=1) as models:
        async with running("examples.theory.service:app", tmp_path, models) as there:
            task = await there.start()
            await there.until(task, lambda status: status["interviews"]["ok"] == 11)
            other = await there.ask("GET", "other", f"status/{task}")
            assert (other.status_code, "has no task" in other.text) == (404, True)
            assert (await there.ask("POST", "other", f"cancel/{task}")).status_code == 404
            assert (await there.ask("GET", "interviews", "status/0123")).status_code == 404
            assert (await there.ask("POST", "nowhere")).status_code == 404
            assert (await there.ask("POST", "..%2F..")).status_code in {404, 422}
            assert (await there.ask("POST", "interviews", json={"least": -1})).status_code == 422

            answer = (await there.ask("POST", "interviews", f"cancel/{task}")).json()
            assert answer["became"] in {"cancelling", "ended"}
            last = (await there.until(task, ended))[-1]
            assert (last["status"], last["step"]) == ("cancelled", "auto_code")
            assert last["interviews"]["cancelled"] == 1
            assert 25 < last["progress"] < 100

            demanding = await there.start({"least": 999})
            last = (await there.until(demanding, ended))[-1]
            assert (last["status"], last["error_code"]) == ("failed", "TooFewCategoriesError")
            assert "at least 999 were asked for" in last["error"]
            document = await there.client.get(f"/stagerun/runs/{demanding}")
            assert document.json()["labels"] == {"project": "interviews"}


async def test_a_service_that_is_killed_goes_on_where_it_was(tmp_path) -> None:
    async with running_models(delay=0.1) as models:
        async with running("examples.theory.service:app", tmp_path, models) as there:
            task = await there.start()
            await there.until(task, lambda status: status["fragments"]["ok"] >= 5)
            there.process.kill()
        async with running("examples.theory.service:app", tmp_path, models) as there:
            last = (await there.until(task, ended))[-1]
        assert last["status"] == "succeeded"
        counted = await requests(models)
    assert_whole(tmp_path / "store" / "interviews", NAMES)
    chats = [text for text in counted["latest"] if " | " not in text]
    under_way = 4 + 8  # workers of the two stages that ask for answers
    assert len(chats) <= len(NAMES) + sum(FRAGMENTS.values()) + under_way


async def test_a_hung_fragment_costs_itself(tmp_path, monkeypatch) -> None:
    long = (TEXTS / FIRST).read_text() * 4 + "\n\nHere the tape hangs. [[hang]]\n\nIt goes on."
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "long.md").write_text(long)
    shutil.copy(TEXTS / OTHERS[0], tmp_path / "texts")
    parts = fragments_of(long)
    async with running_models() as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        result = await run(tmp_path, least=0, code={"deadline": 2, "retry": Retry(attempts=1)})
    assert result.status == "succeeded"
    assert outcomes(result, "interviews") == (2, 0, 0)
    assert outcomes(result, "code") == (len(parts) - 1 + FRAGMENTS[OTHERS[0]], 0, 1)
    theory = theory_in(tmp_path / "store")
    assert (theory["complete"], theory["partial"]) == ([OTHERS[0]], ["long.md"])
    codes, vectors = in_stores(tmp_path / "store")
    assert codes.keys() == vectors
    assert all(codes.values())
    numbers = {number for name, number in codes if name == "long.md"}
    assert numbers == {*range(1, len(parts) + 1)} - {len(parts) - 1}


async def test_a_store_that_hangs_for_a_while_costs_what_it_was_to_write_then(
    tmp_path, monkeypatch
) -> None:
    shutil.copytree(TEXTS, tmp_path / "texts")
    (tmp_path / "store").mkdir()
    async with running_models() as models, open_runtime(tmp_path / "runs.db") as runtime:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        with closing(sqlite3.connect(tmp_path / "store" / "vectors.db")) as foreign:
            foreign.execute("PRAGMA user_version = 1")
            foreign.execute("BEGIN EXCLUSIVE")
            params = {"folder": str(tmp_path / "texts"), "store": str(tmp_path / "store")}
            started = await runtime.start(
                adapted(save_vectors={"deadline": 0.4}, save_codes={"buffer": 500}), params=params
            )
            with trio.fail_after(LONGEST):
                while counts_of(started, "save_vectors").timed_out < 3:  # noqa: ASYNC110 - no event
                    await trio.sleep(0.02)
            foreign.rollback()
        result = await started.wait()
        assert runtime.statistics().survivors == 0
    ok, failed, timed_out = outcomes(result, "save_vectors")
    assert (result.status, failed, ok + timed_out) == ("succeeded", 0, sum(FRAGMENTS.values()))
    assert timed_out >= 3
    codes, vectors = in_stores(tmp_path / "store")
    assert len(codes) == sum(FRAGMENTS.values())
    assert {fragment for fragment, synced in codes.items() if synced} == vectors
    assert len(vectors) == ok  # nothing was written after it had been told as timed out
    theory = theory_in(tmp_path / "store")
    assert theory["partial"] or theory["lost"]


async def test_busy_broken_and_malformed_answers_are_asked_for_again(tmp_path, monkeypatch) -> None:
    shutil.copytree(TEXTS, tmp_path / "texts")
    async with running_models(busy=3, malformed=5, reset=3, retry_after=0) as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        result = await run(tmp_path)
    assert [counts.ok for counts in result.stages] == [
        12,
        *[sum(FRAGMENTS.values())] * 4,
        12,
        12,
        1,
        1,
    ]


async def test_texts_of_any_sort_are_read_and_those_that_cannot_be_are_lost(
    tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "Ünïcode name.TXT").write_text("The harbour froze.\r\n\r\nThe harbour ice.")
    (folder / "latin.txt").write_bytes("Der Hafen fror. Das Eis h\xf6rte auf.".encode("latin-1"))
    (folder / "endless.txt").write_text("harbour" * 1000)
    (folder / "empty.txt").write_text(" \n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    async with running_models() as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        result = await run(tmp_path, least=0)
    assert result.status == "succeeded"
    assert outcomes(result, "interviews") == (3, 1, 0)
    theory = theory_in(tmp_path / "store")
    assert theory["complete"] == ["below/Ünïcode name.TXT", "endless.txt", "latin.txt"]
    assert theory["lost"] == ["empty.txt"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"folder": "nowhere"}, "has no texts"),
        ({"leest": 3}, "unknown params ['leest']: there are folder, store, least"),
        ({"least": "many"}, "least is a number of categories"),
    ],
)
async def test_what_cannot_be_used_is_said_before_anything_is_asked(
    params, message, tmp_path
) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        result = await (await runtime.start(pipeline, params=params)).wait()
    assert (result.status, result.cause) == ("failed", "source_error")
    assert message in result.message


class Server:
    """A FastAPI program under uvicorn, in a process of its own."""

    def __init__(self, process, folder: Path, client: httpx.AsyncClient) -> None:
        self.process = process
        self.folder = folder
        self.client = client

    async def ask(self, method: str, project: str, path: str = "", **more) -> httpx.Response:
        url = f"/api/projects/{project}/generate-theory/{path}".rstrip("/")
        return await self.client.request(method, url, **more)

    async def start(self, wish=None) -> str:
        answer = await self.ask("POST", "interviews", json=wish)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    async def status(self, task: str) -> dict:
        return dict(
            (await self.ask("GET", "interviews", f"status/{task}")).raise_for_status().json()
        )

    async def until(self, task: str, wanted) -> list[dict]:
        """Ask for the status until it is as wanted; return all that were told."""
        told = []
        with trio.fail_after(LONGEST):
            while True:
                told.append(await self.status(task))
                if wanted(told[-1]):
                    return told
                await trio.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "server.log").read_text()


@asynccontextmanager
async def running(program: str, folder: Path, models: str):
    """Run a program under uvicorn; its files go to a folder, its answers come from the models."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        **QUICK,
        "MODELS_ADDRESS": models,
        "THEORY_STORE": str(folder / ("before.db" if "before" in program else "store")),
        "THEORY_DATABASE": str(folder / "theory.db"),
    }
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), program]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    alone = httpx.Limits(max_keepalive_connections=0)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=LONGEST, limits=alone) as client:
            there = Server(process, folder, client)
            await answering(there)
            yield there
    finally:
        process.kill()
        process.wait()


async def answering(there: Server) -> None:
    with trio.fail_after(LONGEST):
        while True:
            try:
                await there.client.get("/openapi.json")
            except httpx.TransportError:
                assert there.process.poll() is None, there.log()
                await trio.sleep(0.05)
            else:
                return


def ended(status: dict) -> bool:
    return status["status"] not in {"queued", "running"}


async def run(folder: Path, least: int = 5, **options):
    """Run the pipeline over the folder's texts, with other options of some stages."""
    params = {"folder": str(folder / "texts"), "store": str(folder / "store"), "least": least}
    async with open_runtime(folder / "runs.db") as runtime:
        return await (await runtime.start(adapted(**options), params=params)).wait()


def adapted(**options):
    stages = [each.with_options(**options.get(each.name, {})) for each in pipeline.stages]
    return pipeline.with_options(stages=stages)


def counts_of(run_or_result, name: str):
    counts = getattr(run_or_result, "counts", None) or run_or_result.stages
    return next(each for each in counts if each.name == name)


def outcomes(result, name: str) -> tuple[int, int, int]:
    counts = counts_of(result, name)
    return counts.ok, counts.failed, counts.timed_out


def theory_in(store: Path) -> dict:
    (file,) = store.glob("theory-*.json")
    assert not [*store.glob("*.draft")]
    return dict(json.loads(file.read_text()))


def in_stores(store: Path) -> tuple[dict, set]:
    """Return the fragments in the first store, each with whether it is synced; and the second's."""
    with closing(sqlite3.connect(store / "codes.db")) as connection:
        rows = connection.execute("SELECT interview, number, synced FROM fragments").fetchall()
    with closing(sqlite3.connect(store / "vectors.db")) as connection:
        vectors = {*connection.execute("SELECT interview, number FROM vectors")}
    return {(name, number): bool(synced) for name, number, synced in rows}, vectors


def assert_whole(store: Path, names) -> None:
    """Both stores have all fragments of these interviews, and nothing else."""
    codes, vectors = in_stores(store)
    wanted = {(name, number) for name in names for number in range(1, FRAGMENTS[name] + 1)}
    assert (codes, vectors) == (dict.fromkeys(wanted, True), wanted)


def coded_before(folder: Path, task: str) -> list[str]:
    """The interviews that `before` has coded, embedded and written."""
    with closing(sqlite3.connect(folder / "before.db")) as connection:
        rows = connection.execute("SELECT interview FROM vectors WHERE task = ?", (task,))
        return sorted(name for (name,) in rows)


async def requests(models: str) -> dict:
    async with httpx.AsyncClient() as client:
        return dict((await client.get(models.removesuffix("/v1") + "/requests")).json())
