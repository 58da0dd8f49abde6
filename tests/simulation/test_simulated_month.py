"""Zero hung runs after a month with the computer closed now and then; told by the database."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve

from stagerun import Schedule
from stagerun.rules.scheduling import Due, due
from tests.simulation.month import Report, simulate

DAYS = 30.0


def test_after_a_month_of_sleeps_losses_and_kills_no_run_hangs(tmp_path: Path) -> None:
    report = simulate(DAYS, seed=1, folder=tmp_path)
    assert report.open_at_the_end == 0
    assert report.overstayed == 0
    assert report.settled_late == 0
    assert report.slots_lost == 0
    # No timeout on a healthy run, and none of them takes longer than on a day without faults.
    assert report.unharmed_not_succeeded == 0
    usual = simulate(1.5, seed=1, folder=tmp_path, faults=False)
    assert usual.unharmed_not_succeeded == 0
    assert set(usual.seconds) == set(report.seconds)
    for pipeline, seconds in usual.seconds.items():
        assert report.seconds[pipeline] == pytest.approx(seconds, abs=1.0)
    # It has been a month with something in it.
    assert min(report.sleeps, report.losses, report.kills) >= 50
    assert sum(report.runs.values()) > 1000
    assert report.slots["missed"] > 1000


def test_the_same_seed_gives_the_same_days(tmp_path: Path) -> None:
    def lived(folder: str) -> tuple[Report, list[tuple[object, ...]]]:
        (tmp_path / folder).mkdir()
        report = simulate(1, seed=3, folder=tmp_path / folder)
        with closing(sqlite3.connect(tmp_path / folder / "3-True.db")) as connection:
            events = connection.execute("SELECT * FROM events ORDER BY run, seq").fetchall()
        return report, events

    assert lived("first") == lived("second")


def test_the_simulation_sees_what_it_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody settles what the dead have left: then only their deadlines end runs of theirs."""

    async def nobody(*_: object) -> list[object]:
        return []

    monkeypatch.setattr("stagerun.engine.household.recover", nobody)
    assert simulate(3, seed=2, folder=tmp_path).settled_late > 0


def test_it_sees_slots_that_nobody_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(schedule: Schedule, slot: int, now: int) -> Due | None:
        found = due(schedule, slot, now)
        return None if found is None else evolve(found, missed=0)

    monkeypatch.setattr("stagerun.engine.timetable.due", forgetful)
    assert simulate(2, seed=1, folder=tmp_path).slots_lost > 0
