# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Worker processes: what crosses, what dies, and that nothing outlives anything."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, UsageError, open_runtime, stage
from stagerun.store.opening import read_only
from tests.conftest import listed, sums_hold
from tests.real import offloaded

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent.parent


class World:
    """One run on a real file, and what it left."""

    def __init__(self, folder) -> None:
        self.path = folder / "runs.db"

    async def finish(self, declared, items, **options):
        with trio.fail_after(60):
            async with open_runtime(self.path) as runtime:
                given = {k: options.pop(k) for k in ("params",) if k in options}
                pipeline = Pipeline("offloaded", [declared], **options)
                run = await runtime.start(pipeline, items, **given)
                self.result = await run.wait()
                self.results = await listed(run.results())
                self.document = await run.document()
        connection = read_only(self.path)
        try:
            sums_hold(connection)
            self.failures = connection.execute(
                "SELECT cause, message, error, detail FROM failures ORDER BY item"
            ).fetchall()
        finally:
            connection.close()
        return self.results

    @property
    def causes(self):
        return [cause for cause, *_ in self.failures]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def gone(pids, within: float) -> None:
    with trio.fail_after(within):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - other processes tell nothing
            await trio.sleep(0.01)


async def written(path: Path) -> str:
    with trio.fail_after(20):
        while not os.access(path, os.R_OK):  # noqa: ASYNC110 - written by another process
            await trio.sleep(0.01)
    return await trio.Path(path).read_text()


async def test_values_go_and_come(world) -> None:
    assert await world.finish(offloaded.square, list(range(50))) == [n * n for n in range(50)]


async def test_values_are_of_the_annotated_type_in_the_process(world) -> None:
    assert await world.finish(offloaded.move, [{"x": 1, "y": 2}]) == [{"x": 2, "y": 2}]


async def test_one_process_serves_one_worker_and_is_used_again(world) -> None:
    pids = await world.finish(offloaded.where.with_options(workers=2), list(range(20)))
    assert os.getpid() not in pids
    assert len(set(pids)) <= 2
    assert not any(alive(pid) for pid in pids), "idle ones end with the run"


async def test_batches_are_answered_item_by_item(world) -> None:
    assert await world.finish(offloaded.halve, [1, 2, 3, 4]) == [1, 2]
    assert world.failures[0][1] == "1 is odd"


async def test_what_cannot_be_stored_fails_its_item_alone(world) -> None:
    results = await world.finish(offloaded.odd, ["object", "large", "drop", "text"])
    assert results == ["plain"]
    assert world.causes == ["result", "result"]
    assert world.result.stages[0].skipped == 1


async def test_an_error_keeps_its_class_its_text_and_its_traceback(world) -> None:
    await world.finish(offloaded.raise_it, ["KeyError", "Moody", "Unicode"])
    errors = [(error, message) for _, message, error, _ in world.failures]
    assert errors[0] == ("builtins.KeyError", "'k'")
    assert errors[1] == ("tests.real.offloaded.Moody", "1 and 2")
    assert errors[2][0] == "builtins.UnicodeDecodeError"
    assert "in raise_it" in world.failures[0][3]


async def test_a_retry_matches_the_class_of_a_process_s_error(world) -> None:
    assert await world.finish(offloaded.moody, [7]) == [7]


async def test_a_process_that_dies_is_an_outcome(world) -> None:
    results = await world.finish(offloaded.die, ["exit", "sys.exit", "crash", "kill", "fine"])
    assert results == ["fine"]
    assert world.causes == ["worker_died", "error", "worker_died", "worker_died"]
    assert "exit status 3" in world.failures[0][1]
    assert "SIGSEGV" in world.failures[2][1]
    assert "SIGKILL" in world.failures[3][1]


async def test_an_item_whose_process_died_can_be_tried_again(world) -> None:
    assert await world.finish(offloaded.die_once, ["again"]) == ["again"]


async def test_ctx_works_in_a_process(world) -> None:
    results = await world.finish(offloaded.talk, [10, 20], params={"depth": 3})
    assert results == [[1, 1, {"depth": 3}], [2, 1, {"depth": 3}]]
    assert world.document["step"] == "step"
    assert world.document["done"] == 1
    lines = [line["message"] for line in world.document["recent_logs"]]
    assert "hello from 10, {'depth': 3}" in lines
    assert "attempt 1 of stage talk" in lines


async def test_a_process_is_killed_at_its_deadline_with_its_children(world, tmp_path) -> None:
    await world.finish(offloaded.hang, [str(tmp_path)])
    assert world.causes == ["deadline"]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    await gone(pids, 2)
    assert world.document["survivors"] == []


async def test_code_that_holds_the_interpreter_is_killed_too(world) -> None:
    await world.finish(offloaded.hold_the_lock, [1])
    assert world.causes == ["deadline"]
    assert world.result.seconds < 10


async def test_a_process_that_beats_is_left_alone_and_a_silent_one_is_cut(world) -> None:
    assert await world.finish(offloaded.beat, [1, 2]) == [1]
    assert world.causes == ["stalled"]


async def test_a_process_sees_its_token(tmp_path) -> None:
    with trio.fail_after(30):
        async with open_runtime(tmp_path / "runs.db") as runtime:
            pipeline = Pipeline("polite", [offloaded.polite])
            run = await runtime.start(pipeline, [str(tmp_path)])
            await written(tmp_path / "begun")
            await run.cancel("enough")
            result = await run.wait()
    assert (result.status, result.stages[0].cancelled) == ("cancelled", 1)
    assert (tmp_path / "stopped").read_text() == "enough"


