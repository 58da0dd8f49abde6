# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Auto-coding of interviews: before, one that hangs held everything at 25; now it costs itself."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from attrs import evolve

from examples.models.server import running_models
from examples.theory.pipeline import pipeline
from examples.theory.service import error_of, step_of
from examples.theory.texts import fragments_of
from stagerun import Retry, open_runtime
from tests.real.theorising import (
    FIRST,
    FRAGMENTS,
    LONGEST,
    NAMES,
    OTHERS,
    ROOT,
    SOON,
    TEXTS,
    adapted,
    assert_whole,
    coded_before,
    counts_of,
    ended,
    free_port,
    in_stores,
    outcomes,
    requests,
    run,
    running,
    theory_in,
    until_counts,
)

pytestmark = pytest.mark.real


async def test_before_stays_at_25_and_the_pipeline_ends_with_one_interview_timed_out(
    tmp_path,
) -> None:
    async with (
        running_models(hang=1) as models,
        running("examples.theory.before:app", tmp_path / "before", models) as before,
    ):
        old = await before.start()
        await before.until(old, lambda _: len(coded_before(before.folder, old)) == 11)
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
    (lost,) = theory["lost"]  # whose request came first: that one hangs
    others = [name for name in NAMES if name != lost]
    assert (theory["complete"], theory["partial"]) == (others, [])
    assert_whole(now.folder / "store" / "interviews", others)
    assert "[theory_stage]" not in before.log()  # the program's own lines: nobody has seen them
    assert "GET /api/projects/interviews/generate-theory/status" in before.log()
    assert f"item {NAMES.index(lost) + 1} timed_out" in now.log()


async def test_a_task_is_cancelled_and_known_in_its_own_project_only(tmp_path) -> None:
    patient = {"STAGERUN_THEORY_INTERVIEWS_DEADLINE": "60"}
    patient["STAGERUN_THEORY_INTERVIEWS_RETRY_ATTEMPT_DEADLINE"] = "60"
    async with (
        running_models(hang=1) as models,
        running("examples.theory.service:app", tmp_path, models, **patient) as there,
    ):
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

        document = await there.client.get(f"/stagerun/runs/{task}")
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
    under_way = 4 + 8  # workers of the two stages that ask for answers
    assert counted["chats"] <= len(NAMES) + sum(FRAGMENTS.values()) + under_way


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
    tmp_path, monkeypatch, caplog
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
            await until_counts(lambda: counts_of(started, "save_vectors").timed_out >= 3)
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
    assert "in no group" not in caplog.text


async def test_too_few_categories_fail_the_run_and_the_status_says_why(
    tmp_path, monkeypatch
) -> None:
    shutil.copytree(TEXTS, tmp_path / "texts")
    async with running_models() as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        result = await run(tmp_path, least=999)
    assert result.status == "failed"
    assert not [*(tmp_path / "store").glob("theory-*")]
    async with open_runtime(tmp_path / "runs.db") as runtime:
        document = await (await runtime.find(result.id)).document()
    told = error_of(document)
    assert told["error_code"] == "TooFewCategoriesError"
    assert "share 16 categories, and at least 999 were asked for" in str(told["error"])
    assert step_of(document) == "theory"


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


async def test_a_name_that_is_no_utf8_is_printed_and_a_link_that_leads_out_is_left_out(
    tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "3"
    folder.mkdir()
    for name in (b"ann\xe9.txt", b"empty\xe9.txt"):
        (folder / os.fsdecode(name)).write_text("The harbour froze." if name[0] == 97 else "")
    (tmp_path / "secret.txt").write_text("What nobody is to read.")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.chdir(tmp_path)
    async with running_models() as models, open_runtime(tmp_path / "runs.db") as runtime:
        monkeypatch.setenv("MODELS_ADDRESS", models)
        params = {"folder": 3, "store": 4, "least": 0}
        result = await (await runtime.start(pipeline, params=params)).wait()
    assert result.status == "succeeded", result.message
    theory = theory_in(tmp_path / "4")
    assert (theory["complete"], theory["lost"]) == ([r"ann\xe9.txt"], [r"empty\xe9.txt"])


async def test_without_a_model_server_every_interview_fails_and_so_does_the_run(
    tmp_path, monkeypatch
) -> None:
    shutil.copytree(TEXTS, tmp_path / "texts")
    async with running_models() as models:
        monkeypatch.setenv("MODELS_ADDRESS", models)  # and then it is gone
    result = await run(tmp_path, interviews={"retry": SOON})
    assert (result.status, result.cause) == ("failed", "least_ok")
    assert outcomes(result, "interviews") == (0, 12, 0)
    assert not (tmp_path / "store").exists()


async def test_a_model_server_that_comes_back_is_asked_again(tmp_path, monkeypatch) -> None:
    port = free_port()
    monkeypatch.setenv("MODELS_ADDRESS", f"http://127.0.0.1:{port}/v1")
    params = {"folder": str(TEXTS), "store": str(tmp_path / "store")}
    persistent = {"retry": evolve(SOON, attempts=1000, cap=0.2)}
    meanwhile = adapted(interviews=persistent, code=persistent, embed=persistent)
    async with open_runtime(tmp_path / "runs.db") as runtime:
        async with running_models(port=port, delay=0.05):
            started = await runtime.start(meanwhile, params=params)
            await until_counts(lambda: counts_of(started, "code").ok >= 5)
        async with running_models(port=port):
            result = await started.wait()
    assert (result.status, result.message) == ("succeeded", "all work is done")
    assert_whole(tmp_path / "store", NAMES)


def test_from_anywhere_it_runs_with_its_own_texts_and_its_own_model_server(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MODELS_ADDRESS"}
    command = [
        sys.executable,
        "-m",
        "stagerun",
        "run",
        f"{ROOT}/examples/theory/pipeline.py:pipeline",
    ]
    done = subprocess.run(  # noqa: PLW1510 - looked at below
        command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stderr
    assert "a model server of our own answers inside this program" in done.stderr
    assert_whole(tmp_path / "theory-store", NAMES)
    assert len(theory_in(tmp_path / "theory-store")["categories"]) == 16


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"folder": "nowhere"}, "has no texts"),
        ({"leest": 3}, "unknown params ['leest']: there are folder, store, least"),
        ({"folder": ""}, "folder is empty"),
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
