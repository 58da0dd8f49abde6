"""What Prometheus reads: of the database and of the process, bounded and true."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

import stagerun
from stagerun import Pipeline, Schedule, stage
from stagerun.engine.health import Health, Lateness
from stagerun.engine.statistics import RuntimeStatistics
from stagerun.store import gauges
from stagerun.store.gauges import EDGES, Figures, Gauges
from stagerun.store.pool import ReadingPool
from stagerun.web import metrics
from stagerun.web.events import Events
from stagerun.web.metrics import Metrics, bounded
from stagerun.web.problems import Problem
from tests.web.streamed import Database, FakeBackend, database

LABELS = ("pipeline", "stage", "outcome", "status", "le", "schedule", "decision")


async def scrape(backend: Any, *, accept: str = "") -> dict[tuple[Any, ...], float]:
    """Return each sample by its name and labels."""
    answer = await Metrics(backend, Events(backend)).scrape(request(accept))
    return samples(answer.body)


def samples(body: Any) -> dict[tuple[Any, ...], float]:
    return {
        (
            sample.name.removeprefix("stagerun_"),
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(bytes(body).decode())
        for sample in family.samples
    }


def request(accept: str = "") -> Request:
    return Request({"type": "http", "headers": [(b"accept", accept.encode())]})


def stage_row(db: Database, run: int, name: str, **sums: int) -> None:
    columns = ", ".join(sums)
    db.connection.execute(
        f"INSERT INTO stages (run, generation, stage, name, kind, version, {columns})"
        f" SELECT run, generation, (SELECT count(*) FROM stages s WHERE s.run = r.run), ?, 'one', 1"
        f" {', ?' * len(sums)} FROM runs r WHERE run = ?",
        (name, *sums.values(), run),
    )


async def test_a_real_run_is_told_by_status_outcome_and_duration(tmp_path: Path) -> None:
    @stage(least_ok=0.1)
    async def double(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return 2 * n

    pipeline = Pipeline("doubles", [double])
    async with stagerun.open_runtime(tmp_path / "runs.db") as runtime:
        run = await runtime.start(pipeline, [1, 2, 3])
        await run.wait()
        pool = ReadingPool(tmp_path / "runs.db")
        backend = FakeBackend(pool, runtime)
        found = await scrape(backend)
        pool.close()
    name = "doubles"
    assert found["runs", name, "succeeded"] == 1
    assert found["items", name, "double", "ok"] == 2
    assert found["items", name, "double", "failed"] == 1
    assert found["items", name, "double", "skipped"] == 0
    assert found["run_duration_seconds_bucket", name, "60.0"] == 1
    assert found["run_duration_seconds_bucket", name, "+Inf"] == 1
    assert found["run_duration_seconds_gcount", name] == 1
    assert 0 < found["run_duration_seconds_gsum", name] < 60
    assert found["process_runs",] == 0
    assert found["store_healthy",] == 1
    assert found["database_readable",] == 1
    assert found["process_memory_bytes",] > 10_000_000


async def test_schedules_are_told_by_their_next_slot_and_what_became_of_the_others(
    tmp_path: Path,
) -> None:
    @stage
    async def double(n: int) -> int:
        return 2 * n

    pipeline = Pipeline("doubles", [double], source=[1])
    schedules = [Schedule(name, pipeline, every=3600) for name in ("often", "paused")]
    async with stagerun.open_runtime(tmp_path / "runs.db", schedules=schedules) as runtime:
        await runtime.trigger_schedule("often")
        await runtime.pause_schedule("paused")
        pool = ReadingPool(tmp_path / "runs.db")
        found = await scrape(FakeBackend(pool, runtime))
        pool.close()
    assert 3500 < found["schedule_next_seconds", "often"] <= 3600
    assert ("schedule_next_seconds", "paused") not in found
    assert found["schedule_slots_total", "often", "fired"] == 1
    assert found["schedule_slots_total", "often", "skipped"] == 0
    assert found["schedule_slots_total", "paused", "missed"] == 0


async def test_what_waits_and_what_is_worked_on_is_told_of_runs_under_way(tmp_path: Path) -> None:
    async with database(tmp_path) as db:
        db.run(1)
        stage_row(db, 1, "fetch", accepted=10, ok=3, failed=1, in_flight=2)
        stage_row(db, 1, "parse", accepted=3, ok=1)
        db.run(2, "second")
        stage_row(db, 2, "fetch", accepted=5, cancelled=2)
        db.end("cancelled", run=2)
        db.run(3, "third", 'a "quoted"\nname \\n \x00 \u2028')  # no pipeline can be named so
        pool = ReadingPool(db.path)
        found = await scrape(FakeBackend(pool))
        pool.close()
    assert found["queue_depth", "crawl"] == 6
    assert found["items_in_flight", "crawl"] == 2
    assert found["items", "crawl", "fetch", "ok"] == 3
    assert found["items", "crawl", "fetch", "cancelled"] == 2
    assert found["runs", "crawl", "running"] == 1
    assert found["runs", 'a "quoted"\nname \\n \x00 \u2028', "running"] == 1


async def test_what_the_process_knows_is_told(tmp_path: Path) -> None:
    async with database(tmp_path) as db:
        pool = ReadingPool(db.path)
        backend = FakeBackend(pool)
        backend.runtime.figures = RuntimeStatistics(2, 7, 3, ("a", "b", "c"), 1.5)
        backend.runtime.condition = Health("degraded", "locked", None, 12, 4.5)
        events = Events(backend)
        events.late.note(0.0, 0.25)
        answer = await Metrics(backend, events).scrape(request())
        pool.close()
    found = samples(answer.body)
    assert found["process_runs",] == 2
    assert found["process_items_in_flight",] == 7
    assert found["survivors",] == 3
    assert found["loop_lag_seconds",] == 1.5
    assert found["host_loop_lag_seconds",] == 0.25
    assert found["store_healthy",] == 0
    assert found["store_waiting_rows",] == 12
    assert found["store_lag_seconds",] == 4.5
    assert found["streams_open",] == 0


async def test_an_unreadable_database_still_leaves_what_the_process_knows(tmp_path: Path) -> None:
    pool = ReadingPool(tmp_path / "none.db")
    found = await scrape(FakeBackend(pool))
    assert found["database_readable",] == 0
    assert found["store_healthy",] == 1
    assert not [name for name in found if name[0] == "runs"]


async def test_the_database_is_asked_only_now_and_then(tmp_path: Path) -> None:
    async with database(tmp_path) as db:
        pool = ReadingPool(db.path)
        asked = 0

        class Counting:
            async def ask(self, question: Any) -> Any:
                nonlocal asked
                asked += 1
                return await pool.ask(question)

        counted = Metrics(FakeBackend(Counting()), Events(FakeBackend(pool)))
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(counted.scrape, request())
        assert asked == 1
        counted._asked_at -= 6
        await counted.scrape(request())
        assert asked == 2
        pool.close()


async def test_without_the_library_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda _name: None)
    with pytest.raises(Problem) as caught:
        await scrape(FakeBackend(ReadingPool(tmp_path / "x.db")))
    assert caught.value.status == 501
    assert "stagerun[metrics]" in caught.value.detail


async def test_openmetrics_is_given_to_whoever_asks_for_it(tmp_path: Path) -> None:
    async with database(tmp_path) as db:
        pool = ReadingPool(db.path)
        db.run()
        backend = FakeBackend(pool)
        accept = "application/openmetrics-text; version=1.0.0"
        answer = await Metrics(backend, Events(backend)).scrape(request(accept))
        pool.close()
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert bytes(answer.body).endswith(b"# EOF\n")


def test_it_works_under_asyncio_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path) as db:
            db.run()
            pool = ReadingPool(db.path)
            found = await scrape(FakeBackend(pool))
            assert found["runs", "crawl", "running"] == 1
            pool.close()

    asyncio.run(main())


def test_smaller_pipelines_and_many_stages_share_a_label() -> None:
    figures = Figures()
    for number in range(150):
        figures.runs[f"p{number:03}", "succeeded"] = 1_000 - number
        figures.durations[f"p{number:03}", 2] = 1
        figures.seconds[f"p{number:03}"] = 1
        figures.waiting[f"p{number:03}"] = 1
        for place in range(10):
            figures.items[f"p{number:03}", f"s{place}", "ok"] = 1
    found = bounded(figures)
    assert len({pipeline for pipeline, _ in found.runs}) == 101
    assert found.runs["p099", "succeeded"] == 901
    assert found.runs["other", "succeeded"] == sum(1_000 - number for number in range(100, 150))
    assert found.runs.total() == figures.runs.total()
    assert found.items.total() == 1_500
    assert len({(pipeline, stage) for pipeline, stage, _ in found.items}) <= 500 + 101
    assert (found.waiting["other"], found.seconds["other"], found.durations["other", 2]) == (
        50,
    ) * 3


def test_delays_are_remembered_for_a_while() -> None:
    late = Lateness()
    assert late.worst == 0.0
    late.note(0.0, 2.0)
    late.note(10.0, 0.1)
    assert late.worst == 2.0
    late.note(31.0, 0.2)
    assert late.worst == 2.0
    late.note(62.0, 0.3)
    assert late.worst == 0.3


# -- the figures of the database ----------------------------------------------------------------


def whole(db: Database) -> Figures:
    """Return what plain sums over everything tell."""
    figures = Figures()
    rows = "FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation"
    for pipeline, status, began, ended in db.connection.execute(
        f"SELECT r.pipeline, g.status, g.started_at, g.finished_at {rows}"
    ):
        figures.runs[pipeline, status] += 1
        if began is not None and ended is not None:
            seconds = (ended - began) / 1e6
            figures.seconds[pipeline] += seconds
            figures.durations[pipeline, sum(seconds > edge for edge in EDGES)] += 1
    for pipeline, name, ok in db.connection.execute(
        f"SELECT r.pipeline, s.name, s.ok {rows}"
        " JOIN stages s ON s.run = g.run AND s.generation = g.generation"
    ):
        figures.items[pipeline, name, "ok"] += ok
    return figures


def agree(db: Database, kept: Gauges) -> None:
    while not (found := kept.figures()(db.connection)).complete:
        pass
    expected = whole(db)
    assert +found.runs == expected.runs
    assert +found.items == +expected.items
    assert +found.durations == expected.durations
    assert found.seconds == pytest.approx(expected.seconds)


async def test_kept_sums_follow_every_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "_BITS", 2)
    async with database(tmp_path) as db:
        kept = Gauges()
        agree(db, kept)
        for number in range(1, 31):
            db.run(number, f"run{number:02}", pipeline=f"p{number % 3}")
            stage_row(db, number, "fetch", accepted=9, ok=number % 9)
            if number % 4:
                db.end(run=number)
        db.connection.execute(
            "UPDATE generations SET finished_at = run * 7000000 WHERE finished_at"
        )
        agree(db, kept)
        blocks = dict(kept._blocks)
        db.connection.execute("UPDATE stages SET ok = 9 WHERE run = 4")  # one under way gets on
        agree(db, kept)
        assert kept._blocks == blocks  # and nothing had to be summed up again
        db.end(run=4)
        agree(db, kept)
        changed = [place for place in blocks if kept._blocks[place] is not blocks[place]]
        assert changed == [1]
        db.resume(run=5)
        agree(db, kept)
        db.end("failed", run=5)
        agree(db, kept)
        # One ends, one is deleted and one begins: the number of each sort is what it was.
        db.end(run=28)
        db.connection.execute("DELETE FROM stages WHERE run = 29")
        db.delete(run=29)
        db.run(31, "run31")
        agree(db, kept)
        for run in range(1, 9):
            db.connection.execute("DELETE FROM stages WHERE run = ?", (run,))
            db.delete(run=run)
        agree(db, kept)
        assert min(kept._blocks) == 2


def test_no_question_looks_at_the_whole_database(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "runs.db")) as db:
        asked: list[str] = []
        db.run()
        db.connection.set_trace_callback(asked.append)
        Gauges().figures()(db.connection)
        db.connection.set_trace_callback(None)
        plans = Counter[str]()
        for statement in asked:
            plan = db.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            plans.update(step[3] for step in plan)
        with pytest.raises(sqlite3.OperationalError):
            db.connection.execute("EXPLAIN QUERY PLAN nonsense")
    scans = [step for step in plans if step.startswith("SCAN")]
    # Runs that were resumed stand in an index of their own.
    assert all("generations_again" in step or "CONSTANT" in step for step in scans), plans
