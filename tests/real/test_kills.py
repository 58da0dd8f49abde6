"""kill -9 at random moments, two processes on one file: nothing is lost, done twice, or left over.

``STAGERUN_KILLS=300 pytest tests/real/test_kills.py`` makes it as long as you like.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from tests.conftest import sums_hold

pytestmark = pytest.mark.real

KILLS = int(os.environ.get("STAGERUN_KILLS", "12"))

PROGRAM = """
    import sys
    import trio
    from stagerun import DROP, Pipeline, Retry, batch, collect, open_runtime, stage

    SIZE = 150

    @stage(workers=3, retry=Retry(attempts=2, base=0.0))
    async def split(n: int, ctx):
        await trio.sleep(0.002)
        for part in range(3):
            yield {"n": n, "part": part}
        if n % 10 == 0 and ctx.attempt == 1:
            raise OSError("comes right the second time")

    @stage(workers=4, key=lambda d: f"{d['n']}/{d['part']}")
    async def check(d: dict):
        await trio.sleep(0.001)
        if d["n"] % 7 == 0:
            raise ValueError("never comes right")
        if d["n"] % 5 == 0:
            return DROP
        return d

    @batch(size=8, wait=0.02, workers=2)
    async def embed(ds: list[dict]):
        await trio.sleep(0.004)
        return [{**d, "vector": d["n"] * 3 + d["part"]} for d in ds]

    @collect(by=lambda d: d["part"])
    async def total(members):
        return sum([m.value["vector"] async for m in members if m.ok])

    pipeline = Pipeline(
        "kills", [split, check, embed, total], source=lambda: range(1, SIZE + 1),
        on_interrupt="resume", resumes=100_000,
    )

    async def main():
        async with open_runtime(sys.argv[1], pipelines=[pipeline]) as runtime:
            for key in sys.argv[2:]:
                run = await runtime.start(pipeline, key=key)  # here, or in the other process
                await run.wait()
            await trio.sleep(0.2)

    trio.run(main)
"""


def expected() -> list[int]:
    kept = [n for n in range(1, 151) if n % 7 and n % 5]
    return sorted(sum(n * 3 + part for n in kept) for part in range(3))


def test_runs_survive_kills_at_random_moments(tmp_path: Path) -> None:
    program, database = tmp_path / "program.py", tmp_path / "runs.db"
    program.write_text(textwrap.dedent(PROGRAM))
    seed = int(os.environ.get("STAGERUN_SEED", str(random.randrange(10**6))))
    dice, kills = random.Random(seed), 0
    command = [sys.executable, str(program), str(database)]
    rounds = 0
    while kills < KILLS:
        keys = [f"{rounds}-a", f"{rounds}-b"]
        rounds += 1
        while not finished(database, keys) and kills < 10 * KILLS:
            with (
                TemporaryFile() as errors,
                TemporaryFile() as more_errors,
                subprocess.Popen([*command, *keys], stderr=errors) as one,
                subprocess.Popen([*command, *keys[::-1]], stderr=more_errors) as two,
            ):
                spare_both = kills >= KILLS
                for process in (one, two):
                    if not spare_both and dice.random() < 0.7:
                        time.sleep(dice.uniform(0.0, 0.6))
                        if process.poll() is None:
                            process.send_signal(signal.SIGKILL)
                            kills += 1
                for process, file in ((one, errors), (two, more_errors)):
                    process.wait(60)
                    file.seek(0)
                    said = file.read().decode()
                    assert process.returncode in (0, -signal.SIGKILL), f"seed {seed}: {said}"
            if database.exists():
                check(database, f"seed {seed}, after {kills} kills")
        results(database, keys, seed)
    print(f"seed {seed}: {kills} kills, {rounds} rounds of two runs")


def finished(database: Path, keys: list[str]) -> bool:
    found = rows(
        database,
        "SELECT g.status FROM runs r JOIN generations g USING (run, generation)"
        f" WHERE r.request_key IN ({','.join('?' * len(keys))})",
        *keys,
    )
    statuses = [status for (status,) in found]
    assert {*statuses} <= {"queued", "running", "interrupted", "succeeded"}, statuses
    return statuses == ["succeeded"] * len(keys)


def rows(database: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            return []
        return connection.execute(sql, parameters).fetchall()


def check(database: Path, where: str) -> None:
    """Check the file: whole, sums right, and no outcome that was final given again."""
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            return  # killed before there was a schema
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], where
        sums_hold(connection)
        twice = connection.execute(
            "SELECT run, stage, item, group_concat(outcome) FROM items WHERE outcome IN (0, 4)"
            " GROUP BY run, stage, item HAVING count(*) > 1"
        ).fetchall()
        assert not twice, f"{where}: final outcomes that were executed again: {twice[:5]}"
        gaps = connection.execute(
            "SELECT r.run FROM runs r JOIN events e USING (run) GROUP BY r.run"
            " HAVING max(e.seq) != r.events"
        ).fetchall()
        assert not gaps, where


def results(database: Path, keys: list[str], seed: int) -> None:
    """Check that both runs came out as one that was never killed."""
    for key in keys:
        ((run, id_),) = rows(database, "SELECT run, id FROM runs WHERE request_key = ?", key)
        crashed = rows(database, "SELECT stage, item FROM items WHERE run = ? AND outcome = 5", run)
        assert not crashed, f"seed {seed}: condemned by kills alone: {crashed}"
        shown = subprocess.run(
            [sys.executable, "-m", "stagerun", "show", id_, "--db", str(database), "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert '"status": "succeeded"' in shown.stdout or '"status":"succeeded"' in shown.stdout
        found = rows(
            database,
            "SELECT hex(result) FROM items i WHERE run = ? AND stage = 3 AND outcome = 0"
            " AND NOT EXISTS (SELECT 1 FROM superseded s WHERE s.run = i.run AND s.stage = 3"
            " AND s.item = i.item)",
            run,
        )
        import msgspec

        values = sorted(msgspec.msgpack.decode(bytes.fromhex(value)) for (value,) in found)
        assert values == expected(), f"seed {seed}, run {id_}"
