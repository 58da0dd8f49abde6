"""How the team of the report wrote books: a worker thread, and a table that says how runs stand.

    python -m examples.book.before --folder before

It writes the chapters of the outline, puts the book together, and shows the run's status until it
is `completed` or `failed`. While a row says `running` no other run can be started. Two things make
that row say so for ever, and README.md shows both: the worker is killed in the middle, or another
connection holds the database's lock while the last line of the work is written.

There is no model in it, nor stagerun: chapters are made of the outline's own words.
"""

import argparse
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from queue import Queue

from examples.book import outlines
from examples.book.outlines import Outline

RUNS = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued',
    started_at REAL,
    finished_at REAL
)
"""


def main() -> None:
    options = _parser().parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    database = options.folder / "runs.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(RUNS)
    if status := status_of_the_last(database):
        sys.exit(f"a book is {status} already: wait until it is done")
    worker = Worker(database, options.folder, options.pace)
    worker.start()
    number = worker.order(outlines.read(options.outline)[0])
    show_until_done(database, number)


def status_of_the_last(database: Path) -> str | None:
    """Return how the run stands that keeps others from being started; None: there is none."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT status FROM runs WHERE status IN ('queued', 'running')"
        row = connection.execute(query).fetchone()
    return row and str(row[0])


def show_until_done(database: Path, number: int) -> None:
    """Poll the table, as the page in the browser does, and print each change."""
    shown = ""
    while shown not in {"completed", "failed"}:
        with closing(sqlite3.connect(database)) as connection:
            query = "SELECT status FROM runs WHERE id = ?"
            (status,) = connection.execute(query, [number]).fetchone()
        if status != shown:
            print(f"run {number} is {status}", flush=True)
            shown = status
        time.sleep(0.1)


class Worker(threading.Thread):
    """Writes one book after the other."""

    def __init__(self, database: Path, folder: Path, pace: float) -> None:
        super().__init__(daemon=True)
        self.database = database
        self.folder = folder
        self.pace = pace
        self.orders: Queue[tuple[int, Outline]] = Queue()

    def order(self, outline: Outline) -> int:
        """Put a book into the queue; return its run's number."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            row = connection.execute("INSERT INTO runs (title) VALUES (?)", [outline.title])
        assert row.lastrowid is not None
        self.orders.put((row.lastrowid, outline))
        return row.lastrowid

    def run(self) -> None:
        while True:
            number, outline = self.orders.get()
            self.generate_book(number, outline)
            print("the worker waits for the next book", flush=True)

    def generate_book(self, number: int, outline: Outline) -> None:
        self.update(number, "running", "started_at")
        status = "failed"
        try:
            self.write_book(outline)
            status = "completed"
        finally:
            try:  # noqa: SIM105 - written as it was
                self.update(number, status, "finished_at")
            except:  # noqa: E722 - the flaw of the report: nobody hears of it
                pass

    def update(self, number: int, status: str, when: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            query = f"UPDATE runs SET status = ?, {when} = ? WHERE id = ?"
            connection.execute(query, [status, time.time(), number])

    def write_book(self, outline: Outline) -> None:
        parts = [f"# {outline.title}", outline.premise]
        for number, chapter in enumerate(outline.chapters, 1):
            time.sleep(self.pace)  # here the model would write
            parts += [f"## {number}. {chapter.title}", chapter.events]
            print(f"chapter {number} of {len(outline.chapters)} is written", flush=True)
        (self.folder / "book.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print("book.md is written", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.book.before",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--outline", type=Path, default=Path(__file__).parent / "outline.md")
    add("--folder", type=Path, default=Path("before"), help="of runs.db and book.md (before)")
    add("--pace", type=float, default=0.2, help="seconds for a chapter (0.2)")
    return parser


if __name__ == "__main__":
    main()
