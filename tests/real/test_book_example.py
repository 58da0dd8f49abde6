import json
import re
import signal
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import trio

import examples.book.pipeline as book
from examples.book import incident, prompts
from examples.book.shelf import Book
from examples.models.server import running_models
from stagerun import Pipeline, Result, Run, Runtime, open_runtime
from tests.real.serving import COMMAND, environment, serving
from tests.real.test_book_parts import stored

pytestmark = pytest.mark.real

THREE = """
    # Rain

    A town in which it rains.

    ## The first drop
    It falls on a hat.

    ## The second drop
    It falls MARK into the river.

    ## The flood
    The hat swims.
"""


# Both systems, with the same faults.


def test_before_says_running_for_ever_after_a_lock_at_its_end(tmp_path: Path) -> None:
    left = incident.before_behind_a_lock(tmp_path / "before")
    assert left.written, "all the work is done"
    assert left.status == "running", "and the worker waits for the next book"
    assert left.next == "a book is running already: wait until it is done"


def test_the_pipeline_keeps_its_final_status_behind_such_a_lock(tmp_path: Path) -> None:
    made = incident.book_behind_a_lock(tmp_path / "book")
    assert made == incident.New(
        written=True, status="succeeded", meanwhile="running", generation=1, requests=9
    )


def test_before_says_running_for_ever_when_its_worker_is_killed(tmp_path: Path) -> None:
    left = incident.before_killed(tmp_path / "before")
    assert (left.written, left.status) == (False, "running")
    assert left.next == "a book is running already: wait until it is done"


def test_the_pipeline_killed_at_each_phase_and_chapter_goes_on_right_there(tmp_path: Path) -> None:
    made = incident.book_killed_everywhere(tmp_path / "book")
    assert (made.written, made.status, made.meanwhile) == (True, "succeeded", "interrupted")
    assert made.generation == 10
    assert 9 < made.requests <= 18, "a kill costs the answer under way, and nothing before it"


# The pipeline as a process.


def test_a_killed_book_is_taken_over_by_a_service_that_knows_the_pipeline(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    database = str(tmp_path / "runs.db")
    with incident.models(delay=0.5) as address:
        command = [*COMMAND, "run", incident.PIPELINE, "--db", database]
        variables = environment(MODELS_ADDRESS=address)
        with incident.killed(command, cwd=elsewhere, env=variables):
            incident.until(lambda: incident.requests(address) == 5)  # for chapter 3
        with serving(tmp_path, incident.PIPELINE, MODELS_ADDRESS=address):
            incident.until(lambda: incident.shown(tmp_path)["status"] == "succeeded")
        assert incident.requests(address) == 10, "one answer was lost: that of chapter 3"
    assert incident.shown(tmp_path)["generation"] == 2
    (document,) = incident.documents(elsewhere)
    assert len(headings(document)) == 7


def test_a_book_that_was_put_to_sleep_goes_on_and_nothing_has_timed_out(tmp_path: Path) -> None:
    with incident.models(delay=0.3) as address, incident.writing(tmp_path, address) as process:
        incident.until(lambda: incident.requests(address) == 4)
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)  # the sleep is the fault
        process.send_signal(signal.SIGCONT)
        assert process.wait(incident.LONGEST) == 0
        assert incident.requests(address) == 9, "nothing was asked for twice"


# The pipeline in this program.


async def test_each_chapter_waits_for_the_one_before_even_while_that_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models(retry_after=0) as address, open_runtime(tmp_path / "r.db") as runtime:
        use(monkeypatch, address)
        run = await start(runtime, tmp_path, text=THREE.replace("MARK", "[[busy]]"))
        assert (await run.wait()).status == "succeeded"
        # Whatever tells of the second chapter is refused at first.
        assert asked(address) == [1, 2, 2, 3, 3]
        logs = [line["message"] for line in (await run.document())["recent_logs"]]
    (document,) = incident.documents(tmp_path)
    titles = ["Contents", "1. The first drop", "2. The second drop", "3. The flood"]
    assert headings(document) == titles
    told = [line for line in logs if line.startswith("chapter")]
    assert told[-2:] == ["chapter 3 of 3 of Rain is begun", "chapter 3 of 3 of Rain is written"]


