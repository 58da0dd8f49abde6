"""Items and log lines of a run, page by page: what the sums have counted, each once."""

import sqlite3
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagerun import DROP, Pipeline, stage
from stagerun.errors import UsageError
from stagerun.store import itemlist
from stagerun.store.documents import run_document
from stagerun.store.itemlist import item_page, log_page
from tests.conftest import Bench

BROKEN = {"now": True}


@stage(workers=3)
async def fetch(n: int, ctx: Any) -> Any:
    ctx.log.info("fetching %d", n)
    if n % 5 == 0 and BROKEN["now"]:
        ctx.log.error("cannot fetch %d", n)
        raise ValueError(f"no {n}")
    return DROP if n % 7 == 0 else n


@stage
async def parse(n: int) -> int:
    if n % 11 == 0 and BROKEN["now"]:
        raise OSError("away")
    return n


def all_pages(
    connection: sqlite3.Connection, run: str, **options: Any
) -> tuple[list[dict[str, Any]], int]:
    rows: list[dict[str, Any]] = []
    after = None
    for number in range(1, 1_000):
        page, after = item_page(run, after=after, **options)(connection)
        assert len(page) <= options["limit"]
        rows += page
        if after is None:
            return rows, number
    raise AssertionError("the pages do not end")


async def resumed(bench: Bench) -> tuple[sqlite3.Connection, str]:
    """Run until a third failed, and again with what had failed."""
    BROKEN["now"] = True
    pipeline = Pipeline("crawl", [fetch, parse])
    result = await bench.finish(pipeline, range(1, 61))
    BROKEN["now"] = False
    run = await bench.runtime.resume(result.id, pipeline, failed=True)
    await run.wait()
    connection = bench.store._connection
    assert connection is not None
    return connection, result.id


async def test_the_pages_hold_what_the_sums_have_counted_stage_by_stage(bench: Bench) -> None:
    BROKEN["now"] = True
    result = await bench.finish(Pipeline("crawl", [fetch, parse]), range(1, 61))
    connection = bench.store._connection
    assert connection is not None
    for limit in (1, 7, 500):
        rows, _ = all_pages(connection, result.id, limit=limit)
        assert rows == sorted(rows, key=lambda row: (row["stage"] != "fetch", row["item"]))
        for each in run_document(result.id)(connection)["stages"]:
            here = [row["outcome"] for row in rows if row["stage"] == each["name"]]
            for outcome in ("ok", "failed", "skipped", "crashed"):
                assert here.count(outcome) == each[outcome]
    ((first,), _) = item_page(result.id, outcomes=["failed"], limit=1)(connection)
    assert first == {
        "stage": "fetch",
        "item": 5,
        "outcome": "failed",
        "attempts": 1,
        "started_at": first["started_at"],
        "seconds": 0.0,
        "cause": "error",
        "message": "no 5",
        "error": "builtins.ValueError",
        "late_seconds": None,
        "generation": 1,
    }


@pytest.mark.parametrize("looked_at", [2, 50_000])
@pytest.mark.parametrize(
    "outcomes", [(), ("ok",), ("skipped",), ("failed",), ("ok", "failed", "skipped")]
)
async def test_outcomes_that_count_no_more_are_passed_over_also_when_they_are_many(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, looked_at: int, outcomes: tuple[str, ...]
) -> None:
    monkeypatch.setattr(itemlist, "_LOOKED_AT", looked_at)
    connection, run = await resumed(bench)
    rows, pages = all_pages(connection, run, outcomes=outcomes, limit=10)
    everything, _ = all_pages(connection, run, limit=500)
    assert rows == [row for row in everything if not outcomes or row["outcome"] in outcomes]
    assert len({(row["stage"], row["item"]) for row in rows}) == len(rows)
    assert {row["generation"] for row in everything} == {1, 2}
    assert not [row for row in everything if row["outcome"] == "failed"]
    assert pages < 100


async def test_a_stage_can_be_asked_for_alone_and_a_stage_that_is_not_there_is_named(
    bench: Bench,
) -> None:
    connection, run = await resumed(bench)
    rows, _ = all_pages(connection, run, stage="parse", limit=9)
    assert {row["stage"] for row in rows} == {"parse"}
    with pytest.raises(UsageError, match="no stage 'store': there are fetch, parse"):
        item_page(run, stage="store")(connection)
    with pytest.raises(UsageError, match="there is no outcome 'fine': there are ok, failed"):
        item_page(run, outcomes=["fine"])


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_a_cursor_of_any_text_is_understood_or_refused_in_words(cursor: str) -> None:
    try:
        item_page("x", after=cursor)
    except UsageError as error:
        assert "there is no page after" in str(error)  # noqa: PT017 - most texts are refused


async def test_log_lines_come_in_pages_by_level_and_stage(bench: Bench) -> None:
    BROKEN["now"] = True
    result = await bench.finish(Pipeline("crawl", [fetch, parse]), range(1, 31))
    connection = bench.store._connection
    assert connection is not None
    lines: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page, after = log_page(result.id, after=after, limit=7)(connection)
        assert len(page) <= 7
        lines += page
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
    errors, _ = log_page(result.id, level="error", limit=500)(connection)
    assert [line["message"] for line in errors if line["stage"] == "fetch"] == [
        line["message"] for line in lines if line["level"] == "ERROR" and line["stage"] == "fetch"
    ]
    assert {line["level"] for line in log_page(result.id, level="WARNING")(connection)[0]} == {
        "WARNING",
        "ERROR",
    }
    only, _ = log_page(result.id, stage="parse", limit=500)(connection)
    assert only == [line for line in lines if line["stage"] == "parse"]
    assert log_page(result.id, after=10**9)(connection) == ([], None)
    with pytest.raises(UsageError, match="there is no level 'LOUD': there are DEBUG, INFO"):
        log_page(result.id, level="LOUD")
