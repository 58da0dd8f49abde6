"""Power loss: what could stand on the disk at any moment of a real program's life is opened again.

A program with the shim records each change that it makes to the files of its database, each fsync,
and what it was told (``recording.py``, ``told.py``). At a random cut the files are then made as a
disk may have them: what was synced is there; of what was not, each write is there or not, whole or
in some of its sectors. Whatever was told before the cut must be in them.

``python -m tests.campaign.images --images 20000 --seed 1``
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from stagerun.store.invariants import CHECKS
from stagerun.store.opening import STEPS
from stagerun.store.owner import folder_of
from stagerun.store.page import SIZE
from tests.campaign import diskloads, shim
from tests.campaign.cores import on_all_cores
from tests.campaign.diskloads import LOADS
from tests.campaign.part import Part
from tests.campaign.platter import Platter
from tests.campaign.recording import PLANTS
from tests.campaign.shim import Op
from tests.campaign.told import Told

__all__ = ["main", "run"]

ROOT: Final = Path(__file__).parents[2]
IMAGES_OF_A_RECORDING: Final = 500
WHOLE_CHECKS: Final = 0.1
"""Share of images that get SQLite's integrity_check in place of its quick_check."""
ENGINE: Final = 0.01
"""Share of images on which the real runtime is opened, and all runs are brought to their end."""
_DATABASE: Final = "x.db"


def run(
    images: int, seed: int, folder: Path, *, each: int = IMAGES_OF_A_RECORDING, plant: str = ""
) -> Part:
    """Make and check so many images, *each* of a recording; *plant*: see ``recording.PLANTS``."""
    command, began = f"python -m tests.campaign.images --images {images} --seed {seed}", time.time()
    what = (
        "The writes of a real runtime are recorded, and its files rebuilt as a power loss may leave"
        " them: what was synced, and of the rest a random part, whole or torn at 512 bytes. Each"
        " image is opened: its integrity, its schema, the invariants, and all that was acknowledged"
        " before the cut. On one in a hundred the runtime is opened, and every run brought to the"
        " result of an undisturbed one."
    )
    library = shim.build(folder)
    if library is None:
        return Part(
            name="power loss", what=what, command=command, trials=0, seconds=0.0,
            skipped=shim.unavailable(),
        )  # fmt: skip
    found, counts = list[str](), Counter[str]()
    trials = [Trial(seed, number) for number in range(images)]
    work = partial(_imagined, folder=folder, library=library, plant=plant)
    shares = [trials[first : first + each] for first in range(0, images, each)]
    for wrong, counted in on_all_cores(work, enumerate(shares)):
        found += wrong
        counts += counted
    return Part(
        name="power loss", what=what, command=command, trials=images, violations=tuple(found),
        seconds=time.time() - began, counts=counts,
    )  # fmt: skip


@frozen
class Trial:
    """One image of a recording: everything about it follows from two numbers."""

    seed: int
    number: int

    def dice(self) -> random.Random:
        return random.Random(f"{self.seed} {self.number}")

    def replay(self, log: Path) -> str:
        return (
            f"python -m tests.campaign.images --only {self.number} --seed {self.seed}"
            f" --recording {log}"
        )


def _imagined(
    share: tuple[int, Sequence[Trial]], *, folder: Path, library: Path, plant: str
) -> tuple[list[str], Counter[str]]:
    """Record a program, and check images of it; return what is wrong, and what was counted."""
    number, trials = share
    load, seed = [*LOADS][number % len(LOADS)], trials[0].seed
    log = folder / f"{load}-{seed}-{number}.log"
    counts = Counter({"recordings of a program": 1})
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _record(load, f"{seed} {number}", log, library, plant)
        wrong = list(_checked(log, trials, Path(place), counts))
    if not wrong:
        log.unlink()  # else it is needed to replay
    return wrong, counts