async def test_a_hung_chapter_costs_itself_and_a_resume_writes_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models() as address, open_runtime(tmp_path / "runs.db") as runtime:
        use(monkeypatch, address)
        with monkeypatch.context() as hung:
            hung.setattr(prompts, "writing", hanging_in_the_second)
            run = await start(runtime, tmp_path, with_write(deadline=1))
            result = await run.wait()
        assert (result.status, result.cause) == ("failed", "least_ok")
        assert result.message.startswith("stage write: 2 of 3 items ok (1 timed out)")
        assert outcomes(result) == {"ok": 2, "timed_out": 1}
        assert incident.documents(tmp_path) == [], "a book that lacks a chapter is none"
        again = await run.resume(failed=True)
        assert (await again.wait()).status == "succeeded"
        assert asked(address) == [1, 2, 3, 2]
    assert len(incident.documents(tmp_path)) == 1


async def test_a_chapter_that_its_run_has_put_there_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models() as address, open_runtime(tmp_path / "runs.db") as runtime:
        use(monkeypatch, address)
        monkeypatch.setattr(prompts, "writing", hanging_in_the_second)
        run = await start(runtime, tmp_path, with_write(deadline=1))
        assert outcomes(await run.wait()) == {"ok": 2, "timed_out": 1}
        put_there(tmp_path, "It was there.")
        again = await run.resume(failed=True)
        assert (await again.wait()).status == "succeeded"
        assert asked(address) == [1, 2, 3]
    (document,) = incident.documents(tmp_path)
    assert "It was there." in document.read_text()


async def test_an_upstream_that_goes_away_costs_what_was_not_written_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_runtime(tmp_path / "runs.db") as runtime:
        async with running_models(delay=0.5) as address:
            use(monkeypatch, address)
            run = await start(runtime, tmp_path)
            second = partial(incident.until, lambda: incident.requests(address) == 4)
            await trio.to_thread.run_sync(second)  # the second chapter is asked for
        result = await run.wait()
        assert (result.status, outcomes(result)) == ("failed", {"ok": 1, "failed": 2})
        async with running_models() as address:
            use(monkeypatch, address)
            again = await run.resume(failed=True)
            assert (await again.wait()).status == "succeeded"
            assert asked(address) == [2, 3]


async def test_a_series_is_several_books_each_with_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models() as address, open_runtime(tmp_path / "runs.db") as runtime:
        use(monkeypatch, address)
        run = await runtime.start(book.series, params={"out": str(tmp_path / "books")})
        made = [value async for value in (await run.wait()).results()]
        assert asked(address) == [1, 2, 3, 1, 2, 3]
    assert [each["title"] for each in made] == ["The Lamp on Gull Rock", "The Salt Road"]
    for each in made:
        assert "Two short books from the same coast." in content(each)
        assert each["chapters"] == 3


async def test_one_chapter_is_written_anew_and_the_others_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_models() as address, open_runtime(tmp_path / "runs.db") as runtime:
        use(monkeypatch, address)
        assert (await (await start(runtime, tmp_path)).wait()).status == "succeeded"
        (document,) = incident.documents(tmp_path)
        before, chapters = document.read_text(), chapters_of(document.parent)
        params = {"book": str(document.parent), "chapter": 2, "instructions": "More thunder."}
        result = await (await runtime.start(book.rewrite, params=params)).wait()
        assert result.status == "succeeded"
    rewritten = chapters_of(document.parent)
    changed = [number for number, text in rewritten.items() if text != chapters[number]]
    assert changed == ["02.md"]
    assert "thunder" in rewritten["02.md"]
    assert "thunder" in document.read_text()
    assert "thunder" not in before


