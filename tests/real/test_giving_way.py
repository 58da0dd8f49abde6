"""A stage that computes in small steps keeps nothing from the disk."""

import math
import sqlite3
import time
from pathlib import Path
from typing import cast

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.engine.env import Env
from stagerun.engine.giving_way import MOMENT, SHORT_TURN, TURN, GivingWay
from stagerun.store.demand import Announcing, Demand


async def test_a_stage_that_computes_and_lets_others_run_does_not_starve_the_store(
    tmp_path: Path,
) -> None:
    over, begun, all_begun = False, list[int](), trio.Event()

    @stage(deadline=None, workers=4)
    async def compute(number: int) -> None:
        begun.append(number)
        if len(begun) == 4:
            all_begun.set()
        while not over:
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    @stage
    async def double(n: int) -> int:
        return 2 * n

    async with open_runtime(tmp_path / "runs.db") as runtime:
        busy = await runtime.start(Pipeline("busy", [compute], deadline=None), range(4))
        with trio.fail_after(60):
            await all_begun.wait()
            for _ in range(20):  # each start and each ending is a commit that somebody waits for
                run = await runtime.start(Pipeline("beside", [double]), range(100))
                assert (await run.wait()).status == "succeeded"
        over = True
        assert (await busy.wait()).status == "succeeded"


@pytest.mark.parametrize(("turn", "pauses"), [(math.inf, 0), (TURN, 19), (SHORT_TURN, 99)])
def test_a_busy_program_pauses_as_often_as_the_store_wants_it(
    monkeypatch: pytest.MonkeyPatch, turn: float, pauses: int
) -> None:
    now, slept = [0.0], list[float]()
    monkeypatch.setattr(time, "sleep", slept.append)
    gives_way = GivingWay(Env(monotonic=lambda: now[0]), Demand(), lambda: turn)
    for _ in range(100):
        gives_way.before_io_wait(0)
        gives_way.after_io_wait(0)
        now[0] += 0.00101
    assert len(slept) == pauses


@pytest.mark.parametrize(
    ("due", "timeout", "pauses"),
    [(math.inf, 0.0, 0), (1000.0, 0.0, 0), (0.01515, 0.0, 49), (0.01515, 0.01, 0)],
    ids=["it wants nothing", "it is away", "it comes back", "the loop rests anyway"],
)
def test_a_loop_pauses_when_the_thread_of_the_store_comes_back(
    monkeypatch: pytest.MonkeyPatch, due: float, timeout: float, pauses: int
) -> None:
    now, slept, demand = [0.0], list[float](), Demand()
    monkeypatch.setattr(time, "sleep", slept.append)
    demand.due = due
    turn = lambda: MOMENT if now[0] > due else math.inf  # noqa: E731 - as Watch has it
    gives_way = GivingWay(Env(monotonic=lambda: now[0]), demand, turn)
    for _ in range(100):
        gives_way.before_io_wait(timeout)
        gives_way.after_io_wait(timeout)
        now[0] += 0.0003
    assert len(slept) == pauses


def test_a_thread_says_before_each_statement_when_it_will_be_back() -> None:
    demand = Demand()
    due = list[float]()

    class Slow:
        in_transaction = True

        def execute(self, _sql: str, _parameters: object = ()) -> None:
            due.append(demand.due - time.monotonic())
            if len(due) == 4:
                raise sqlite3.OperationalError("disk I/O error")

    connection = Announcing(cast("sqlite3.Connection", Slow()), demand)
    connection.execute("UPDATE one")
    connection.execute("INSERT many", [0] * 7 * 512)
    connection.execute("COMMIT")
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("COMMIT")
    small, many, commit, _ = due
    assert small < commit < many
    assert 0.0 <= time.monotonic() - demand.due < 60  # it wants the lock now, after an error too
    assert connection.in_transaction
    demand.end()
    assert demand.due == math.inf
