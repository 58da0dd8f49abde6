"""The report's incident and a few more, played to `before` and to the pipeline.

    python -m examples.book.incident

1. `before`, while another connection holds the lock of its database at the end.
2. The pipeline, while another connection holds the lock of its database at the end.
3. `before`, killed (-9) in the middle.
4. The pipeline, killed (-9) at the outline, at the plan, at each chapter and at the check.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.request import urlopen

from attrs import frozen

__all__ = [
    "before_behind_a_lock",
    "before_killed",
    "book_behind_a_lock",
    "book_killed_everywhere",
    "models",
    "requests",
]

ROOT: Final = Path(__file__).resolve().parents[2]
PIPELINE: Final = f"{ROOT / 'examples/book/pipeline.py'}:pipeline"
LONGEST: Final = 120.0
"""Seconds that anything here may take."""
PATIENCE: Final = 6.0
"""Seconds that a lock is held: longer than Python's sqlite3 waits for one, which is 5."""
CHAPTERS: Final = 6
"""Of the default outline; one request each, after those for the outline and the plan."""
REQUESTS: Final = ["outline", "plan", *[f"chapter {n + 1}" for n in range(CHAPTERS)], "check"]


def main() -> None:
    with TemporaryDirectory(prefix="book-") as name:
        folder = Path(name)
        print(f"before, behind a lock: {before_behind_a_lock(folder / '1')}", flush=True)
        print(f"the pipeline, behind a lock: {book_behind_a_lock(folder / '2')}", flush=True)
        print(f"before, killed: {before_killed(folder / '3')}", flush=True)
        print(f"the pipeline, killed: {book_killed_everywhere(folder / '4')}", flush=True)


@frozen
class Old:
    """What became of a book of the old kind."""

    written: bool
    """Whether the document is there."""
    status: str
    """What the table says once the lock is gone and the worker idle, or the program is dead."""
    next: str
    """What is said to the one who wants the next book."""


@frozen
class New:
    """What became of a book of the pipeline."""

    written: bool
    status: str
    meanwhile: str
    """What `stagerun show` said under the lock, or after the last kill."""
    generation: int
    requests: int
    """How often the model was asked, of the 9 times that a book takes."""


def before_behind_a_lock(folder: Path) -> Old:
    """Hold the lock from the first chapter on until the worker has nothing more to do."""
    with writing_as_before(folder) as process:
        heard(process, "chapter 1 of 6 is written")
        with locked(folder / "runs.db"):
            heard(process, "the worker waits for the next book")
    return left_behind(folder)


def before_killed(folder: Path) -> Old:
    """Kill the program after the second chapter."""
    with writing_as_before(folder) as process:
        heard(process, "chapter 2 of 6 is written")
    return left_behind(folder)


def left_behind(folder: Path) -> Old:
    """Look at what a program of the old kind has left, and try to start the next book."""
    again = subprocess.run(before(folder), capture_output=True, text=True, check=False, cwd=ROOT)
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        ((status,),) = connection.execute("SELECT status FROM runs").fetchall()
    return Old((folder / "book.md").exists(), status, again.stderr.strip())


def book_behind_a_lock(folder: Path) -> New:
    """Hold the lock while the last answer comes, and for longer than SQLite's usual patience."""
    folder.mkdir()
    with models(delay=1) as address, writing(folder, address) as process:
        until(lambda: requests(address) == len(REQUESTS))
        with locked(folder / "runs.db"):
            until(lambda: documents(folder) != [])
            time.sleep(PATIENCE)
            meanwhile = shown(folder)["status"]
        process.wait(LONGEST)
        return result(folder, address, meanwhile)


def book_killed_everywhere(folder: Path) -> New:
    """Kill at each of the requests to the model; resume, kill at the next one, and so on."""
    folder.mkdir()
    meanwhile = ""
    with models(delay=0.5) as address:
        for kills in range(len(REQUESTS)):
            with writing(folder, address, again=kills > 0) as process:
                # With each kill one answer was lost, and has been asked for again.
                while requests(address) < 2 * kills + 1 and process.poll() is None:
                    time.sleep(0.02)
            meanwhile = shown(folder)["status"]
        with writing(folder, address, again=True) as process:
            process.wait(LONGEST)
        return result(folder, address, meanwhile)


def result(folder: Path, address: str, meanwhile: str) -> New:
    """Look at what became of the pipeline's book."""
    run = shown(folder)
    written, count = bool(documents(folder)), requests(address)
    return New(written, run["status"], meanwhile, run["generation"], count)


def documents(folder: Path) -> list[Path]:
    """Return the documents that are there."""
    return [*folder.glob("books/*/book.md")]


def shown(folder: Path) -> dict[str, Any]:
    """Return the document of the only run."""
    command = [sys.executable, "-m", "stagerun", "show", "latest", "--db", "runs.db", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def before(folder: Path) -> list[str]:
    """Return the command that writes a book as before."""
    return [sys.executable, "-m", "examples.book.before", "--folder", str(folder)]


@contextmanager
def writing_as_before(folder: Path) -> "Iterator[subprocess.Popen[str]]":
    with killed(before(folder), cwd=ROOT) as process:
        yield process


@contextmanager
def writing(
    folder: Path, address: str, *, again: bool = False
) -> "Iterator[subprocess.Popen[str]]":
    """Have the book written in a process; when the block is left that is killed."""
    command = ["resume", "latest"] if again else ["run", PIPELINE]
    whole = [sys.executable, "-m", "stagerun", *command, "--db", "runs.db", "--json"]
    with killed(whole, cwd=folder, env=os.environ | {"MODELS_ADDRESS": address}) as process:
        yield process


@contextmanager
def models(**options: float) -> Iterator[str]:
    """Have the model server in a process; give its address."""
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with killed([sys.executable, "-m", "examples.models.server", *arguments], cwd=ROOT) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]


@contextmanager
def killed(command: list[str], **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """Run a command; kill it, with signal 9, when the block is left."""
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the write lock, as a backup or somebody's shell does."""
    with closing(sqlite3.connect(database, timeout=LONGEST, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def requests(address: str) -> int:
    """Return how often the model was asked."""
    with urlopen(f"{address.removesuffix('/v1')}/requests", timeout=LONGEST) as answer:
        return int(json.load(answer)["requests"])


def heard(process: "subprocess.Popen[str]", line: str) -> None:
    """Wait until a program has said a line."""
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"the program has ended without {line!r}")


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + LONGEST
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {LONGEST:g} s")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
