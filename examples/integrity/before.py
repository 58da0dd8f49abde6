"""The incident: scheduled checks in background threads, through a client without a timeout.

    python -m examples.integrity.before
    python -m examples.integrity.before --fix

It is written as such services are, without stagerun: each tick starts a daemon thread, a row in
SQLite says how its run stands. One page of the site is never answered. Without --fix the runs pile
up in status `running`. With --fix, a ThreadPoolExecutor around the call as the team's own report
recommends, the rows say `timeout`, but each run still waits for its hung thread where the `with`
block ends, and so does the whole program when it should leave.

SIGTERM or Ctrl-C asks it to leave.
"""

import argparse
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

from examples.integrity.files import Row, state_of
from examples.integrity.vendor import PAGE_SIZE, list_entities, read_page

TABLE = """CREATE TABLE IF NOT EXISTS integrity_runs(
    id TEXT PRIMARY KEY, status TEXT NOT NULL, step TEXT, result TEXT, error_message TEXT,
    created_at TEXT NOT NULL, finished_at TEXT)"""

logger = logging.getLogger("integrity")


class IntegrityRunner:
    """Checks all entities of a site in one run, and keeps a row about it."""

    def __init__(self, address: str, database: str, most_seconds: float | None) -> None:
        self._address = address
        self._database = database
        self._most_seconds = most_seconds
        self._execute(TABLE)

    def run_integrity_check(self) -> None:
        run = uuid.uuid4().hex
        insert = "INSERT INTO integrity_runs(id, status, created_at) VALUES (?, 'running', ?)"
        self._execute(insert, run, now())
        try:
            if self._most_seconds is None:
                result = self._run_check_logic(run)
            else:
                result = self._run_with_timeout(run, self._most_seconds)
        except TimeoutError as error:
            self._finish(run, "timeout", error_message=str(error))
            logger.exception("run %s has left after its timeout", run)
        except Exception as error:
            self._finish(run, "error", error_message=str(error))
            logger.exception("run %s failed", run)
        else:
            self._finish(run, "success", result=json.dumps(result))

    def _run_with_timeout(self, run: str, seconds: float) -> Any:
        """The fix of the report: wait for the result for so long, then mark the row."""
        with ThreadPoolExecutor(max_workers=1) as executor:
            future = executor.submit(self._run_check_logic, run)
            try:
                return future.result(timeout=seconds)
            except TimeoutError:
                logger.warning("run %s timed out", run)
                self._finish(run, "timeout", error_message=f"longer than {seconds} s")
                raise

    def _run_check_logic(self, run: str) -> dict[str, dict[str, int]]:
        records = self._fetch_records(run)
        self._step(run, "Checking records")
        return {name: self._check(records[name]) for name in records}

    def _fetch_records(self, run: str) -> dict[str, list[dict[str, Any]]]:
        fetched = {}
        for entity in list_entities(self._address):
            name = entity["name"]
            self._step(run, f"Fetching {name} records")
            pages = range(ceil(entity["records"] / PAGE_SIZE))
            answers = [read_page(self._address, name, number) for number in pages]
            fetched[name] = [record for answer in answers for record in answer["records"]]
        return fetched

    def _check(self, records: list[dict[str, Any]]) -> dict[str, int]:
        rows = [Row(record["path"], record["size"], record["sha256"]) for record in records]
        return Counter("without_hash" if row.sha256 is None else state_of(row) for row in rows)

    def _step(self, run: str, step: str) -> None:
        self._execute("UPDATE integrity_runs SET step = ? WHERE id = ?", step, run)

    def _finish(self, run: str, status: str, result: str = "", error_message: str = "") -> None:
        update = """UPDATE integrity_runs
            SET status = ?, result = ?, error_message = ?, finished_at = ?
            WHERE id = ? AND status = 'running'"""
        self._execute(update, status, result, error_message, now(), run)

    def statuses(self) -> dict[str, int]:
        query = "SELECT status, count(*) FROM integrity_runs GROUP BY status"
        return dict(self._execute(query))

    def _execute(self, statement: str, *values: str) -> list[Any]:
        with closing(sqlite3.connect(self._database, timeout=30)) as connection, connection:
            return connection.execute(statement, values).fetchall()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    options = parser().parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    socket.setdefaulttimeout(options.socket_timeout)
    most_seconds = options.max_run_duration if options.fix else None
    runner = IntegrityRunner(options.address or own_site(), options.db, most_seconds)
    try:
        for _ in range(options.runs):
            threading.Thread(target=runner.run_integrity_check, daemon=True).start()
            wait(runner, options.every)
        wait(runner, options.watch)
    except KeyboardInterrupt:
        pass
    print("leaving:", line(runner), flush=True)


def wait(runner: IntegrityRunner, seconds: float) -> None:
    time.sleep(seconds)
    print(line(runner), flush=True)


def line(runner: IntegrityRunner) -> str:
    counts = (f"{count} {status}" for status, count in sorted(runner.statuses().items()))
    return f"{', '.join(counts)}; {threading.active_count() - 1} threads"


def own_site() -> str:
    """Start the site of this example. It ends with this process, and not before."""
    service = Path(__file__).with_name("service.py")
    command = [sys.executable, str(service), "--until-stdin-closes", "--entities=4"]
    command += ["--records=2500", "--hang=1"]
    theirs, _ours = os.pipe()  # nobody closes our end: a number of the system, no object of Python
    site = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    assert site.stdout is not None
    address: str = json.loads(site.stdout.readline())["address"]
    return address


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--address", help="a site (one of its own, of 40 pages, one of which is never answered)")
    add("--db", default="before.db", help="the file of the rows (before.db)")
    add("--runs", type=int, default=5, help="so many runs (5)")
    add("--every", type=float, default=2, help="seconds from one to the next (2)")
    add("--watch", type=float, default=4, help="seconds to go on after the last one (4)")
    add("--fix", action="store_true", help="the report's fix: a ThreadPoolExecutor with a timeout")
    add("--max-run-duration", type=float, default=3, help="seconds; with --fix (3)")
    add("--socket-timeout", type=float, help="seconds; the report's other fix (none)")
    return parser


if __name__ == "__main__":
    main()
