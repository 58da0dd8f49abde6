"""From a target to a pipeline, and the sentence when there is none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagerun.cli.load import load_pipeline, load_served
from stagerun.errors import TargetError, UsageError

JOBS = """
from stagerun import Pipeline, Schedule, stage
import neighbour

@stage
async def fetch(url):
    return url

crawl = Pipeline("crawl", [fetch])
"""
SCHEDULES = """
again = Pipeline("crawl", [fetch])
hourly = Schedule("hourly", crawl, every=3600)
daily = Schedule("daily", crawl, every=86400)
both = [hourly, daily]
mixed = (crawl, hourly)
rival = Schedule("hourly", crawl, every=60)
odd = [crawl, 1]
none = []
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    (tmp_path / "cli_jobs.py").write_text(JOBS)
    (tmp_path / "neighbour.py").write_text("")
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and name in ("cli_jobs", "neighbour"):
            del sys.modules[name]


def test_a_file_is_loaded_from_any_folder_and_finds_its_neighbours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    pipeline, found_at = load_pipeline(f"{folder}/cli_jobs.py:crawl")
    assert pipeline.name == "crawl"
    assert found_at == f"{folder}/cli_jobs.py:crawl"


def test_a_module_is_looked_for_in_the_current_folder_first(folder: Path) -> None:
    pipeline, found_at = load_pipeline("cli_jobs:crawl")
    assert (pipeline.name, found_at) == ("crawl", "cli_jobs:crawl")
    assert sys.path[0] == str(folder)


def test_a_file_named_like_a_loaded_module_does_not_take_its_place(folder: Path) -> None:
    import json

    (folder / "json.py").write_text(JOBS)
    assert load_pipeline("json.py:crawl")[0].name == "crawl"
    assert sys.modules["json"] is json
    del sys.modules["stagerun_target_json"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cli_jobs.py", "names no pipeline: write cli_jobs.py:crawl"),
        ("cli_jobs.py:", "names no pipeline"),
        ("cli_jobs.py:crowl", "did you mean crawl?"),
        ("cli_jobs.py:nothing_like_it", "it holds crawl"),
        ("cli_jobs.py:fetch", "Pipeline('fetch', [fetch])"),
        ("cli_jobs.py:neighbour", "is a module, not a pipeline"),
        ("neighbour.py:x", "it holds no pipeline at all"),
        ("cli_job.py:crawl", "did you mean cli_jobs.py?"),
        ("./sub/:crawl", "does not exist"),
        ("cli_jbs:crawl", "did you mean cli_jobs?"),
        ("cli_jobs.deeper:crawl", "there is no module 'cli_jobs.deeper'"),
        ("", "names no pipeline"),
        (":crawl", "names no pipeline"),
        ("..x:crawl", "is not the name of a module"),
    ],
)
def test_a_wrong_target_is_refused_with_what_would_be_right(
    folder: Path, target: str, words: str
) -> None:
    with pytest.raises(TargetError) as caught:
        load_pipeline(target)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "pipelines", "schedules"),
    [
        (["crawl"], ["crawl"], []),
        (["hourly"], ["crawl"], ["hourly"]),
        (["both"], ["crawl"], ["hourly", "daily"]),
        (["mixed"], ["crawl"], ["hourly"]),
        (["crawl", "hourly", "both", "mixed"], ["crawl"], ["hourly", "daily"]),
        ([], [], []),
    ],
)
def test_what_is_served_is_a_pipeline_a_schedule_or_several_and_each_is_there_once(
    folder: Path, targets: list[str], pipelines: list[str], schedules: list[str]
) -> None:
    (folder / "cli_jobs.py").write_text(JOBS + SCHEDULES)
    found = load_served([f"cli_jobs.py:{target}" for target in targets])
    assert [each.name for each in found[0]] == pipelines
    assert [each.name for each in found[1]] == schedules


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["odd"], "is a list, not a pipeline, schedule or list of them; it holds crawl, again, ho"),
        (["none"], "is a list, not"),
        (["fetch"], "is a stage"),
        (["hurly"], "did you mean hourly?"),
        (["hourly", "rival"], "are both called 'hourly'"),
        (["hourly", "again"], "are both called 'crawl'"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_could_be(
    folder: Path, targets: list[str], words: str
) -> None:
    (folder / "cli_jobs.py").write_text(JOBS + SCHEDULES)
    with pytest.raises(UsageError) as caught:
        load_served([f"cli_jobs.py:{target}" for target in targets])
    assert words in str(caught.value)


def test_a_schedule_is_no_pipeline_to_be_run_but_can_be_served(folder: Path) -> None:
    (folder / "cli_jobs.py").write_text(JOBS + SCHEDULES)
    for name, kind in (("hourly", "a schedule"), ("both", "a list")):
        with pytest.raises(TargetError) as caught:
            load_pipeline(f"cli_jobs.py:{name}")
        assert f"is {kind}, not a pipeline: `stagerun serve cli_jobs.py:{name}` takes it" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = = 1", "line 1: invalid syntax"),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = '\0'", "null bytes"),
    ],
)
def test_a_failing_import_is_told_in_one_sentence_with_its_line(
    folder: Path, text: str, words: str
) -> None:
    (folder / "neighbour.py").write_text(text)
    for target in ("neighbour.py:x", "neighbour:x"):
        with pytest.raises(TargetError, match="line|importing") as caught:
            load_pipeline(target)
        assert words in str(caught.value)
        assert "neighbour" in str(caught.value)
        assert "neighbour" not in sys.modules
