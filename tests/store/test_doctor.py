"""The doctor finds what has been planted, names the run, and changes nothing."""

import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import DROP, Pipeline, batch, collect, open_runtime, stage
from stagerun.cli.main import call
from stagerun.errors import StoreError
from stagerun.store import doctor
from stagerun.store.doctor import examine, has_reset_bug
from stagerun.store.opening import STEPS

pytestmark = pytest.mark.real


@stage(workers=3)
async def check(number: int) -> Any:
    if number % 7 == 0:
        raise ValueError("sevens")
    return DROP if number % 5 == 0 else number


@stage
async def twice(number: int) -> AsyncIterator[int]:
    yield number
    yield -number


@batch(size=10)
async def store(numbers: list[int]) -> list[int]:
    return numbers


@collect(by=lambda number: number % 3)
async def count(outcomes: AsyncIterator[Any]) -> int:
    return len([each async for each in outcomes])


async def fill(path: Path) -> None:
    async with open_runtime(path) as runtime:
        for stages in ([check, twice, store, count], [check, store], [twice, count]):
            run = await runtime.start(Pipeline("work", stages), range(1, 60))
            await run.wait()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound database with three runs, as bytes."""
    path = tmp_path_factory.mktemp("original") / "runs.db"
    trio.run(fill, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.read_bytes()


@pytest.fixture
def database(original: bytes, tmp_path: Path) -> Path:
    """A sound database of this test's own."""
    path = tmp_path / "runs.db"
    path.write_bytes(original)
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement


def test_a_sound_file_is_sound_and_left_as_it_was(database: Path) -> None:
    before = hashlib.sha256(database.read_bytes()).digest()
    report = examine(database)
    assert report.findings == []
    assert report.sound
    assert report.facts["schema"] == STEPS[-1].number
    assert hashlib.sha256(database.read_bytes()).digest() == before


