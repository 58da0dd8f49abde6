"""`python -m examples.integrity.before` as a process, for the tests of that example."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

ROOT = Path(__file__).parents[2]


@frozen
class Before:
    process: trio.Process
    folder: Path

    def rows(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.folder / "before.db")) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM integrity_runs")]

    def statuses(self) -> list[str]:
        return sorted(row["status"] for row in self.rows())

    def said(self) -> str:
        return (self.folder / "before.txt").read_text()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def before(
    folder: Path, address: str, *flags: str, **options: float
) -> AsyncGenerator[Before]:
    """Run it inside the block; it has made its table by then."""
    database = folder / "before.db"
    command = [sys.executable, "-m", "examples.integrity.before", "--address", address, *flags]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with (folder / "before.txt").open("wb") as said:
        process = await trio.lowlevel.open_process(
            [*command, "--db", str(database)], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )
    try:
        await until(lambda: database.exists() and database.stat().st_size > 0)
        yield Before(process, folder)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def until(condition: Callable[[], Any], most: float = 60) -> None:
    with trio.fail_after(most):
        while not condition():  # noqa: ASYNC110 - it looks at another process
            await trio.sleep(0.02)
