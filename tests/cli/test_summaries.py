"""What is proposed at the end of a run: only commands that would do something."""

import io
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console

from stagerun import Pipeline, Result, open_runtime, stage
from stagerun.cli.reading import reading
from stagerun.cli.tables import print_summary


@stage
async def odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("even")
    return number


def proposals(path: Path, **changes: Any) -> list[str]:
    """Return what is proposed for the only run, with some of its document changed."""
    with reading(path) as reader:
        document = reader.document("latest")
    (counts,) = document["stages"]
    for name, value in changes.items():
        (document if name in document else counts)[name] = value
    out = io.StringIO()
    print_summary(Console(file=out, width=200), document, [], path)
    identifier = document["id"][:8]
    words = [line.split("stagerun ")[1] for line in out.getvalue().splitlines() if "run " in line]
    return [each.partition(" --db")[0].replace(identifier, "RUN") for each in words]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run that ended ``failed``: one item of it failed, none waits."""
    path = tmp_path_factory.mktemp("summaries") / "a.db"

    async def fill() -> Result:
        async with open_runtime(path) as runtime:
            pipeline = Pipeline("odd", [odd], least_ok=1)
            return await (await runtime.start(pipeline, [1, 2], target="jobs:odd")).wait()

    assert trio.run(fill).status == "failed"
    return path


LOOK = ["show RUN", "logs RUN"]


def test_where_nothing_waits_only_the_failed_items_are_left_to_be_repeated(failed: Path) -> None:
    assert proposals(failed) == [*LOOK, "resume RUN --failed"]


@pytest.mark.parametrize("status", ["failed", "cancelled", "timed_out", "interrupted"])
@pytest.mark.parametrize("name", ["waiting", "cancelled", "in_flight"])
def test_a_run_with_items_left_goes_on_with_them(failed: Path, status: str, name: str) -> None:
    changed = proposals(failed, status=status, **{name: 1})
    assert changed == [*LOOK, "resume RUN"]


@pytest.mark.parametrize("length", [None, 3])
def test_a_source_that_was_not_read_to_its_end_is_read_on(failed: Path, length: int | None) -> None:
    assert proposals(failed, source_length=length) == [*LOOK, "resume RUN"]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "succeeded"},
        {"status": "running"},
        {"target": None},
        {"cause": "source_gone", "failed": 0},
    ],
    ids=str,
)
def test_what_would_be_refused_or_change_nothing_is_not_proposed(
    failed: Path, changes: dict[str, Any]
) -> None:
    assert proposals(failed, **changes) == LOOK
