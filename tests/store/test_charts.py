"""What is drawn of a run: equal to its rows where it is exact, near them where it is a sample."""

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.crowd import Crowd, crowd
from stagerun import Pipeline, Retry, collect, stage
from stagerun.errors import UsageError
from stagerun.store import faults, measures
from stagerun.store.charts import charts, durations
from stagerun.store.opening import connect, read_only
from stagerun.store.pace import pace
from tests.conftest import EPOCH, Bench

ITEMS = 3_000
SECOND = 1_000_000
BROKEN = {"now": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with crowd(tmp_path_factory.mktemp("crowd"), 60, ITEMS) as made:
        yield made


@pytest.fixture(scope="module")
def database(made: Crowd) -> Iterator[sqlite3.Connection]:
    with closing(read_only(made.path)) as connection:
        yield connection


def rows(connection: sqlite3.Connection, run: str, stage: int) -> list[tuple[int, int, int]]:
    return connection.execute(
        "SELECT elapsed, started_at + elapsed, outcome FROM items JOIN runs r USING (run)"
        " WHERE r.id = ? AND stage = ? ORDER BY elapsed",
        (run, stage),
    ).fetchall()


def micro(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() * 1e6


def test_what_is_exact_is_equal_to_the_rows(made: Crowd, database: sqlite3.Connection) -> None:
    told = charts(made.small)(database)
    assert not told["sampled"]
    start, step = micro(told["throughput"]["start"]), told["throughput"]["step"] * 1e6
    for index, each in enumerate(told["stages"]):
        outcomes = rows(database, made.small, index)
        taken = [min(elapsed / 1e6, each["deadline"]) for elapsed, _, _ in outcomes]
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
            assert each[name] == taken[math.ceil(share * len(taken)) - 1]
        assert (each["count"], each["longest"]) == (len(taken), taken[-1])
        assert each["headroom"] == pytest.approx(1 - each["p99"] / each["deadline"])
        edges, counts = each["histogram"]["edges"], each["histogram"]["counts"]
        assert len(edges) == len(counts) + 1
        for low, high, count in zip(edges, edges[1:-1], counts, strict=False):
            assert count == sum(low <= seconds < high for seconds in taken) or low == edges[0]
        assert sum(counts) == len(taken)
        buckets = told["throughput"]["stages"][each["name"]]
        assert len(buckets["ok"]) == len(buckets["bad"]) <= 120
        expected = [0] * len(buckets["ok"])
        for _, ended, outcome in outcomes:
            expected[int((ended - round(start, -3)) // step)] += outcome == 0
        difference = [abs(a - b) for a, b in zip(expected, buckets["ok"], strict=True)]
        # The start is told in milliseconds: what ended so near to an edge may stand on either side.
        assert sum(difference) <= len(outcomes) / 50
        assert sum(buckets["bad"]) == sum(outcome == 1 for _, _, outcome in outcomes)


def test_a_sample_is_near_to_what_is_exact_and_says_so(
    made: Crowd, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = charts(made.large)(database)
    monkeypatch.setattr(measures, "EXACT", 1_000)
    monkeypatch.setattr(measures, "_SAMPLE", 1_000)
    told = charts(made.large)(database)
    assert told["sampled"]
    assert told["timeline"]["sampled"]
    (stage,), (same,) = told["stages"], exact["stages"]
    assert stage["count"] == 1_000
    for name in ("p50", "p90"):
        assert stage[name] == pytest.approx(same[name], rel=0.2)
    buckets, before = (each["throughput"]["stages"]["fetch"] for each in (told, exact))
    for sort in ("ok", "bad"):
        assert sum(buckets[sort]) == pytest.approx(sum(before[sort]), abs=5)
    for one, other in zip(buckets["ok"], before["ok"], strict=True):
        assert one == pytest.approx(other, abs=10), "progress events know it well"
    assert told["outcomes"] == exact["outcomes"]


def test_where_progress_events_were_pruned_the_sample_tells_and_the_sum_is_right(
    made: Crowd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measures, "EXACT", 1_000)
    monkeypatch.setattr(measures, "_SAMPLE", 1_500)
    with closing(sqlite3.connect(made.path)) as there, closing(connect(tmp_path / "c.db")) as here:
        there.backup(here)
        here.execute("DELETE FROM events WHERE run = 1 AND seq < 600")
        buckets = charts(made.large)(here)["throughput"]["stages"]["fetch"]
        here.execute("DELETE FROM events WHERE run = 1")
        without = charts(made.large)(here)["throughput"]["stages"]["fetch"]
    assert sum(buckets["ok"]) + sum(buckets["bad"]) == pytest.approx(ITEMS, abs=60)
    assert sum(without["ok"]) + sum(without["bad"]) == pytest.approx(ITEMS, abs=60)
    third = len(without["ok"]) // 3
    for each in (buckets, without):
        assert sum(each["ok"][:third]) == pytest.approx(ITEMS / 3, rel=0.15)


def test_bars_are_bounded_and_the_slowest_items_are_among_them(
    made: Crowd, database: sqlite3.Connection
) -> None:
    told = charts(made.small)(database)["timeline"]
    assert told["sampled"]
    assert 500 <= len(told["items"]) <= 600
    for index, name in enumerate(("fetch", "parse", "store")):
        drawn = {
            round((x["ended"] - x["began"]) * 1e6) for x in told["items"] if x["stage"] == name
        }
        slowest = [elapsed for elapsed, _, _ in rows(database, made.small, index)][-10:]
        assert {*slowest} <= {near for x in drawn for near in (x - 1, x, x + 1)}


def test_faults_that_differ_in_numbers_alone_are_one_sort_and_counts_are_of_all(
    made: Crowd, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = charts(made.large)(database)["errors"]
    assert (one["message"], one["count"], one["first_item"]) == ("record 97 was refused", 15, 97)
    assert (other["message"], other["count"]) == ("the service is away", 15)
    assert (one["stage"], one["outcome"], one["cause"]) == ("fetch", "failed", "error")
    monkeypatch.setattr(faults, "_LOOKED_AT", 8)
    told = charts(made.large)(database)
    assert told["sampled"]
    assert sum(error["count"] for error in told["errors"]) == 30


@stage(workers=2, retry=Retry(attempts=3))
async def fetch(n: int, ctx: Any) -> int:
    await trio.sleep(n)
    if n == 2 and ctx.attempt == 1:
        raise OSError("try again")
    if n == 5 and BROKEN["now"]:
        raise ValueError("five")
    return n


@stage(workers=1)
async def parse(n: int) -> int:
    await trio.sleep(10)
    return n


async def test_a_timeline_tells_waiting_work_and_attempts(bench: Bench) -> None:
    BROKEN["now"] = False
    await trio.sleep(1)
    result = await bench.finish(Pipeline("p", [fetch, parse]), [1, 2, 3])
    told = charts(result.id, now=int((EPOCH + trio.current_time()) * 1e6))(connection(bench))
    bars = {(x["stage"], x["item"]): x for x in told["timeline"]["items"]}
    assert len(bars) == 6
    assert bars["fetch", 1]["queued_at"] is None
    assert (bars["fetch", 2]["attempts"], bars["fetch", 1]["attempts"]) == (2, 1)
    for item in (1, 2, 3):
        assert bars["parse", item]["queued_at"] == pytest.approx(bars["fetch", item]["ended"])
    waited = sorted(x["began"] - x["queued_at"] for key, x in bars.items() if key[0] == "parse")
    assert waited[0] == pytest.approx(0)
    assert waited[-1] > 5
    assert told["pace"]["seconds_left"] is None
    assert told["pace"]["stage"] == "parse"
    assert told["pace"]["items_per_second"] == pytest.approx(3 / told["pace"]["measured_over"])
    json.dumps(told, allow_nan=False)


async def test_a_resumed_run_draws_its_generation_and_counts_what_counts(bench: Bench) -> None:
    BROKEN["now"] = True
    pipeline = Pipeline("p", [fetch, parse])
    result = await bench.finish(pipeline, [1, 3, 5])
    assert charts(result.id)(connection(bench))["errors"][0]["message"] == "five"
    BROKEN["now"] = False
    await trio.sleep(5_000)
    run = await bench.runtime.resume(result.id, pipeline, failed=True)
    await run.wait()
    told = charts(result.id)(connection(bench))
    assert told["generation"] == 2
    assert {(x["stage"], x["item"]) for x in told["timeline"]["items"]} == {
        ("fetch", 3),
        ("parse", 3),
    }
    assert max(x["ended"] for x in told["timeline"]["items"]) < 100
    assert sum(told["throughput"]["stages"]["fetch"]["ok"]) == 1
    assert told["stages"][0]["count"] == 3
    assert told["errors"] == []
    assert told["outcomes"]["fetch"]["ok"] == 3


@stage
async def split(n: int) -> Any:
    for part in range(n):
        yield part
        await trio.sleep(1)


@collect
async def total(outcomes: Any) -> int:
    return len([each async for each in outcomes])


async def test_children_wait_since_their_parent_was_done_and_groups_for_nothing_known(
    bench: Bench,
) -> None:
    await trio.sleep(1)
    result = await bench.finish(Pipeline("p", [split, parse, total]), [3, 1])
    told = charts(result.id)(connection(bench))
    bars = {(x["stage"], x["item"]): x for x in told["timeline"]["items"]}
    parents = {x["ended"] for key, x in bars.items() if key[0] == "split"}
    waits = [x["queued_at"] for key, x in bars.items() if key[0] == "parse"]
    assert None in waits, "the first child began before its parent was done"
    assert {round(x, 3) for x in waits if x is not None} <= {round(x, 3) for x in parents}
    assert all(x["queued_at"] is None for key, x in bars.items() if key[0] == "total")


async def test_a_run_under_way_tells_its_pace_by_the_last_minute(bench: Bench) -> None:
    BROKEN["now"] = False
    run = await bench.runtime.start(Pipeline("p", [parse], deadline=None), [*range(100)])
    told = []
    for seconds in (5.5, 35, 400):
        await trio.sleep(seconds)
        now = int((EPOCH + trio.current_time()) * 1e6)
        told.append(pace(run.id, now=now)(connection(bench)))
    young, young_too, steady = told
    assert young["items_per_second"] == 0
    assert young["seconds_left"] is None
    assert young["measured_over"] == pytest.approx(5.5, abs=0.5)
    assert young_too["items_per_second"] == pytest.approx(0.1, rel=0.2)
    assert steady["items_per_second"] == pytest.approx(0.1, rel=0.2)
    assert steady["measured_over"] == pytest.approx(60, abs=11)
    assert steady["seconds_left"] == pytest.approx(1_000 - 440.5, rel=0.2)
    flying = charts(run.id)(connection(bench))
    assert flying["status"] == "running"
    await run.cancel("enough")
    await run.wait()
    assert pace(run.id)(connection(bench))["seconds_left"] is None


def test_items_in_flight_are_bars_without_an_end(tmp_path: Path) -> None:
    from stagerun import open_runtime

    gone = trio.Event()

    @stage(workers=2)
    async def wait(n: int) -> int:
        if n > 1:
            await gone.wait()
        return n

    async def main() -> dict[str, Any]:
        async with open_runtime(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("p", [wait]), [1, 2, 3, 4])
            with trio.fail_after(20), closing(read_only(tmp_path / "runs.db")) as connection:
                while True:
                    told = charts(run.id)(connection)
                    if len(told["timeline"]["items"]) == 3:
                        break
                    await trio.sleep(0.01)
            gone.set()
            await run.wait()
        return told

    told = trio.run(main)
    ended, *flying = sorted(told["timeline"]["items"], key=lambda bar: bar["item"])
    assert ended["outcome"] == "ok"
    assert [(bar["item"], bar["ended"], bar["outcome"]) for bar in flying] == [
        (2, None, None),
        (3, None, None),
    ]
    assert all(0 <= bar["began"] < 20 for bar in flying)


def test_a_pipeline_s_durations_come_newest_last_with_its_deadline(
    made: Crowd, database: sqlite3.Connection
) -> None:
    told = durations("crawl", limit=10)(database)
    assert told["deadline"] == 1800
    assert len(told["runs"]) == 10
    assert told["runs"] == sorted(told["runs"], key=lambda run: run["created_at"])
    assert {run["seconds"] is None for run in told["runs"]} == {
        run["status"] == "queued" for run in told["runs"]
    } or all(run["seconds"] is not None for run in told["runs"] if run["status"] != "queued")
    assert durations("no such")(database) == {
        "pipeline": "no such",
        "deadline": None,
        "runs": [],
    }


def test_a_run_that_has_not_begun_has_charts_without_anything_in_them(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "runs.db")) as connection:
        connection.execute(
            "INSERT INTO runs (id, pipeline, generation, created_at, params, source)"
            " VALUES ('a', 'p', 1, ?, x'80', 'stored')",
            (now := int(datetime.now(UTC).timestamp()) * SECOND,),
        )
        connection.execute(
            "INSERT INTO generations (run, generation, status, created_at, updated_at)"
            " VALUES (1, 1, 'queued', ?, ?)",
            (now, now),
        )
        connection.execute(
            "INSERT INTO stages (run, generation, stage, name, kind, version)"
            " VALUES (1, 1, 0, 'fetch', 'each', 1)"
        )
        told = charts("a")(connection)
        with pytest.raises(UsageError, match="there is no run"):
            charts("b")(connection)
    assert told["status"] == "queued"
    assert told["pace"]["items_per_second"] is None
    assert told["timeline"]["items"] == told["errors"] == []
    assert told["stages"][0]["p99"] is None
    assert told["stages"][0]["histogram"] == {"edges": [], "counts": []}
    json.dumps(told, allow_nan=False)


def connection(bench: Bench) -> sqlite3.Connection:
    there = bench.store._connection
    assert there is not None
    return there
