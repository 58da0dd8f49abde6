"""Lists of runs: each run once, the truth about dead processes, and no table read whole."""

import itertools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.crowd import crowd
from stagerun.errors import UsageError
from stagerun.store.charts import charts, durations
from stagerun.store.documents import run_list
from stagerun.store.driver import Question
from stagerun.store.feed import feed
from stagerun.store.itemlist import item_page
from stagerun.store.listing import (
    label_names,
    pipeline_names,
    pipelines,
    run_page,
    status_counts,
)
from stagerun.store.opening import connect, read_only
from stagerun.store.verdicts import usual_seconds

STATUSES = "queued", "running", "succeeded", "failed", "cancelled", "timed_out", "interrupted"
RUNS = 1_200


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    with (
        crowd(tmp_path_factory.mktemp("crowd"), RUNS, 300) as made,
        closing(read_only(made.path)) as connection,
    ):
        yield connection


@pytest.fixture(scope="module")
def everything(many: sqlite3.Connection) -> list[dict[str, Any]]:
    return run_list(limit=10 * RUNS)(many)


def pages(connection: sqlite3.Connection, **options: Any) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    after = None
    for _ in range(2 * RUNS):
        page, after = run_page(after=after, **options)(connection)
        assert len(page) <= options["limit"]
        runs += page
        if after is None:
            return runs
        assert len(page) == options["limit"], "only the last page is short"
    raise AssertionError("the pages do not end")


def ids(runs: list[dict[str, Any]]) -> list[str]:
    return [run["id"] for run in runs]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    status=st.none() | st.sampled_from(STATUSES),
    pipeline=st.none() | st.sampled_from(["crawl", "embed", "doomed", "rare", "no such"]),
    labels=st.dictionaries(
        st.sampled_from(["environment", "team", "tenant"]),
        st.sampled_from(["production", "staging", "team-3", "tenant-31", ""]),
        max_size=2,
    ),
    limit=st.sampled_from([7, 100, 500]),
)
def test_the_pages_hold_each_run_that_passes_the_filters_once_and_the_newest_first(
    many: sqlite3.Connection,
    everything: list[dict[str, Any]],
    status: str | None,
    pipeline: str | None,
    labels: dict[str, str],
    limit: int,
) -> None:
    expected = [
        run["id"]
        for run in everything
        if status in (None, run["status"])
        and pipeline in (None, run["pipeline"])
        and labels.items() <= run["labels"].items()
    ]
    filters: dict[str, Any] = {"status": status, "pipeline": pipeline, "labels": labels}
    assert ids(pages(many, **filters, limit=limit)) == expected
    assert ids(run_list(**filters, limit=10 * RUNS)(many)) == expected


def test_runs_of_a_dead_process_are_interrupted_in_every_list_and_sum(
    many: sqlite3.Connection, everything: list[dict[str, Any]]
) -> None:
    dead = [run for run in everything if run["verdict"] == "dead"]
    assert dead
    assert {run["status"] for run in dead} == {"interrupted"}
    for status in ("running", "queued"):
        listed = pages(many, status=status, limit=10)
        assert listed
        assert {run["status"] for run in listed} == {status}
    assert {*ids(dead)} < {*ids(pages(many, status="interrupted", limit=10))}
    assert status_counts()(many) == {
        status: sum(run["status"] == status for run in everything) for status in STATUSES
    }


def test_a_resumed_run_is_found_by_its_current_status_alone(tmp_path: Any) -> None:
    with closing(connect(tmp_path / "runs.db")) as connection:
        put(connection, "crawl", "interrupted", "interrupted", "succeeded")
        put(connection, "crawl", "interrupted", "interrupted")
        runs = ids(pages(connection, limit=10))
        assert ids(pages(connection, status="interrupted", limit=10)) == runs[:1]
        assert ids(pages(connection, status="succeeded", limit=10)) == runs[1:]
        counts = status_counts()(connection)
        assert (counts["interrupted"], counts["succeeded"]) == (1, 1)


def test_a_list_tells_the_sums_of_outcomes(many: sqlite3.Connection) -> None:
    ((run,), _) = run_page(limit=1)(many)
    assert run["outcomes"]["accepted"] == 300
    assert run["outcomes"]["ok"] == 300
    assert {"failed", "timed_out", "cancelled", "skipped", "crashed"} < {*run["outcomes"]}


def test_an_empty_database_has_an_empty_page(tmp_path: Any) -> None:
    with closing(connect(tmp_path / "runs.db")) as connection:
        assert run_page()(connection) == ([], None)
        assert run_page(status="running", labels={"a": "b"})(connection) == ([], None)
        assert pipelines()(connection) == []
        assert pipeline_names()(connection) == []
        assert label_names()(connection) == []
        assert set(status_counts()(connection).values()) == {0}


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 30, "٣", "1 OR 1"])
def test_a_cursor_that_no_page_has_told_is_refused_in_words(cursor: str) -> None:
    with pytest.raises(UsageError, match="there is no page after"):
        run_page(after=cursor)


def test_a_status_that_does_not_exist_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="there is no status 'dead': there are queued, running"):
        run_page(status="dead")


