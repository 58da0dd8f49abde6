"""The comparison with other libraries: its sums, and the programs that need no network."""

import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from benchmarks.peers import SUBJECTS, _Peer, ratios, table
from benchmarks.peers.installing import python_for
from benchmarks.peers.killing import _judged, _read
from benchmarks.peers.measuring import sample
from benchmarks.peers.redis import redis
from benchmarks.peers.subjects import PROGRAMS
from benchmarks.process import BenchmarkError

_MEASURED = {
    "items": 100,
    "unit": "steps/s",
    "cpu_seconds_per_1000_steps": 0.5,
    "cold_start_seconds": 0.25,
    "memory_mb": 40.0,
}
_KEPT = {
    "items": 100,
    "finished_steps": 140,
    "interrupted_steps": 10,
    "completed": 90,
    "repeated": 3,
    "restarted": 7,
    "seconds": None,
    "started_again_with": "the same key",
}
_NOT_TRIED = "not tried: nothing is stored"
_RESULTS: dict[str, Any] = {
    "stagerun": _MEASURED
    | {"title": "stagerun", "median": 60_000.0, "min": 1.0, "max": 9.0, "after_kill": _KEPT},
    "dbos": _MEASURED
    | {"title": "DBOS", "median": 300.0, "min": 1.0, "max": 9.0, "after_kill": _NOT_TRIED},
    "saq": {"title": "SAQ", "items": 200, "not_measured": "no redis-server"},
}


def test_ratios_are_those_of_what_was_measured() -> None:
    assert ratios(_RESULTS) == {"stagerun/dbos": 200.0}
    assert ratios({name: _RESULTS[name] for name in ("dbos", "saq")}) == {}


def test_the_table_tells_figures_kills_goals_and_what_is_missing() -> None:
    report = {
        "environment": {"python": "CPython"},
        "command": "python -m benchmarks peers",
        "seconds": 1.0,
        "cpu_seconds_stolen": None,
        "results": _RESULTS,
        "ratios": ratios(_RESULTS),
        "goals": {"stagerun/dbos": 300.0},
    }
    lines = [" ".join(line.split()) for line in table(report).splitlines()]
    assert "stagerun 60,000 1 9 0.500 0.25 40 100" in lines
    assert "SAQ not measured: no redis-server" in lines
    assert "stagerun 90 of 100 140 3 10 7 - the same key" in lines
    assert f"DBOS {_NOT_TRIED}" in lines
    assert "stagerun/dbos 200.00 goal 300: MISSED" in lines


def test_what_was_kept_is_counted_from_what_the_steps_wrote(tmp_path: Path) -> None:
    before, after = tmp_path / "begin.log", tmp_path / "again.log"
    whole = [f"{what} {step} 0" for step in (1, 2, 3) for what in ("begun", "finished")]
    before.write_text("\n".join([*whole, "begun 1 1", "finished 1 1", "begun 2 1", "finis"]))
    after.write_text("".join(f"begun {n} 1\nfinished {n} 1\n" for n in (1, 2, 3)))
    kept = _judged(_read(before), _read(after), 1.5)
    assert (kept.completed, kept.finished_steps, kept.repeated) == (2, 4, 1)
    assert (kept.interrupted_steps, kept.restarted) == (1, 1)
    assert _read(tmp_path / "never.log").begun == frozenset()


def test_a_peer_that_cannot_be_installed_is_a_row_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    peer = _Peer("huey", SUBJECTS["huey"], tmp_path / "file")
    peer.install()
    peer.measure(100, tmp_path)
    peer.kill(tmp_path)
    assert "could not be installed" in peer.result(100)["not_measured"]


def test_without_a_redis_server_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="no redis-server"), redis(tmp_path):
        pytest.fail("something was started")
    peer = _Peer("saq", SUBJECTS["saq"], tmp_path)
    peer.install()
    assert peer.result(100)["not_measured"] == "no redis-server"
    assert list(tmp_path.iterdir()) == []


def test_each_peer_has_a_program_and_pinned_requirements() -> None:
    for subject in SUBJECTS.values():
        assert (PROGRAMS / subject.program).is_file()
        assert all("==" in requirement for requirement in subject.requirements)
        assert bool(subject.again) or bool(subject.untried)


@pytest.mark.real
@pytest.mark.parametrize("name", ["stagerun", "gather"])
def test_a_program_tells_its_figures(name: str, tmp_path: Path) -> None:
    assert python_for(SUBJECTS[name].requirements, None) == Path(sys.executable)
    told = sample(SUBJECTS[name], Path(sys.executable), 30, tmp_path)
    assert told.steps_per_second > 0
    assert 0 < told.cold_start_seconds < 60
    assert told.memory_mb > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_a_program_that_fails_gives_no_figure(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="it failed: ZeroDivisionError"):
        sample(_failing(tmp_path), Path(sys.executable), 30, tmp_path)


def _failing(directory: Path) -> Any:
    program = directory / "failing.py"
    program.write_text("1 / 0")
    return evolve(SUBJECTS["gather"], program=str(program))
