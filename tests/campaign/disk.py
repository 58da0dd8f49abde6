"""A disk that refuses: each single call of SQLite's to it fails, once or for good.

``python -m tests.campaign.disk`` goes through all of them; ``--faults 200`` takes a part.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final

from attrs import asdict, frozen

from tests.campaign import diskfaults, diskloads, diskroom, shim
from tests.campaign.disktrial import CASES, PLANTS, Case, Seen
from tests.campaign.images import ROOT, scratch
from tests.campaign.part import Part

__all__ = ["main", "run"]

PATIENCE: Final = 30.0
"""Seconds after which a trial hangs."""
SERIES: Final = ("opening", "under_way")
"""What is done at each call in turn, until there is none left."""
LOADS: Final = {name: diskloads.LOADS[name] for name in ("pages", "parts", "cancelled", "crowd")}
"""In which calls fail at random. A load that opens its file twice would have it refused there."""
TRIES: Final = 30
"""Trials of each of those."""
LEAVING: Final = (1, 3, 10)
SLOW: Final = (0.3, 1.0, 3.0)
"""Seconds that an fsync takes."""
ROOM: Final = (700, 1_000, 1_400)
"""Kilobytes on a file system that fills up, or that a file may have."""


@frozen
class Trial:
    """One trial, as ``--only`` names it."""

    what: str
    case: str = ""
    n: int = 0
    """Which call; or what the trial is about: milliseconds, or kilobytes."""
    sticky: bool = False

    def __str__(self) -> str:
        return f"{self.what}/{self.case or '-'}/{self.n}/{'sticky' if self.sticky else 'once'}"

    @classmethod
    def named(cls, words: str) -> "Trial":
        what, case, n, sticky = words.split("/")
        return cls(what, case.strip("-"), int(n), sticky == "sticky")


def run(faults: int | None, seed: int, folder: Path, *, only: str = "", plant: str = "") -> Part:
    """Try each call (*faults* None), or so many of them; *only*: one trial; *plant*: a defect."""
    what = (
        "Each write, fsync and truncate of a real runtime's database fails in turn, with an"
        " input/output error, a full disk, or half a write, once or until it is lifted: while the"
        " database is made, under way, and while leaving. Each fault must be told of or raised, the"
        " runs must end as without it, and nothing acknowledged may be lost. And: a slow fsync, a"
        " file system that fills up, a limit on files."
    )
    command = f"python -m tests.campaign.disk{f' --faults {faults}' if faults else ''}"
    command, began = f"{command} --seed {seed}", time.time()
    library = shim.build(folder)
    if library is None:
        return Part(
            name="faults of the disk", what=what, command=command, trials=0, seconds=0.0,
            skipped=shim.unavailable(),
        )  # fmt: skip
    answer = folder / "disk.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign.disk", "--here", str(answer), "--folder",
         str(folder), "--seed", str(seed), "--faults", str(faults or 0), "--only", only,
         "--plant", plant],
        env=shim.environment(library) | {"PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the trials of the disk have failed:\n{done.stderr}")
    told = json.loads(answer.read_text())
    return Part(
        name="faults of the disk", what=what, command=command, trials=told["trials"],
        violations=tuple(told["violations"]), skipped=told["skipped"],
        seconds=time.time() - began, counts=told["counts"],
    )  # fmt: skip


# -- where the shim is ----------------------------------------------------------------------------


def _here(faults: int, seed: int, folder: Path, only: str) -> dict[str, object]:
    """Do the trials, each in a forked child. This process opens nothing, and has one thread."""
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    prepared = place / "prepared.db"
    made = _forked(Trial("opening", "eio"), seed, prepared, prepared)
    if made.wrong:
        raise RuntimeError(f"no database can be made: {made.wrong}")
    counts, violations, skipped = Counter[str](), list[str](), set[str]()
    leaving, lag = 0.0, 0.0
    trials = _Trials(faults, seed, only)
    for trial in trials:
        ground = place / "trial"
        ground.mkdir()
        seen = _forked(trial, seed, prepared, ground / "x.db")
        shutil.rmtree(ground)
        trials.fired = bool(seen.fired)
        if seen.raised and trial.what == "full_disk" and not seen.wrong:
            skipped.add(seen.raised)
            continue
        _count(trial, seen, counts)
        leaving = max(leaving, seen.figures.get("leaving", 0.0))
        lag = max(lag, seen.figures.get("lag", 0.0))
        violations += [
            f"python -m tests.campaign.disk --only {trial} --seed {seed}: {wrong}\n{seen.said}"
            for wrong in seen.wrong
        ]
    figures = {"longest leaving (s)": round(leaving, 2), "longest lag of a loop (s)": round(lag, 3)}
    return {
        "trials": counts["trials"],
        "violations": violations,
        "skipped": ", ".join(skipped),
        "counts": counts | figures,
    }


def _count(trial: Trial, seen: Seen, counts: Counter[str]) -> None:
    """Both sides of the balance: what was injected, and what has become of it."""
    counts["trials"] += 1
    counts[f"trials: {trial.what}"] += 1
    if trial.what not in (*SERIES, *LOADS) or not seen.fired:
        return
    counts["trials in which the disk refused"] += 1
    if seen.raised:
        counts["... raised to the program"] += 1
    elif seen.told:
        counts["... told, and tried again with success"] += 1
    elif seen.late:
        counts["... met SQLite closing its files, with all on disk"] += 1
    else:
        counts["... swallowed"] += 1


class _Trials:
    """The trials in their order; a series ends when no fault has fired twice running."""

    def __init__(self, faults: int, seed: int, only: str) -> None:
        self._faults = faults
        self._dice = random.Random(seed)
        self._only = only
        self.fired = True
        """Written by: who does the trials. Whether the last one's fault has met a call."""

    def __iter__(self) -> Iterator[Trial]:
        if self._only:
            yield Trial.named(self._only)
            return
        each = -(-self._faults // (len(SERIES) * len(CASES) * 2))
        for what, case, sticky in product(SERIES, CASES.values(), (False, True)):
            every = self._series(what, case, sticky)
            yield from self._part(what, case, sticky, each) if each else every
        for load in LOADS:
            for _ in range(1 if each else TRIES):
                case = self._dice.choice([*CASES.values()])
                yield from self._part(load, case, self._dice.random() < 0.5, 1)
        yield from self._others(1 if each else None)

    def _others(self, most: int | None) -> Iterator[Trial]:
        for case, n in product(CASES, LEAVING[:most]):
            yield Trial("leaving", case, n)
        if most is None:
            yield Trial("leaving", "eio", 1, sticky=True)
        for seconds in SLOW[:most]:
            yield Trial("slow", n=round(seconds * 1_000))
        for what, size in product(("limited", "full_disk"), ROOM[:most]):
            yield Trial(what, n=size)

    def _series(self, what: str, case: Case, sticky: bool) -> Iterator[Trial]:
        n = quiet = 0
        while quiet < 2:
            n += 1
            yield Trial(what, case.name, n, sticky)
            quiet = 0 if self.fired else quiet + 1

    def _part(self, what: str, case: Case, sticky: bool, size: int) -> Iterator[Trial]:
        most = 25 if case.kind == "fsync" else 130
        for _ in range(size):
            yield Trial(what, case.name, self._dice.randint(1, most), sticky)


def _forked(trial: Trial, seed: int, prepared: Path, path: Path) -> Seen:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            words = json.dumps(asdict(_done(trial, seed, prepared, path)))
            with os.fdopen(writing, "w", encoding="utf-8") as told:
                told.write(words)
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is done again here
    os.close(writing)
    answer, until = b"", time.monotonic() + PATIENCE
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            more = pipe.read(65_536)
            if not more:
                break
            answer += more
        else:
            os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        return Seen(**json.loads(answer))
    except ValueError:
        return Seen(wrong=[f"it has not ended within {PATIENCE:.0f} s, or died"])


def _done(trial: Trial, seed: int, prepared: Path, path: Path) -> Seen:
    if trial.what == "opening":
        return diskfaults.opening(path, CASES[trial.case], trial.n, trial.sticky, seed)
    if trial.what == "full_disk":
        return diskroom.full_disk(path.parent, trial.n, seed)
    shutil.copyfile(prepared, path)
    match trial.what:
        case "under_way":
            return diskfaults.under_way(path, CASES[trial.case], trial.n, trial.sticky, seed)
        case what if what in LOADS:
            case = CASES[trial.case]
            return diskfaults.under_way(path, case, trial.n, trial.sticky, seed, LOADS[what])
        case "leaving":
            return diskfaults.leaving(path, CASES[trial.case], trial.n, trial.sticky, seed)
        case "slow":
            return diskroom.slow(path, trial.n / 1_000, seed)
        case _:
            return diskroom.limited(path, trial.n, seed)


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, or replay one trial; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.disk", description=__doc__)
    parser.add_argument("--faults", type=int, default=0, help="so many only; 0: every call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="one trial, as a violation names it")
    parser.add_argument("--plant", default="", choices=("", *PLANTS))
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.here is not None:
        if given.plant:
            PLANTS[given.plant]()
        told = _here(given.faults, given.seed, given.folder, given.only)
        given.here.write_text(json.dumps(told))
        return 0
    with tempfile.TemporaryDirectory(prefix="stagerun-disk-", dir=scratch()) as folder:
        part = run(
            given.faults or None, given.seed, Path(folder), only=given.only, plant=given.plant
        )
    print(f"{part.trials} trials in {part.seconds:.0f} s, {len(part.violations)} violations")
    print(*(f"{name}: {count}" for name, count in part.counts.items()), sep="\n")
    if part.skipped:
        print(f"skipped: {part.skipped}")
    print(*part.violations, sep="\n")
    return 1 if part.violations else 0


if __name__ == "__main__":
    sys.exit(main())
