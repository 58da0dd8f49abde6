"""A small share of the campaigns on processes and clocks, and that their checks can fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stagerun import StoreError
from stagerun.store.opening import check_path
from tests.campaign import census, clock_shim, processes
from tests.campaign.clock_shim import Clock
from tests.campaign.crowdhistory import History, Process
from tests.campaign.crowdround import Plan
from tests.campaign.rounds import ROOT, Rounds, importing

pytestmark = pytest.mark.real

clock_needed = pytest.mark.skipif(
    bool(clock_shim.unavailable()), reason=clock_shim.unavailable() or "there is a compiler"
)


def test_a_crowd_of_processes_loses_nothing_and_takes_nobody_alive_for_dead(
    tmp_path: Path,
) -> None:
    part = processes.run(1, 2, tmp_path)
    assert not part.violations, part.violations
    assert part.counts["runs"] > 0
    assert part.counts["processes"] >= 4


def test_a_process_that_takes_the_living_for_dead_is_found(tmp_path: Path) -> None:
    met = list[str]()
    for seed in range(1, 7):  # what a round meets depends on the machine, too: one of a few does it
        (folder := tmp_path / str(seed)).mkdir()
        found = processes.run(1, seed, folder, plant="takes-living").violations
        met += found
        replay = f"python -m tests.campaign.processes --only 0 --seed {seed}"
        assert all(each.startswith(replay) for each in found)
        if any("and lived" in each or "had it in hand" in each for each in found):
            break
    else:
        pytest.fail(f"not found: {met}")


def test_the_plan_of_a_round_follows_from_its_number_and_the_seed() -> None:
    one, two = Plan.of(7, 1), Plan.of(7, 1)
    assert one.member("") == two.member("")
    assert (one.size, one.seconds, one.deeds) == (two.size, two.seconds, two.deeds)
    assert {Plan.of(number, 1).size for number in range(20)} == {2, 8}


@clock_needed
def test_a_shimmed_clock_moves_the_wall_and_leaves_awake_time_alone(tmp_path: Path) -> None:
    library = clock_shim.build(tmp_path)
    assert library is not None
    clock = Clock(tmp_path / "clock")
    program = (
        "import sys, time\n"
        "for _ in sys.stdin:\n"
        "    boot = time.clock_gettime(time.CLOCK_BOOTTIME)\n"
        "    print(time.time(), time.time_ns() / 1e9, boot, time.monotonic(), flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env=clock_shim.environment(library, clock),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def read() -> list[float]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        return [float(word) for word in child.stdout.readline().split()]

    with child:
        before = read()
        clock.sleep(3600)
        asleep = read()
        clock.jump(-7200)
        back = read()
        child.kill()
    for one, two, shifts in (
        (before, asleep, (3600, 3600, 3600, 0)),
        (asleep, back, (-7200, -7200, 0, 0)),
    ):
        for then, now, shift in zip(one, two, shifts, strict=True):
            assert abs(now - then - shift) < 60


@clock_needed
def test_a_watcher_that_believes_every_clock_is_found(tmp_path: Path) -> None:
    library = clock_shim.build(tmp_path)
    assert library is not None
    played = Rounds("clocks", 1, tmp_path, plant="impatient", more=("--seconds", "4"))
    for number in range(4):  # on a busy machine little happens in a round
        played.play([number], clock_shim.environment(library, Clock(tmp_path / "clock")))
        if any("run_deadline" in each or "and lived" in each for each in played.violations):
            return
    pytest.fail(f"it was not found: {played.violations}")


def test_a_crowd_s_history_tells_core_time_from_locked_and_stopped_time(tmp_path: Path) -> None:
    history = History()
    worker = Process(1, "worker", tmp_path / "errors", opened_at=10.0)
    history.processes.append(worker)
    history.hear(["locked", 12.0])
    history.hear(["unlocked", 12.0, 14.0])
    assert history.core(10.0, 20.0) == pytest.approx(8.0, abs=0.1)
    assert history.core(0.0, 10.0) == pytest.approx(0.0, abs=0.1)
    assert [*census.waits(history)] == []
    history.hear(["took", "start", 10.0, 20.0])
    assert [*census.waits(history)] == ["a start took 10.0 s: it starved"]


def test_a_command_leaves_what_does_not_stop_behind_within_a_second_of_its_grace(
    tmp_path: Path,
) -> None:
    noted = (tmp_path / "executed").open("wb")
    with noted:
        child = subprocess.Popen(
            [sys.executable, "-m", "stagerun", "run", "tests.campaign.crowdruns:hung", "--json",
             "--db", str(tmp_path / "x.db")],
            cwd=ROOT,
            env={**os.environ, **importing(), "CAMPAIGN_EXECUTED": str(noted.fileno())},
            pass_fds=[noted.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    with child:
        while b"begins" not in (tmp_path / "executed").read_bytes():
            assert child.poll() is None
        child.terminate()
        said, _ = child.communicate(timeout=census.LEFT_WITHIN + 10)
    assert child.returncode == 3
    assert len(json.loads(said)["survivors"]) >= 1


def test_a_database_is_one_by_each_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    assert check_path(tmp_path / "link.db") == tmp_path.resolve() / "real.db"
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    with pytest.raises(StoreError, match=r"cannot be found"):
        check_path(tmp_path / "loop.db")