async def test_a_file_under_way_is_sound_too(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        stages = [check, twice, store, count]
        run = await runtime.start(Pipeline("work", stages), range(1, 3_000))
        for _ in range(5):
            assert examine(path).findings == []
            await trio.sleep(0.02)
        await run.wait()
        assert examine(path).findings == []


FIRST = "run = (SELECT min(run) FROM runs)"
UNENDED = "status = 'running', cause = NULL, finished_at = NULL"
PLANTED = {
    "a counter": ("sums", f"UPDATE stages SET ok = ok - 1 WHERE {FIRST} AND stage = 0"),
    "a lost outcome": ("sums", f"DELETE FROM items WHERE {FIRST} AND stage = 0 AND item = 1"),
    "another outcome": ("sums", f"UPDATE items SET outcome = 4 WHERE {FIRST} AND item = 1"),
    "accepted too much": ("sums", f"UPDATE stages SET accepted = 999 WHERE {FIRST} AND stage = 2"),
    "in flight at the end": (
        "sums",
        f"UPDATE stages SET accepted = accepted + 1, in_flight = 1 WHERE {FIRST} AND stage = 0",
    ),
    "no cause": ("causes", f"DELETE FROM failures WHERE {FIRST} AND item = 7"),
    "a status": (
        "endings",
        f"UPDATE generations SET status = 'failed', cause = 'internal' WHERE {FIRST}",
    ),
    "no message": ("endings", f"UPDATE generations SET message = NULL WHERE {FIRST}"),
    "no author": ("endings", f"UPDATE generations SET ended_by = NULL WHERE {FIRST}"),
    "back to running": (
        "zombies",
        f"UPDATE generations SET {UNENDED} WHERE {FIRST}",
    ),
    "a generation": ("generations", f"UPDATE runs SET generation = 2 WHERE {FIRST}"),
    "a lost event": ("events", f"DELETE FROM events WHERE {FIRST} AND seq = 3"),
    "the last event": ("events", f"UPDATE runs SET events = events + 1 WHERE {FIRST}"),
    "a run": ("orphans", f"DELETE FROM runs WHERE {FIRST}"),
    "a cause too many": (
        "orphans",
        "INSERT INTO failures SELECT min(run), 0, 999, 1, 'x', 'x', NULL, NULL, NULL FROM runs",
    ),
    "a result too many": (
        "orphans",
        "INSERT INTO results SELECT min(run), 0, 999, 1, x'00' FROM runs",
    ),
    "an owner": (
        "zombies",
        f"UPDATE generations SET owner = 77, {UNENDED} WHERE {FIRST}",
    ),
    "a table": ("schema", "DROP TABLE members"),
    "an index": ("schema", "DROP INDEX runs_by_age"),
    "a newer schema": ("schema", "PRAGMA user_version = 99"),
    "a living owner": (
        "owners",
        "UPDATE owners SET ended_at = NULL, ended_by = NULL, ended_cause = NULL",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_damage_is_found(database: Path, name: str) -> None:
    expected, statement = PLANTED[name]
    with closing(sqlite3.connect(database)) as connection:
        (run,) = connection.execute("SELECT id FROM runs ORDER BY run").fetchone()
    change(database, statement)
    found = [finding for finding in examine(database).findings if finding.check == expected]
    assert found
    assert all(finding.what and finding.next for finding in found)
    if expected in ("sums", "causes", "endings", "zombies", "generations", "events"):
        assert found[0].run == run


def test_damage_of_the_file_itself_is_found_and_explained(database: Path) -> None:
    whole = database.read_bytes()
    for harm in (
        b"garbage" * 1000,
        b"",
        whole[: len(whole) // 2],
        whole[:8192] + bytes(8192) + whole[16384:],
        whole[:100],
    ):
        database.write_bytes(harm)
        report = examine(database)
        assert not report.sound
        assert database.read_bytes() == harm
    with pytest.raises(StoreError, match="there is no database"):
        examine(database.with_name("none.db"))


def test_files_without_owners_and_rights_for_all_are_found(database: Path) -> None:
    folder = database.with_name("runs.db.owners")
    folder.mkdir()
    (folder / "0123").write_text("")
    database.chmod(0o666)
    assert {finding.check for finding in examine(database).findings} == {"owners", "rights"}


def test_little_space_and_foreign_disks_are_found(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_file_system", lambda _folder: "nfs4")
    monkeypatch.setattr(doctor, "_LEAST_FREE", 2**62)
    monkeypatch.setattr(doctor, "_LOG_LIMIT", -1)
    found = {finding.check for finding in examine(database).findings}
    assert found == {"file system", "disk", "wal"}


def test_many_findings_of_one_kind_are_counted(database: Path) -> None:
    change(
        database,
        "INSERT INTO results SELECT 1, 0, 1000 + item, 1, x'' FROM items WHERE run = 1"
        " GROUP BY item",
    )
    found = examine(database).findings
    assert len(found) <= 25
    assert "more than 20" in found[-1].what


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_versions_with_the_reset_bug(version: tuple[int, ...], affected: bool) -> None:
    assert has_reset_bug(version) is affected


def test_the_command_tells_findings_and_ends_with_1(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["doctor", "--db", str(database)]) == 0
    assert "sound" in capsys.readouterr().out
    change(database, f"DELETE FROM failures WHERE {FIRST} AND item = 7")
    assert call(["doctor", "--db", str(database)]) == 1
    assert "1 finding" in capsys.readouterr().out
    assert call(["doctor", "--db", str(database), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["sound"] is False
    assert document["findings"][0]["check"] == "causes"
    assert call(["doctor", "--db", str(database) + os.sep + "none"]) == 2


async def test_a_run_with_several_generations_is_sound(tmp_path: Path) -> None:
    path, asked = tmp_path / "runs.db", trio.Event()
    well = False

    @stage(workers=3)
    async def shaky(number: int) -> int:
        if number == 25 and not well:
            asked.set()
            await trio.sleep_forever()
        if number % 4 == 0 and not well:
            raise ValueError("fours")
        return number

    async with open_runtime(path) as runtime:
        stages = [shaky, twice, store, count]
        run = await runtime.start(Pipeline("work", stages, grace=0.1), range(1, 60))
        await asked.wait()
        await run.cancel()
        await run.wait()
        assert examine(path).findings == []
        well = True
        for failed in (False, True):
            run = await run.resume(failed=failed)
            result = await run.wait()
            assert examine(path).findings == []
        assert (result.generation, result.stages[0].ok) == (3, 59)


SCHEDULE = (
    "INSERT INTO schedules (schedule, name, pipeline, every, zone, overlap, active, created_at)"
    " VALUES (1, 'often', 'work', 60000000, 'UTC', 'skip', 1, 1);"
    "INSERT INTO slots (schedule, at, decided_at, decision, run, reason)"
    " SELECT 1, run, 1, 'fired', id, NULL FROM runs;"
    "UPDATE runs SET concurrency_key = 'schedule often', concurrency = 1;"
)
PLANTED_IN_SCHEDULES = {
    "a slot fired twice": "INSERT INTO slots (schedule, at, decided_at, decision, run)"
    " SELECT 1, 99, 1, 'fired', min(id) FROM runs",
    "fired without a run": "INSERT INTO slots (schedule, at, decided_at, decision)"
    " VALUES (1, 99, 1, 'fired')",
    "skipped with a run": "UPDATE slots SET decision = 'skipped'",
    "more runs than places": f"UPDATE generations SET {UNENDED}",
}


@pytest.mark.parametrize("name", PLANTED_IN_SCHEDULES)
def test_planted_damage_of_schedules_is_found(database: Path, name: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(SCHEDULE)
    assert examine(database).findings == []
    change(database, PLANTED_IN_SCHEDULES[name])
    found = [finding.what for finding in examine(database).findings if finding.check == "schedules"]
    assert found
    assert all("schedule often" in what for what in found)