async def test_artifacts_are_made_again_of_stored_chapters_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "http://127.0.0.1:9/v1")  # nobody is there
    stored(tmp_path)
    async with open_runtime(tmp_path / "runs.db") as runtime:
        (made,) = await results(runtime, book.artifacts, book=str(tmp_path))
        first = content(made)
        (tmp_path / "book.md").unlink()
        (again,) = await results(runtime, book.artifacts, book=str(tmp_path))
    assert made == again
    assert (made["chapters"], made["words"]) == (2, 5)
    assert content(again) == first
    index = json.loads((tmp_path / "index.json").read_text())
    assert [each["words"] for each in index["chapters"]] == [3, 2]


@pytest.mark.parametrize(
    ("pipeline", "params", "said"),
    [
        (book.artifacts, {"book": "nowhere"}, "nowhere is no book's folder: book.json cannot be"),
        (book.artifacts, {}, "which book? --param book=FOLDER"),
        (book.artifacts, {"boook": "x"}, "unknown params ['boook']: there are book, chapter,"),
        (book.rewrite, {"book": "HERE", "chapter": 7}, "has no chapter 7: --param chapter=NUMBER"),
        (
            book.pipeline,
            {"outline": "nowhere.md"},
            "the outline nowhere.md cannot be read",
        ),
        (book.pipeline, {"words": 0}, "Expected `int` >= 1 - at `$.words`"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_sentence(
    pipeline: Pipeline, params: dict[str, Any], said: str, tmp_path: Path
) -> None:
    stored(tmp_path)
    given = {name: str(tmp_path) if value == "HERE" else value for name, value in params.items()}
    async with open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(pipeline, params=given)
        assert (await run.wait()).status == "failed"
        errors = [stage["error"] for stage in (await run.document())["stages"]]
    assert any(error and said in error["message"] for error in errors), errors


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MODELS_ADDRESS", address)
    monkeypatch.setattr(book, "PAUSES", (0.0, 0.0))


async def start(
    runtime: Runtime, folder: Path, pipeline: Pipeline = book.pipeline, text: str = THREE
) -> Run:
    outline = folder / "outline.md"
    outline.write_text(textwrap.dedent(text))
    params = {"outline": str(outline), "out": str(folder / "books"), "words": 40}
    return await runtime.start(pipeline, params=params)


async def results(runtime: Runtime, pipeline: Pipeline, **params: Any) -> list[Any]:
    run = await runtime.start(pipeline, params=params)
    return [value async for value in (await run.wait()).raise_for_status().results()]


def with_write(**options: Any) -> Pipeline:
    """The example with other policies of `write`."""
    stages = [
        each.with_options(**options) if each.name == "write" else each
        for each in book.pipeline.stages
    ]
    return book.pipeline.with_options(stages=stages)


WRITING = prompts.writing


def hanging_in_the_second(planned: Book, number: int, before: str | None, words: int) -> str:
    return WRITING(planned, number, before, words) + ("[[hang]]" if number == 2 else "")


def chapters_of(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "chapters").iterdir())}


def put_there(folder: Path, text: str) -> None:
    """Put the second chapter in its place, as if its run had done so and died just then."""
    (first,) = folder.glob("books/*/chapters/01.md")
    signature = first.read_text().splitlines()[0]
    first.with_name("02.md").write_text(f"{signature}\n{text}\n")


def content(document: dict[str, Any]) -> str:
    return Path(document["file"]).read_text()


def headings(document: Path) -> list[str]:
    return re.findall(r"^## (.*)", document.read_text(), re.MULTILINE)


def outcomes(result: Result) -> dict[str, int]:
    """The counts of `write` that are not zero."""
    (counts,) = (counts for counts in result.stages if counts.name == "write")
    names = ("ok", "failed", "timed_out", "cancelled", "skipped", "crashed")
    return {name: getattr(counts, name) for name in names if getattr(counts, name)}


def asked(address: str) -> list[int]:
    """The chapters that the model was asked to write, in order."""
    with urlopen(f"{address.removesuffix('/v1')}/requests", timeout=60) as answer:
        latest = json.load(answer)["latest"]
    return [int(each[1]) for text in latest if (each := re.match(r"Write chapter (\d+) of", text))]
