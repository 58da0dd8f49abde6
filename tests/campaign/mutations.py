"""Random damage: bytes of a sound database are changed, and it is read, examined and written to.

What SQLite does not see cannot be seen; what it sees must come out as a ``StoreError``, or as a
finding of the doctor, and never as anything else.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from stagerun import StoreError, open_runtime
from stagerun.cli.main import call
from stagerun.errors import StagerunError
from stagerun.store.doctor import examine
from stagerun.store.opening import connect
from tests.campaign.crowdruns import EXECUTED, brief, hung, steady, tiny
from tests.campaign.part import Part
from tests.campaign.rounds import Rounds

__all__ = ["main", "replay", "run"]

OF_A_BATCH: Final = 50
_LONGEST: Final = 20
"""Seconds after which a mutated file has hung its program."""


def run(mutated: int, seed: int, folder: Path) -> Part:
    """Try so many mutations, in batches that each have an interpreter of their own."""
    began, played = time.monotonic(), Rounds("mutations", seed, folder)
    played.play(range(-(-mutated // OF_A_BATCH)))
    return Part(
        name="mutations",
        what="Bytes of a database are changed at random.",
        command=f"python -m tests.campaign.files --rounds {mutated} --seed {seed}",
        trials=mutated,
        violations=tuple(played.violations),
        seconds=time.monotonic() - began,
        counts=played.figures(),
    )


def replay(number: int, seed: int, folder: Path) -> tuple[str, ...]:
    """Try one mutation again."""
    os.environ[EXECUTED] = "2"
    sound = _sound(folder)
    return tuple(_tried(number, seed, sound, folder)["violations"])


def _sound(folder: Path) -> Path:
    """Make a database with runs that ended in several ways, and a log that is not empty."""
    path = folder / "sound.db"

    async def fill() -> None:
        async with open_runtime(path) as runtime:
            for pipeline, items in ((steady, 40), (brief, 6), (tiny, 1)):
                await (await runtime.start(pipeline, list(range(1, items + 1)))).wait()
            run_ = await runtime.start(hung, [1])
            await run_.cancel("enough")

    trio.run(fill)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE runs SET target = 'tests.campaign.crowdruns:steady'")
        for each in ("", "-wal"):
            shutil.copy(f"{path}{each}", folder / f"kept.db{each}")
    return folder / "kept.db"


def _tried(number: int, seed: int, sound: Path, folder: Path) -> dict[str, Any]:
    """Try one mutation in a forked child, which it may kill."""
    place = folder / f"mutation-{number}"
    place.mkdir()
    path = place / "x.db"
    for each in ("", "-wal"):
        shutil.copy(f"{sound}{each}", f"{path}{each}")
    dice = random.Random(f"{seed} {number}")
    what = _mutate(path, dice)
    before = path.stat().st_ino
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(_LONGEST)
        found, counts = _meet(path)
        os.write(write, json.dumps([found, counts]).encode()[-60_000:])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    words = f"python -m tests.campaign.files --only {number} --seed {seed}: {what}: "
    violations, counts = [], {}
    if status:
        violations.append(f"the program died: {os.waitstatus_to_exitcode(status)}")
    else:
        violations, counts = json.loads(said)
    if not path.exists() or path.stat().st_ino != before:
        violations.append("the file is gone, or another")
    shutil.rmtree(place)
    return {"violations": [words + each for each in violations], "counts": counts, "took": {}}


# -- damage ---------------------------------------------------------------------------------------


def _mutate(path: Path, dice: random.Random) -> str:
    """Change the file, or its log, in one way; say which."""
    target = path if dice.random() < 0.8 else path.with_name(f"{path.name}-wal")
    data = bytearray(target.read_bytes())
    way = dice.choice([_flip, _flip, _noise, _zeros, _cut, _swap, _header, _text])
    what = way(data, dice)
    target.write_bytes(data)
    return f"{target.suffix}: {what}"


def _flip(data: bytearray, dice: random.Random) -> str:
    places = [dice.randrange(len(data)) for _ in range(dice.choice([1, 1, 4, 32]))]
    for place in places:
        data[place] ^= 1 << dice.randrange(8)
    return f"bits flipped in {places[:4]}"


def _noise(data: bytearray, dice: random.Random) -> str:
    at, size = dice.randrange(len(data)), dice.choice([1, 16, 512, 4096])
    data[at : at + size] = dice.randbytes(size)
    return f"{size} bytes of noise at {at}"


def _zeros(data: bytearray, dice: random.Random) -> str:
    at, size = dice.randrange(len(data)), dice.choice([4, 512, 4096])
    data[at : at + size] = bytes(size)
    return f"{size} zeros at {at}"


def _cut(data: bytearray, dice: random.Random) -> str:
    size = dice.randrange(len(data))
    del data[size:]
    return f"cut to {size} bytes"


def _swap(data: bytearray, dice: random.Random) -> str:
    one, two = (dice.randrange(max(1, len(data) // 4096)) * 4096 for _ in range(2))
    data[one : one + 4096], data[two : two + 4096] = (
        data[two : two + 4096],
        data[one : one + 4096],
    )
    return f"pages at {one} and {two} changed places"


def _header(data: bytearray, dice: random.Random) -> str:
    at = dice.randrange(min(100, len(data)))
    data[at] = dice.randrange(256)
    return f"byte {at} of the header is {data[at]}"


def _text(data: bytearray, dice: random.Random) -> str:
    """Change letters of a word that the program knows: what a CHECK would not have let in."""
    word = dice.choice([b"succeeded", b"cancelled", b"steady", b"stored", b"each", b"walk", b"run"])
    places, at = list[int](), data.find(word)
    while at >= 0:
        places.append(at)
        at = data.find(word, at + 1)
    if not places:
        return _flip(data, dice)
    at = dice.choice(places)
    data[at + dice.randrange(len(word))] = dice.choice(b"\x00\xff!zZ")
    return f"a letter of {word!r} at {at}"


# -- what a program makes of it -------------------------------------------------------------------


def _meet(path: Path) -> tuple[list[str], dict[str, int]]:
    """Read it, examine it and write to it; return what is wrong, and counts."""
    damaged = _is_damaged(path)
    found: list[str] = []
    counts = {"mutations": 1, "of them damaged, as SQLite says": int(damaged)}
    silence = io.StringIO()
    with redirect_stderr(silence), Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        for words in (
            ["runs"],
            ["show", "latest"],
            ["stats", "steady"],
            ["owners"],
            ["logs", "la"],
        ):
            _guarded(f"stagerun {words[0]}", partial(_call, words, path), found)
        sound = _guarded("the doctor", lambda: examine(path).sound, found)
        if damaged and sound:
            found.append("the doctor finds it sound")
        refused = not _guarded("the runtime", partial(_write, path), found)
    counts["refused by the runtime"] = int(refused)
    counts["damaged, and written to where it is not"] = int(damaged and not refused)
    return found, counts


def _is_damaged(path: Path) -> bool:
    """Ask SQLite itself, of a copy."""
    copy = path.with_name("copy.db")
    for each in ("", "-wal"):
        shutil.copy(f"{path}{each}", f"{copy}{each}")
    try:
        with closing(sqlite3.connect(copy)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
    except sqlite3.Error:
        return True


def _guarded(who: str, deed: Callable[[], bool], found: list[str]) -> bool:
    """Do it; what it raises that is no sentence for people is a finding."""
    try:
        return deed()
    except StagerunError:
        return False
    except BaseException:  # noqa: BLE001 - that is what is looked for
        found.append(f"{who}: {traceback.format_exc()[-1200:]}")
        return False


def _call(words: Sequence[str], path: Path) -> bool:
    return call([*words, "--db", str(path), "--json"]) == 0


def _write(path: Path) -> bool:
    async def main() -> None:
        async with open_runtime(path) as runtime:
            with trio.fail_after(_LONGEST - 5):
                await (await runtime.start(tiny, [1])).wait()

    connect(path, patience=0.0).close()
    lost = False
    try:
        trio.run(main)
    except* StoreError:
        lost = True
    return not lost


# -- a batch, in an interpreter of its own --------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutations of one batch, and print a report."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.mutations")
    parser.add_argument("--only", type=int, required=True, help="the number of the batch")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--plant", default="")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    os.environ[EXECUTED] = str(os.open(given.folder / "executed", os.O_WRONLY | os.O_CREAT, 0o600))
    sound = _sound(given.folder)
    report: dict[str, Any] = {"violations": [], "counts": {}, "took": {}}
    for number in range(given.only * OF_A_BATCH, (given.only + 1) * OF_A_BATCH):
        tried = _tried(number, given.seed, sound, given.folder)
        report["violations"] += tried["violations"]
        for name, count in tried["counts"].items():
            report["counts"][name] = report["counts"].get(name, 0) + count
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