async def test_a_cancelled_run_leaves_no_process(tmp_path) -> None:
    with trio.fail_after(30):
        async with open_runtime(tmp_path / "runs.db") as runtime:
            pipeline = Pipeline("hanging", [offloaded.hang_long])
            run = await runtime.start(pipeline, [str(tmp_path)])
            pids = [int(pid) for pid in (await written(tmp_path / "pids")).split()]
            await run.cancel()
            result = await run.wait()
            assert result.status == "cancelled"
            assert result.stages[0].cancelled == 1
            assert (await run.document())["survivors"] == []
            await gone(pids, 1)


PROGRAM = """
import sys, trio
from stagerun import Pipeline, open_runtime
from tests.real.offloaded import hang_long

async def main():
    async with open_runtime(sys.argv[1] + "/runs.db") as runtime:
        run = await runtime.start(Pipeline("hanging", [hang_long]), [sys.argv[1]])
        await run.wait()

trio.run(main)
"""


async def test_no_process_outlives_a_killed_parent(tmp_path) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - it starts within milliseconds
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        pids = [int(pid) for pid in (await written(tmp_path / "pids")).split()]
        assert all(alive(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait(10)
    await gone(pids, 2)


MAIN_FILE = """
import sys, trio
from stagerun import Pipeline, open_runtime, stage

class Own(Exception):
    pass

@stage(mode="process")
def there(number):
    if number == 2:
        raise Own("mine")
    return [number, __name__, sys.argv[1:]]

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        run = await runtime.start(Pipeline("there", [there]), [1, 2])
        result = await run.wait()
        print([value async for value in run.results()], result.stages[0].failed)

if __name__ == "__main__":
    trio.run(main)
"""


def test_a_stage_of_the_program_s_own_file_is_found(tmp_path) -> None:
    (tmp_path / "program.py").write_text(MAIN_FILE)
    done = subprocess.run(
        [sys.executable, "program.py", "runs.db"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "[[1, '__stagerun_main__', ['runs.db']]] 1", done.stderr
    assert "__main__.Own" in done.stderr


CLI_FILE = """
from stagerun import Pipeline, stage

@stage(mode="process")
def double(number: int) -> int:
    return 2 * number

pipeline = Pipeline("json", [double])
"""


def test_a_stage_that_the_command_line_loaded_from_a_file_is_found(tmp_path) -> None:
    (tmp_path / "json.py").write_text(CLI_FILE)  # a name that is taken
    (tmp_path / "items").write_text("1\n2\n")
    command = "from stagerun.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", command, "run", "json.py:pipeline", "--input", "items"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


@stage(name="gone", mode="process")
def changed(number):
    return number


gone_stage = changed


async def test_what_a_process_would_not_find_is_refused_at_the_start(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "changed", len)
    async with open_runtime(tmp_path / "runs.db") as runtime:
        with pytest.raises(UsageError, match="is something else by now"):
            await runtime.start(Pipeline("gone", [gone_stage]), [1])


async def test_a_process_stopped_by_hand_is_killed_at_its_deadline(world, tmp_path) -> None:
    async def stop_it() -> None:
        pid = int((await written(tmp_path / "pids")).split()[0])
        os.kill(pid, signal.SIGSTOP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_it)
        hang = offloaded.hang_long.with_options(deadline=1.0)
        await world.finish(hang, [str(tmp_path)])
    assert world.causes == ["deadline"]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    await gone(pids, 2)


async def test_a_process_that_closes_its_descriptors_is_killed(world) -> None:
    careless = offloaded.misbehave.with_options(deadline=1.0)
    assert await world.finish(careless, [":close", ":fine"]) == ["fine"]
    # Its wire is cut too, unless a thread was just reading from it: then its deadline finds it.
    assert world.causes[0] in ("deadline", "worker_died")


async def test_a_process_that_closes_its_descriptors_cannot_answer(world) -> None:
    assert await world.finish(offloaded.misbehave, [":close and go", ":fine"]) == ["fine"]
    assert world.causes == ["worker_died"]


async def test_what_a_dead_process_has_forked_dies_with_it(world, tmp_path) -> None:
    await world.finish(offloaded.misbehave, [f"{tmp_path}:fork"])
    assert world.causes == ["worker_died"]
    assert "exit status 3" in world.failures[0][1]
    await gone([int((tmp_path / "pids").read_text())], 2)


async def test_a_process_that_swallows_everything_is_killed_at_its_deadline(world) -> None:
    stubborn = offloaded.misbehave.with_options(deadline=0.3)
    assert await world.finish(stubborn, [":swallow", ":fine"]) == ["fine"]
    assert world.causes == ["deadline"]
    assert world.document["survivors"] == []


async def test_a_flood_of_reports_does_not_reach_the_parent(world) -> None:
    assert await world.finish(offloaded.flood, [100_000]) == [100_000]
    assert world.result.seconds < 15


SLOW_MODULE = """
import time
from stagerun import stage

@stage(mode="process")
def never(number):
    return number

if __name__ != "slow_module" or "stagerun_slow_parent" not in __import__("os").environ:
    time.sleep(60)
"""


async def test_a_run_can_be_cancelled_while_a_process_starts(tmp_path, monkeypatch) -> None:
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("stagerun_slow_parent", "1")
    import slow_module  # type: ignore[import-not-found]  # written above

    monkeypatch.delenv("stagerun_slow_parent")
    with trio.fail_after(20):
        async with open_runtime(tmp_path / "runs.db") as runtime:
            run = await runtime.start(Pipeline("slow", [slow_module.never]), [1])
            await trio.sleep(0.3)
            await run.cancel()
            result = await run.wait()
            assert (result.status, result.stages[0].cancelled) == ("cancelled", 1)
            assert (await run.document())["survivors"] == []
    assert result.seconds < 5