def _record(load: str, seed: str, log: Path, library: Path, plant: str) -> None:
    environment = shim.environment(library) | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(dir=log.parent) as place:
        command = [sys.executable, "-m", "tests.campaign.recording", load, seed]
        done = subprocess.run(
            [*command, f"{place}/{_DATABASE}", str(log), plant],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    if done.returncode:
        raise RuntimeError(f"the load {load} with seed {seed!r} has failed:\n{done.stderr}")


def _checked(
    log: Path, trials: Sequence[Trial], folder: Path, counts: Counter[str]
) -> Iterator[str]:
    """Check the images of one recording, by their cuts, and yield what is wrong with which."""
    record = shim.changes(log.read_bytes())
    changes = [change for change in record if not change.path.endswith("-shm")]
    drawn = [(trial.dice(), trial) for trial in trials]
    cuts = sorted(
        ((dice.randint(1, len(changes)), dice, trial) for dice, trial in drawn),
        key=lambda drawn: drawn[0],
    )
    counts["fsyncs in them"] += sum(change.op is Op.SYNC for change in changes)
    counts["fsyncs that failed in them"] += sum(change.op is Op.FAILED_SYNC for change in changes)
    disk, told, done = Platter(random.Random(trials[0].seed)), Told(), 0
    for cut, dice, trial in cuts:
        for change in changes[done:cut]:
            disk.take(change)
            if change.op is Op.MARK:
                told.hear(json.loads(change.data))
        done = cut
        disk.put(folder, _DATABASE, dice)
        if disk.pending:
            counts["images with writes that were not synced"] += 1
        for wrong in _wrong(folder / _DATABASE, told, dice, counts):
            yield f"{trial.replay(log)}: cut {cut} of {len(changes)}: {wrong}"
    for wrong in told.contradictions:
        yield f"{trials[0].replay(log)}: {wrong}"


# -- the checks -----------------------------------------------------------------------------------


def _wrong(path: Path, told: Told, dice: random.Random, counts: Counter[str]) -> Iterator[str]:
    """Open an image and yield what is wrong with it."""
    counts["images"] += 1
    counts["acknowledgements looked for"] += len(told.statuses) + len(told.sums)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            yield from look(connection, told, whole=dice.random() < WHOLE_CHECKS)
    except sqlite3.Error as error:
        yield f"{type(error).__name__}: {error}"
        return
    if dice.random() < ENGINE:
        counts["opened by the runtime"] += 1
        yield from _finished(path, told)


def look(connection: sqlite3.Connection, told: Told, *, whole: bool) -> Iterator[str]:
    """Yield what is wrong with an open database, and what was told and is not in it."""
    kind = "integrity_check" if whole else "quick_check"
    said = connection.execute(f"PRAGMA {kind}").fetchall()
    if said != [("ok",)]:
        yield f"{kind}: {said[:3]}"
        return
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0:
        if tables or told.opened:
            yield f"there is no schema (tables: {tables}; a runtime was open: {told.opened})"
        return
    if version != STEPS[-1].number:
        yield f"the schema stands at step {version}"
        return
    for check in CHECKS:
        for run_id, words in connection.execute(check.sql):
            yield f"{check.name}: {run_id}: {words}"
    yield from told.missing(connection)


def _finished(path: Path, told: Told) -> Iterator[str]:
    """Have the real runtime go on from here."""
    _owners_files(path)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            yield from trio.run(partial(diskloads.finish, path, started=told.started))
    except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
        yield f"the runtime: {error!r}\n{said.getvalue()}"
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield from look(connection, Told(), whole=True)


def _owners_files(path: Path) -> None:
    """Put the owners' files beside the image, unlocked, as the crashed machine has them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if connection.execute("PRAGMA user_version").fetchone() == (0,):
            return
        folder_of(path).mkdir(mode=0o700)
        for (owner,) in connection.execute(
            "SELECT id FROM owners WHERE ended_at IS NULL"
        ).fetchall():
            file = folder_of(path) / owner
            file.write_bytes(bytes(SIZE))
            status = file.stat()
            connection.execute(
                "UPDATE owners SET device = ?, inode = ? WHERE id = ?",
                (status.st_dev, status.st_ino, owner),
            )


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, or replay one image of a recording that was kept; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.images", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", choices=PLANTS, default="", help="a defect to be found")
    parser.add_argument("--only", type=int, help="the number of an image to replay")
    parser.add_argument("--recording", type=Path, help="... and the kept recording it is made of")
    given = parser.parse_args(arguments)
    if given.only is not None and given.recording is not None:
        trial = Trial(given.seed, given.only)
        with tempfile.TemporaryDirectory(dir=scratch()) as place:
            violations = tuple(_checked(given.recording, [trial], Path(place), Counter()))
    else:
        folder = Path(tempfile.mkdtemp(prefix="stagerun-images-", dir=scratch()))
        part = run(given.images, given.seed, folder, plant=given.plant)
        violations = part.violations
        print(f"{part.trials} images in {part.seconds:.0f} s, {len(violations)} violations")
        print(part.skipped or "\n".join(f"{name}: {count}" for name, count in part.counts.items()))
        if not violations:  # else the recordings are needed to replay them
            shutil.rmtree(folder)
    for violation in violations:
        print(violation)
    return 1 if violations else 0


def scratch() -> Path | None:
    """Return where files are quickest, if there is such a place."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
