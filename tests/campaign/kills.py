"""kill -9 at every named point, SQL statement and write of the disk, and at random moments.

Lives of a real program are forked from a warm parent and killed; the next one looks at what is
left, settles it and brings every run to the result of an uncrashed one (``killtrial.py``). All that
was acknowledged and executed is held against the file (``histories.py``).

``python -m tests.campaign.kills --kills 2000 --seed 1``; ``--only ...`` replays one trial.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field

from tests.campaign import shim
from tests.campaign.images import scratch
from tests.campaign.killplan import Plan
from tests.campaign.killplants import PLANTS
from tests.campaign.killtrial import Played, Room, Trial
from tests.campaign.part import Part

__all__ = ["main", "run"]

ROOT: Final = Path(__file__).parents[2]


def run(kills: int, seed: int, folder: Path, *, plant: str = "") -> Part:
    """Kill so many processes, forked from a fresh interpreter for each core.

    Args:
        kills: At least so many.
        seed: Says which trials.
        folder: Where their files go.
        plant: A defect to be found.
    """
    began, shares = time.monotonic(), os.cpu_count() or 1
    with ThreadPoolExecutor(shares) as pool:
        serve = partial(_served, -(-kills // shares), seed, folder, plant, shares)
        tally = reduce(Tally.plus, pool.map(serve, range(shares)))
    return tally.part(kills, seed, time.monotonic() - began)


def _served(kills: int, seed: int, folder: Path, plant: str, shares: int, share: int) -> "Tally":
    own = folder / str(share)
    own.mkdir()
    command = [sys.executable, "-m", "tests.campaign.kills", "--kills", str(kills)]
    command += ["--seed", str(seed), "--folder", str(own), "--plant", plant]
    command += ["--share", str(share), str(shares)]
    done = subprocess.run(
        command, env=_environment(own), stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return msgspec.json.decode(done.stdout, type=Tally)


def _environment(folder: Path) -> dict[str, str]:
    """Return what the fork server is started with: the shim must be there from its beginning."""
    library = shim.build(folder)
    environment = dict(os.environ) if library is None else shim.environment(library)
    return environment | {"PYTHONPATH": str(ROOT)}


# -- the fork server ------------------------------------------------------------------------------


@define
class Tally:
    """What trials came to."""

    skipped: str = ""
    violations: list[str] = field(factory=list)
    trials: int = 0
    kills: int = 0
    sorts: dict[str, int] = field(factory=dict)
    condemned: int = 0
    lives: int = 0
    unhurt: int = 0
    points: set[str] = field(factory=set)
    struck: set[tuple[str, int, str]] = field(factory=set)
    """Places, by workload, by which life, and where."""
    listed: set[tuple[str, int, str]] = field(factory=set)
    """Those that undisturbed lives come by."""
    recoveries: list[float] = field(factory=list)
    acknowledged: int = 0
    processor: float = 0.0
    """Seconds of it, of all lives and checks."""

    def add(self, trial: Trial, played: Played) -> None:
        """Take down what came of one."""
        self.trials += 1
        self.lives += len(played.lives)
        for place, (strike, killed) in enumerate(zip(trial.strikes, played.killed, strict=True)):
            if not killed:
                self.unhurt += 1
                continue
            self.kills += 1
            sort = _SORTS[strike.kind if not place else "again"]
            if trial.workload == "nothing" and not place:
                sort = "while a file was made and left"
            self.sorts[sort] = self.sorts.get(sort, 0) + 1
            self.struck.add((trial.workload, min(place, 1), str(strike)))
            if strike.kind == "point":
                self.points.add(strike.place)
        for name, value in played.history.figures:
            if name == "recovery":
                self.recoveries.append(value)
            else:
                self.condemned += int(value)
        told = played.history.told
        self.acknowledged += len(told.statuses) + len(told.sums) + len(told.started)
        self.violations += [f"{trial.replay}: {wrong}" for wrong in played.wrong]

    def plus(self, other: "Tally") -> "Tally":
        """Return both together."""
        return Tally(
            self.skipped or other.skipped,
            self.violations + other.violations,
            self.trials + other.trials,
            self.kills + other.kills,
            dict(Counter(self.sorts) + Counter(other.sorts)),
            self.condemned + other.condemned,
            self.lives + other.lives,
            self.unhurt + other.unhurt,
            self.points | other.points,
            self.struck | other.struck,
            self.listed | other.listed,
            self.recoveries + other.recoveries,
            self.acknowledged + other.acknowledged,
            self.processor + other.processor,
        )

    def part(self, kills: int, seed: int, seconds: float) -> Part:
        """Return the figures for the page."""
        times = sorted(self.recoveries) or [0.0]
        counts: dict[str, Any] = dict(sorted(self.sorts.items()))
        counts |= {
            "trials": self.trials,
            "processes": self.lives,
            "places that were not come by this time": self.unhurt,
            "failpoints struck, by side": f"{len(self.points)} of {len(Plan.points())}",
            "listed places struck": f"{len(self.struck & self.listed)} of {len(self.listed)}",
            "acknowledgements looked for": self.acknowledged,
            "kills/s": round(self.kills / seconds, 1),
            "processor seconds of a kill, all lives and checks": round(
                self.processor / max(self.kills, 1), 3
            ),
            "recovery p50 (ms)": round(times[len(times) // 2] * 1e3, 1),
            "recovery p99 (ms)": round(times[len(times) * 99 // 100] * 1e3, 1),
            "recovery longest (ms)": round(times[-1] * 1e3, 1),
            "items condemned for many deaths": self.condemned,
        }
        return Part(
            name="kill -9",
            what=_WHAT,
            command=f"python -m tests.campaign.kills --kills {kills} --seed {seed}",
            trials=self.kills,
            violations=tuple(self.violations),
            skipped=self.skipped,
            seconds=seconds,
            counts=counts,
        )


_SORTS: Final = {
    "point": "at a failpoint",
    "sql": "at an SQL statement",
    "disk": "at a write, fsync or truncate",
    "moment": "at a random moment",
    "drain": "after SIGTERM",
    "again": "of one that recovered from a kill",
}
_WHAT: Final = (
    "A real program is killed by SIGKILL before or after a function on the path of a promise, an"
    " SQL statement, or a change of its files, or at a random moment, or while it leaves after"
    " SIGTERM; so is whoever recovers, up to five times in a row. After each kill the file, the"
    " invariants, everything acknowledged and everything executed is checked; the first undisturbed"
    " start must settle all within a second, and bring every run to the results of an uncrashed"
    " one. A trial is a kill."
)


def _serve(given: argparse.Namespace) -> Tally:
    """Play this process's share of the trials: every so many-eth of them."""
    gc.collect()
    gc.freeze()  # so that no collection of a child's touches, and copies, the parent's pages
    room, (share, shares) = Room(given.folder), given.share
    plan = Plan.of(given.seed, room)
    tally = Tally("" if shim.is_loaded() else f"at the writes of the disk: {shim.unavailable()}")
    tally.listed = plan.every
    if share == 0:
        tally.violations += [f"{place}: no workload comes by it" for place in plan.unreached]
    room.plant = given.plant
    for trial in islice(plan.trials(), share, None, shares):
        tally.add(trial, room.play(trial))
        if tally.kills >= given.kills:
            break
    tally.processor = sum(os.times()[:4])
    return tally


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, or replay one trial; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="the trial to replay, as a violation names it")
    parser.add_argument("--plant", choices=("", *PLANTS), default="", help="a defect to be found")
    parser.add_argument("--folder", type=Path, help="where its files go; else into a new one")
    parser.add_argument("--share", type=int, nargs=2, help="be a fork server, the n-th of so many")
    given = parser.parse_args(arguments)
    if given.share is not None:
        sys.stdout.buffer.write(msgspec.json.encode(_serve(given)))
        return 0
    with tempfile.TemporaryDirectory(prefix="stagerun-kills-", dir=scratch()) as place:
        folder = given.folder or Path(place)
        if given.only is not None:
            return _replay(given, folder)
        part = run(given.kills, given.seed, folder, plant=given.plant)
    print(f"{part.trials} kills in {part.seconds:.0f} s, {len(part.violations)} violations")
    if part.skipped:
        print(f"skipped: {part.skipped}")
    for name, count in part.counts.items():
        print(f"{name}: {count}")
    print(*part.violations, sep="\n")
    return 1 if part.violations else 0


def _replay(given: argparse.Namespace, folder: Path) -> int:
    """Play one trial, in a process that has the shim."""
    if not shim.is_loaded() and not shim.unavailable():
        command = [sys.executable, "-m", "tests.campaign.kills", "--only", given.only]
        command += ["--seed", str(given.seed), "--plant", given.plant, "--folder", str(folder)]
        environment = _environment(folder)
        return subprocess.run(command, env=environment, check=False, cwd=ROOT).returncode
    room, tally = Room(folder), Tally()
    room.plant = given.plant
    trial = Trial.of(given.seed, given.only)
    played = room.play(trial)
    tally.add(trial, played)
    for number, life in enumerate(played.lives, 1):
        print(f"life {number}: {'killed' if life.killed else 'ended'} after {life.seconds:.3f} s")
        for words in life.told:
            print(f"  {words}")
    print(*tally.violations, sep="\n")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
