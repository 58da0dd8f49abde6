"""When a watched run is asked why it does not move, and what of its document is drawn."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from stagerun import Pipeline, stage
from stagerun.cli.inquiry import Answers, Motion, progress_of
from tests.conftest import Bench


def document(**changes: Any) -> dict[str, Any]:
    plain = {
        "status": "running",
        "verdict": "alive",
        "percent": 10.0,
        "step": "fetch",
        "message": None,
        "done": None,
        "stages": [{"ok": 1}],
        "updated_at": datetime.now(UTC).isoformat(),
    }
    return plain | changes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_run_that_does_not_move_for_ten_seconds_is_stuck_until_it_does(
    clock: list[float],
) -> None:
    motion = Motion(document())
    clock[0] += 9
    assert not motion.stuck(document())
    clock[0] += 2
    assert motion.stuck(document())
    assert not motion.stuck(document(stages=[{"ok": 2}]))
    clock[0] += 9
    assert not motion.stuck(document(stages=[{"ok": 2}]))


@pytest.mark.usefixtures("clock")
def test_a_run_that_has_not_moved_before_it_was_watched_is_stuck_at_once() -> None:
    before = (datetime.now(UTC) - timedelta(minutes=3)).isoformat()
    assert Motion(document(updated_at=before)).stuck(document(updated_at=before))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("verdict", "stuck"),
    [("alive", False), ("slow", False), ("blocked", True), ("stalled", True), ("queued", True)],
)
def test_a_verdict_that_is_not_fine_is_asked_about_at_once(verdict: str, stuck: bool) -> None:
    assert Motion(document()).stuck(document(verdict=verdict)) is stuck


async def test_a_document_holds_all_that_is_drawn(bench: Bench) -> None:
    @stage(workers=1)
    async def halt(number: int) -> None:
        if number:
            raise ValueError(number)
        await trio.sleep(100)

    pipeline = Pipeline("drawn", [halt], deadline=500)
    run = await bench.runtime.start(pipeline, [1, 2, 0, 0], labels={"project": "demo"})
    await trio.sleep(10)
    told = await run.document()
    progress = progress_of(told, Answers(why="because"))
    assert (progress.pipeline, progress.id, progress.status) == ("drawn", run.id, "running")
    assert progress.labels == ("project=demo",)
    (counts,) = progress.stages
    assert (counts.failed, counts.in_flight, counts.waiting) == (2, 1, 1)
    assert progress.deadline_in is not None
    assert [line.message for line in progress.log if line.stage == "halt" and "1" in line.message]
    assert progress.why == "because"
