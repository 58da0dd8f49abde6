"""Several processes on one file: killed, stopped, told to leave, locked out, copied, at random.

A round is a crowd of two or eight real processes. All open one empty path at once, start, cancel
and resume runs of each other, and are disturbed for some seconds. Then the disturbance ends: what
the dead have left must be settled, a last process inherits the file, every run ends, and what was
acknowledged, executed and measured is held against the database (``census.py``).

``python -m tests.campaign.processes --rounds 50 --seed 1``; ``--only 7`` replays one round.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.campaign.census import judge
from tests.campaign.crowd import PLANTS
from tests.campaign.crowdround import Plan, Round
from tests.campaign.part import Part
from tests.campaign.rounds import Rounds

__all__ = ["main", "run"]

_LONGEST: Final = 180.0
"""Seconds after which a round that does not end is a violation."""


def run(rounds: int, seed: int, folder: Path, *, plant: str = "") -> Part:
    """Play so many rounds, each in a fresh interpreter; *plant*: see ``crowd.PLANTS``."""
    began, played = time.monotonic(), Rounds("processes", seed, folder, plant=plant)
    played.play(range(rounds))
    return Part(
        name="several processes",
        what=(
            "Two or eight processes open one empty path at once, start, cancel and resume runs of"
            " each other under keys, shared places and a schedule, while they are killed, stopped,"
            " sent SIGTERM and SIGINT, locked out, and their file is vacuumed and copied. What each"
            " was told and executed is held against the file, and against who was alive when."
        ),
        command=f"python -m tests.campaign.processes --rounds {rounds} --seed {seed}",
        trials=rounds,
        violations=tuple(played.violations),
        seconds=time.monotonic() - began,
        counts=played.figures(),
    )


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, or replay one round; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.processes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of a round to replay")
    parser.add_argument("--plant", choices=("", *PLANTS), default="", help="a defect to be found")
    parser.add_argument("--folder", type=Path, help="where its files go; else into a new one")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stagerun-processes-"))
    if given.json:  # one of many, in an interpreter of its own
        here = Round(folder / "x.db", Plan.of(given.only, given.seed), given.plant)
        here.play()
        replay = f"python -m tests.campaign.processes --only {given.only} --seed {given.seed}"
        print(json.dumps(judge(here.history, here.path, replay)))
        return 0
    played = Rounds("processes", given.seed, folder, plant=given.plant)
    played.play(range(given.rounds) if given.only is None else [given.only])
    for name, value in played.figures().items():
        print(f"{name}: {value}")
    print(*played.violations, sep="\n")
    return 1 if played.violations else 0


if __name__ == "__main__":
    sys.exit(main())