def test_labels_and_pipelines_are_told_by_name_with_their_first_values(tmp_path: Any) -> None:
    with closing(connect(tmp_path / "runs.db")) as connection:
        for number in range(70):
            run = put(connection, f"p{number % 3}", "succeeded")
            connection.execute("INSERT INTO labels VALUES (?, 'order', ?)", (run, f"{number:03}"))
        connection.execute("INSERT INTO labels VALUES (?, '<b>', '')", (run,))
        assert pipeline_names()(connection) == ["p0", "p1", "p2"]
        empty, order = label_names()(connection)
        assert empty == {"name": "<b>", "values": [""]}
        assert order == {"name": "order", "values": [f"{number:03}" for number in range(50)]}
        assert label_names("order")(connection) == [order]
        assert label_names("colour")(connection) == []
        told = pipelines()(connection)
        assert [each["runs"] for each in told] == [24, 23, 23]
        assert told[0]["last"]["id"] == ids(pages(connection, limit=1))[0]
        assert told[0]["stages"] == [
            {"name": "fetch", "kind": "each", "workers": 4, "deadline": 30.0}
        ]


@pytest.mark.parametrize("value", ['"', "\x00", "\x1b[31m", "\u2028", "<img src=x>", "ü🙂", "{}"])
def test_a_label_of_any_text_is_told_as_it_is(tmp_path: Any, value: str) -> None:
    with closing(connect(tmp_path / "runs.db")) as connection:
        run = put(connection, "crawl", "succeeded")
        connection.execute("INSERT INTO labels VALUES (?, ?, ?)", (run, value, value))
        ((told,), _) = run_page(labels={value: value})(connection)
        assert told["labels"] == {value: value}


FILTERS: dict[str, dict[str, Any]] = {
    "status": {"status": "failed"},
    "a status that dead processes touch": {"status": "running"},
    "a status that dead processes add to": {"status": "interrupted"},
    "pipeline": {"pipeline": "crawl"},
    "a frequent label": {"labels": {"environment": "production"}},
    "a rare label": {"labels": {"environment": "staging"}},
}
PAIRS = {
    f"{a} and {b}": FILTERS[a] | FILTERS[b]
    for a, b in itertools.combinations(FILTERS, 2)
    if not FILTERS[a].keys() & FILTERS[b].keys()
}
BIG = r"(r|w|g|i|e|l|runs|generations|items|labels|events|failures|stages)"


@pytest.mark.parametrize("name", [*FILTERS, *PAIRS, "none"])
@pytest.mark.parametrize("after", [None, "700"])
def test_no_page_reads_a_large_table_whole(
    many: sqlite3.Connection, name: str, after: str | None
) -> None:
    filters = (FILTERS | PAIRS | {"none": {}})[name]
    found = plans(many, run_page(**filters, after=after))
    assert not [plan for plan in found if re.match(rf"SCAN {BIG}\b", plan)]
    assert not [plan for plan in found if "TEMP B-TREE" in plan], "rows come in order by themselves"


@pytest.mark.parametrize(
    "options",
    [{}, {"outcomes": ["failed", "timed_out"]}, {"outcomes": ["ok"]}, {"stage": "fetch"}],
)
def test_no_page_of_items_reads_more_of_the_items_than_it_tells(
    many: sqlite3.Connection, everything: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    found = plans(many, item_page(everything[-1]["id"], after="0.100", **options))
    items = [plan for plan in found if re.match(r"(SEARCH|SCAN) i\b", plan)]
    assert items
    assert all("item>? AND item<?" in plan for plan in items)
    assert not [plan for plan in found if "TEMP B-TREE" in plan]


def test_what_is_drawn_is_read_by_keys_alone(
    many: sqlite3.Connection, everything: list[dict[str, Any]]
) -> None:
    for question in (charts(everything[-1]["id"]), durations("crawl"), feed(1, 10), label_names()):
        found = plans(many, question)
        assert not [plan for plan in found if re.match(rf"SCAN {BIG}\b", plan)]


def plans(connection: sqlite3.Connection, question: Question[Any]) -> list[str]:
    """Return how SQLite finds what a question asks for."""
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    question(connection)
    connection.set_trace_callback(None)
    found = [
        detail
        for sql in asked
        if not sql.startswith("--")  # what a table-valued pragma asks inside
        for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
    ]
    assert found
    return found


def test_how_long_a_pipeline_takes_is_told_without_looking_at_all_of_its_runs(
    tmp_path: Any,
) -> None:
    with closing(connect(tmp_path / "runs.db")) as connection:
        connection.execute("BEGIN")
        for _ in range(3_000):
            put(connection, "doomed", "failed")
        connection.execute("COMMIT")
        steps = itertools.count()
        connection.set_progress_handler(lambda: next(steps) < 0, 100)
        assert usual_seconds("doomed")(connection) is None
        assert next(steps) < 300, "hundreds of instructions: some 20 for a run"
        connection.set_progress_handler(None, 0)
        for _ in range(3):
            put(connection, "doomed", "succeeded")
        assert usual_seconds("doomed")(connection) == 7.0


def put(connection: sqlite3.Connection, pipeline: str, *statuses: str) -> int:
    """Put a run there, with a status for each of its generations; it took 7 s."""
    (run,) = connection.execute(
        "INSERT INTO runs (id, pipeline, generation, created_at, params, source)"
        " VALUES (hex(randomblob(16)), ?, ?, 0, x'80', 'stored') RETURNING run",
        (pipeline, len(statuses)),
    ).fetchone()
    for generation, status in enumerate(statuses, 1):
        connection.execute(
            "INSERT INTO generations (run, generation, status, cause, created_at, started_at,"
            " updated_at, finished_at) VALUES (?, ?, ?, 'so', 0, 1000000, 8000000, 8000000)",
            (run, generation, status),
        )
        connection.execute(
            "INSERT INTO stages (run, generation, stage, name, kind, version, workers, deadline)"
            " VALUES (?, ?, 0, 'fetch', 'each', 1, 4, 30000000)",
            (run, generation),
        )
    return int(run)
