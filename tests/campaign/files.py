"""Files that go bad: a table of faults with what must come of each, and random damage.

Each fault is met by the library and by the command line, before the opening (``AT_THE_OPENING``) or
while a program writes (``UNDER_WAY`` in ``filefaults.py``). Then bytes of a sound database are
changed at random (``mutations.py``).

``python -m tests.campaign.files --rounds 500 --seed 1``; ``--only 'it is garbage'`` replays one
row, ``--only 37`` one mutation.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from tests.campaign import mutations
from tests.campaign.filefaults import AT_THE_OPENING, UNDER_WAY, Opening, UnderWay
from tests.campaign.images import look
from tests.campaign.part import Part
from tests.campaign.rounds import ROOT, importing
from tests.campaign.told import Told

__all__ = ["main", "run"]

_NOTICED: Final = 1.0
"""Seconds after which a file that is gone is noticed."""
_LONGEST: Final = 60.0
_AT_ONCE: Final = 3


def run(rounds: int, seed: int, folder: Path) -> Part:
    """Meet each fault of the table once, and so many mutations."""
    began, found, counts = time.monotonic(), list[str](), Counter[str]()
    rows, skipped = list[Opening | UnderWay](), list[str]()
    for row in (*AT_THE_OPENING, *UNDER_WAY):
        if reason := unavailable(row):
            skipped.append(f"{row.name}: {reason}")
        else:
            rows.append(row)
    _prepare(folder)
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # most of them wait
        for violations in pool.map(partial(row_violations, folder=folder), rows):
            found += violations
            counts["rows of the table"] += 1
    mutated = mutations.run(rounds, seed, folder)
    return Part(
        name="files",
        what=(
            "Each fault of a table is met by the library and the command line: what they say, how"
            " soon, their exit status, and that a refused file is kept byte for byte; under way,"
            " that nothing is acknowledged which is not in a file. Then bytes of sound databases"
            " are changed at random and read, examined and written to: never anything but a"
            " StoreError, never a file that is gone."
        ),
        command=f"python -m tests.campaign.files --rounds {rounds} --seed {seed}",
        trials=counts["rows of the table"] + rounds,
        violations=(*found, *mutated.violations),
        skipped="; ".join(skipped),
        seconds=time.monotonic() - began,
        counts={**counts, **mutated.counts},
    )


def unavailable(row: Opening | UnderWay) -> str:
    """Say why a row cannot be met here; an empty text when it can."""
    if not isinstance(row, Opening):
        return ""
    if row.nobody and os.geteuid():
        return "only root can become another user"
    if "disk is full" in row.name:
        mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]
        with tempfile.TemporaryDirectory() as place:
            if os.geteuid() or shutil.which("mount") is None:
                return "no file system can be mounted here"
            if subprocess.run([*mounted, place], check=False, capture_output=True).returncode:
                return "no file system can be mounted here"
            subprocess.run(["umount", "--lazy", place], check=True)
    return ""


def row_violations(row: Opening | UnderWay, folder: Path) -> list[str]:
    """Meet one fault; return what came of it that should not."""
    found, sound = list[str](), _prepare(folder)
    for deed in ("use", "command") if isinstance(row, Opening) else ("live",):
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
            Path(place).chmod(0o755)
            path = Path(place) / "there" / "x.db"
            shutil.copytree(sound, path.parent)
            if isinstance(row, Opening):
                found += _opened(row, path, deed)
            else:
                found += _under_way(row, path)
    return [f"python -m tests.campaign.files --only {row.name!r}: {each}" for each in found]


def _prepare(folder: Path) -> Path:
    """Make a database with a run in it, if it is not there yet; return its folder."""
    sound = folder / "sound"
    if not sound.exists():
        sound.mkdir()
        done = _child("use", sound / "x.db")
        if "succeeded" not in done.stdout:
            raise RuntimeError(f"no database could be made: {done.stdout}{done.stderr}")
    return sound


def _child(deed: str, path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.campaign.filechild", deed, str(path), *more],
        cwd=ROOT,
        env={**os.environ, **importing(), "CAMPAIGN_EXECUTED": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LONGEST,
    )


# -- before the opening ---------------------------------------------------------------------------


def _opened(row: Opening, path: Path, deed: str) -> Iterator[str]:
    row.make(path)
    before = _prints(path)
    try:
        done = _child(deed, path, *(["nobody"] if row.nobody else []))
        after = _prints(path)
    finally:
        row.undo(path)
    if deed == "use":
        yield from _as_library(row, done)
    else:
        yield from _as_command(row, done)
    if before is not None and after is None:
        yield f"by {deed}: the file is gone"
    if row.says and not row.changes and before != after:
        yield f"by {deed}: the refused file was changed"
    if not row.says:
        found = _looked_at(path, Told())
        yield from (each for each in found if not (row.newer and "schema stands" in each))


def _as_library(row: Opening, done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    *_, last = [json.loads(line) for line in done.stdout.splitlines()] or [[0, "nothing"]]
    if done.returncode or "Traceback" in done.stderr:
        yield f"the library ended with {done.returncode}: {done.stderr[-800:]}"
    elif not row.says:
        if last[1] != "ended" or last[-1] != "succeeded":
            yield f"the library came to {last[1:]}"
    elif last[1] != "raised" or last[2] != "StoreError" or not re.search(row.says, last[3]):
        yield f"the library came to {last[1:]}, not to a StoreError that says {row.says!r}"
    elif last[4] > row.within:
        yield f"the library took {last[4]:.1f} s to refuse it"


def _as_command(row: Opening, done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    said = done.stderr.strip()
    if "Traceback" in said:
        yield f"the command gave a traceback: {said[-800:]}"
    elif done.returncode != (2 if row.says else 0):
        yield f"the command ended with {done.returncode}: {said[-800:]}"
    elif row.says and not re.search(row.says, said):
        yield f"the command said {said[-800:]!r}, and not {row.says!r}"
    elif row.says and not row.changes and len(said.splitlines()) > 1:
        yield f"the command said more than a line: {said[-800:]!r}"


def _looked_at(path: Path, told: Told) -> Iterator[str]:
    try:
        with closing(sqlite3.connect(path)) as connection:
            yield from look(connection, told, whole=True)
    except sqlite3.Error as error:
        yield f"SQLite says {error}"


def _prints(path: Path) -> str | None:
    """Return what tells one content of the file from another; None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except IsADirectoryError:
        return "a folder"
    except OSError:
        return str(path.readlink()) if path.is_symlink() else None


