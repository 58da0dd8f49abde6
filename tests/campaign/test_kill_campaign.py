"""kill -9: a small share of the campaign's kills, and that the harness bites."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.campaign import kills
from tests.campaign.failpoints import FAILPOINTS, Strike
from tests.campaign.forks import Blow, live
from tests.campaign.killplants import PLANTS
from tests.campaign.killtrial import Trial
from tests.campaign.told import Say

pytestmark = pytest.mark.real


def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path) -> None:
    part = kills.run(40, time.time_ns() % 10**6, tmp_path)
    assert part.violations == ()  # one of them would be a failpoint that no workload comes by
    assert part.trials >= 40
    assert part.counts["at a failpoint"] > 10
    assert part.counts["of one that recovered from a kill"] > 0


@pytest.mark.parametrize("name", FAILPOINTS)
def test_each_failpoint_is_a_function(name: str) -> None:
    _, _, function = FAILPOINTS[name].place()
    assert callable(function)


@pytest.mark.parametrize(
    ("plant", "trial", "found"),
    [
        ("torn-commits", "pages,made,sql:after:{}0", "sums:"),
        ("recovers-nobody", "pages,made,point:committed-not-heard.before:{}", "not settled"),
        ("repeats-all", "cancelled,made,point:cancel-asked.before:1", "executed again"),
    ],
)
def test_a_defect_on_purpose_is_found(plant: str, trial: str, found: str, tmp_path: Path) -> None:
    """By one of a few kills in a row: which of them meets it is the scheduler's business.

    The other one needs a campaign: ``python -m tests.campaign.kills --kills 300 --plant ...``
    """
    for number in (4, 5, 6, 7, 3, 8, 2, 9):
        command = [sys.executable, "-m", "tests.campaign.kills", "--plant", plant]
        done = subprocess.run(
            [*command, "--only", trial.format(number), "--folder", str(tmp_path)],
            cwd=kills.ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode == 1 and found in done.stdout:
            return
    pytest.fail(f"not found: {done.stdout}{done.stderr}")


def test_there_is_a_test_of_each_defect() -> None:
    marks = test_a_defect_on_purpose_is_found.pytestmark  # type: ignore[attr-defined] # pytest's
    (cases,) = [mark.args[1] for mark in marks if mark.name == "parametrize"]
    assert {plant for plant, _, _ in cases} | {"answers-early"} == {*PLANTS}


def test_a_trial_is_told_by_its_words() -> None:
    strikes = (Strike("point", "drain.after", 1), Strike("moment", "0.0123"))
    trial = Trial(3, "two", fresh=True, strikes=strikes)
    assert Trial.of(3, str(trial)) == trial


# -- forks -----------------------------------------------------------------------------------------

FORK = """
import os, pathlib, signal, sys, time
from tests.campaign.forks import Blow, live

def work(say):
    say(["begun"])
    {}

life = live(work, pathlib.Path(sys.argv[1]), {}, longest=1.0)
print(life.told, life.killed, life.wrong)
"""


def forked(body: str, folder: Path, blows: str = "()") -> str:
    """Return what is seen of a life; from a process that has one thread for certain."""
    done = subprocess.run(
        [sys.executable, "-c", FORK.format(body, blows), str(folder / "errors")],
        cwd=kills.ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_life_is_heard_until_it_is_killed(tmp_path: Path) -> None:
    seen = forked("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert seen == "(['begun'],) True \n"


def test_a_life_is_killed_from_outside(tmp_path: Path) -> None:
    seen = forked("time.sleep(60)", tmp_path, "[Blow(0.3, signal.SIGKILL)]")
    assert seen == "(['begun'],) True \n"


def test_a_life_that_fails_or_hangs_says_where(tmp_path: Path) -> None:
    assert "ZeroDivisionError" in forked("1 / 0", tmp_path)
    hung = forked("time.sleep(60)", tmp_path)
    assert "had not ended after 1 s" in hung
    assert "in work" in hung


def test_a_process_with_threads_does_not_fork(tmp_path: Path) -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with pytest.raises(RuntimeError, match="other threads"):
            live(lambda _say: None, tmp_path / "errors")
    finally:
        over.set()
        other.join()


_ = (os, signal, Blow, Say)
