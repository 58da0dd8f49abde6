"""A program is cancelled around its runtime while items time out: its runs are interrupted."""

from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.store.opening import read_only

pytestmark = pytest.mark.real


@stage(workers=4, deadline=0.05)
async def slow_at_times(number: int) -> int:
    await trio.sleep(10 if number % 2 else 0.01)
    return number


async def test_a_run_of_a_cancelled_program_is_interrupted_and_nothing_has_failed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    with trio.CancelScope() as program:
        async with open_runtime(path) as runtime:
            await runtime.start(Pipeline("slow", [slow_at_times]), range(10_000))
            await trio.sleep(0.1)
            program.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)  # its own orderly ending: items time out meanwhile
    connection = read_only(path)
    try:
        query = "SELECT status, cause, message FROM generations"
        ((status, cause, message),) = connection.execute(query).fetchall()
    finally:
        connection.close()
    assert (status, cause) == ("interrupted", "shutdown"), message