# -- under way ------------------------------------------------------------------------------------


def _under_way(row: UnderWay, path: Path) -> Iterator[str]:
    done, harmed_at = _harmed(row, path)
    said = [json.loads(line) for line in done.stdout.decode().splitlines()]
    told, after, raised = Told(opened=True), 0, ""
    for at, *words in said:
        if words[0] == "raised":
            raised = words[2]
        elif words[0] != "opened":
            told.hear(words)
            after += at > harmed_at + _NOTICED
    errors = done.stderr.decode()
    if done.returncode or "Traceback" in errors:
        yield f"the program ended with {done.returncode}: {errors[-1500:]}"
    if row.says:
        if not re.search(row.says, raised):
            yield f"the program was told {raised!r}, and not {row.says!r}"
        if after:
            yield f"{after} acknowledgements came later than {_NOTICED} s after that"
        kept = path.with_name("kept.db")  # by other names: whatever was acknowledged is in there
    else:
        if raised:
            yield f"the program was told {raised!r}"
        if not after:
            yield "the program was told nothing more"
        kept = path
        yield from _next_start(path)
    yield from (f"in the file: {each}" for each in _looked_at(kept, told))


def _harmed(row: UnderWay, path: Path) -> tuple[subprocess.CompletedProcess[bytes], float]:
    """Have a program write, harm its file, and wait for its end, or for three more seconds."""
    out, errors = path.with_name("said"), path.with_name("errors")
    command = [sys.executable, "-m", "tests.campaign.filechild", "live", str(path)]
    environment = {**os.environ, **importing(), "CAMPAIGN_EXECUTED": "2"}
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        program = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)
    try:
        until = time.monotonic() + _LONGEST
        while out.read_bytes().count(b'"ended"') < 5 and time.monotonic() < until:
            time.sleep(0.02)
        for each in ("", "-wal", "-shm"):
            os.link(f"{path}{each}", f"{path.with_name('kept.db')}{each}")
        row.harm(path)
        harmed_at = time.monotonic()
        try:
            program.wait(10.0 if row.says else 3.0)
        except subprocess.TimeoutExpired:
            program.terminate()
        status = program.wait(_LONGEST)
    finally:
        program.kill()
        program.wait()
    said = subprocess.CompletedProcess(command, status, out.read_bytes(), errors.read_bytes())
    return said, harmed_at


def _next_start(path: Path) -> Iterator[str]:
    """Yield what the next program leaves unsettled."""
    done = _child("use", path)
    if "succeeded" not in done.stdout:
        yield f"the next program came to {done.stdout}{done.stderr[-800:]}"
    with closing(sqlite3.connect(path)) as connection:
        left = connection.execute(
            "SELECT count(*) FROM generations WHERE finished_at IS NULL"
        ).fetchone()
        if left != (0,):
            yield f"after the next start {left[0]} runs have not ended"


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, or replay one trial; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="mutations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="the name of a row, or the number of a mutation")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="stagerun-files-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        rows = [row for row in (*AT_THE_OPENING, *UNDER_WAY) if row.name == given.only]
        if given.only is None:
            part = run(given.rounds, given.seed, folder)
            violations = part.violations
            print(
                f"{part.trials} trials in {part.seconds:.0f} s; skipped: {part.skipped or 'none'}"
            )
            print(*(f"{name}: {value}" for name, value in part.counts.items()), sep="\n")
        elif rows:
            violations = tuple(row_violations(rows[0], folder))
        else:
            violations = mutations.replay(int(given.only), given.seed, folder)
    print(*violations, sep="\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
