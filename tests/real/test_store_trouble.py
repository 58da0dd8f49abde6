"""Trouble with the database: what waits, what is told, what heals, and what is refused loudly."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, Runtime, StoreError, open_runtime, stage
from stagerun.engine import household
from stagerun.engine import runtime as runtime_module
from stagerun.store import log, writer
from stagerun.store.doctor import examine
from stagerun.store.transaction import Receipt, execute

pytestmark = pytest.mark.real


@stage(workers=8)
async def double(item: int) -> int:
    return 2 * item


PIPELINE = Pipeline("double", [double])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as a forgotten program does."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        yield
        foreign.execute("ROLLBACK")


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - health is asked for, nobody is told of it
            await trio.sleep(0.01)


def status(runtime: Runtime, name: str) -> Callable[[], bool]:
    return lambda: runtime.health().status == name


def settled(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM items").fetchone()
        return int(count)


def refusing(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


# -- locks ------------------------------------------------------------------------------------


async def test_a_lock_held_for_long_degrades_and_nothing_is_lost_when_it_goes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        assert runtime.health().status == "ok"
        run = await runtime.start(PIPELINE, range(20_000))
        with locked(path):
            before = settled(path)
            with trio.fail_after(10):  # as the promise says
                await until(status(runtime, "degraded"))
            health = runtime.health()
            assert "locked" in str(health.why)
            assert health.since is not None
            await until(lambda: runtime.health().waiting >= 5_000)
            assert runtime.health().waiting < 5_100, "the stages wait at the bounded buffer"
            assert settled(path) == before
            assert run.status == "running"
        result = await run.wait()
        assert (result.status, result.stages[0].ok) == ("succeeded", 20_000)
        await until(status(runtime, "ok"), 5)
    assert examine(path).sound


async def test_a_lock_for_ten_minutes_is_told_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "_WORDS_AFTER", (0.01, 0.05, 0.3))  # a hundredth of the real ones
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        run = await runtime.start(PIPELINE, range(10))
        await run.wait()
        caplog.clear()
        with locked(path):
            await trio.sleep(2)
        await until(status(runtime, "ok"))
    told = [r for r in caplog.records if "refuses a commit" in r.getMessage()]
    assert 3 <= len(told) <= 9


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_WORDS_AFTER", (0.01, 30.0, 30.0))
    monkeypatch.setattr(household, "_OPENS_WITHIN", 0.2)
    monkeypatch.setattr(runtime_module, "_LAST_COMMITS", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_an_opening_that_the_database_refuses_ends_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with open_runtime(path):
        pass
    with locked(path), trio.fail_after(10), pytest.raises(StoreError, match="locked"):
        async with open_runtime(path):
            pytest.fail("it was opened without being an owner")


@pytest.mark.usefixtures("impatient")
async def test_an_opening_that_the_database_refuses_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(household, "_OPENS_WITHIN", 1_000)
    path, told = tmp_path / "runs.db", False
    async with open_runtime(path):
        pass
    try:
        with locked(path), trio.fail_after(10), trio.move_on_after(0.1):
            async with open_runtime(path):
                pytest.fail("it was opened without being an owner")
    except* StoreError:
        told = True
    assert told


@pytest.mark.usefixtures("impatient")
async def test_leaving_ends_though_the_database_refuses_and_no_run_is_under_way(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    stack = ExitStack()
    with stack, trio.fail_after(10), pytest.raises(StoreError, match="locked"):  # noqa: PT012 - above
        async with open_runtime(path) as runtime:
            await (await runtime.start(PIPELINE, range(10))).wait()
            stack.enter_context(locked(path))
    async with open_runtime(path) as runtime:
        assert runtime.health().status == "ok"
    assert examine(path).sound


# -- the disk ---------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if (
        shutil.which("mount") is None
        or os.geteuid()
        or subprocess.run(command, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_full_disk_makes_runs_wait_and_space_lets_them_go_on(tiny_disk: Path) -> None:
    @stage(workers=4)
    async def long(item: int) -> bytes:
        return os.urandom(1_000)

    path = tiny_disk / "runs.db"
    async with open_runtime(path) as runtime:
        run = await runtime.start(Pipeline("long", [long]), lambda: range(2_000))
        await until(status(runtime, "degraded"))
        assert "full" in str(runtime.health().why)
        acknowledged = (await run.document())["stages"][0]["ok"]
        assert settled(path) == acknowledged
        await trio.run_process(["mount", "-o", "remount,size=16m", str(tiny_disk)])
        result = await run.wait()
        assert (result.status, result.stages[0].ok) == ("succeeded", 2_000)
        await until(status(runtime, "ok"), 5)
    assert [f for f in examine(path).findings if f.check != "disk"] == []


LIMITED = """
    import resource, signal, sys, trio
    from stagerun import Pipeline, open_runtime, stage

    @stage(workers=4)
    async def long(item):
        return b"x" * 1000

    async def main():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        async with open_runtime(sys.argv[1]) as runtime:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
            run = await runtime.start(Pipeline("long", [long]), range(3000))
            with trio.fail_after(30):
                while runtime.health().status == "ok":
                    await trio.sleep(0.01)
            print(runtime.health().status, runtime.health().why, flush=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            result = await run.wait()
            print(result.status, result.stages[0].ok, flush=True)

    trio.run(main)
"""


def run_program(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_a_disk_that_gives_errors_is_reopened_until_it_works_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    done = run_program(LIMITED, str(path))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("degraded the database refuses a commit: disk I/O error")
    assert second == "succeeded 3000"
    assert examine(path).sound
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("landed", [False, True])
async def test_a_commit_whose_fsync_failed_is_looked_for_and_neither_lost_nor_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    failures = 0

    def failing(connection: sqlite3.Connection, transaction: Any, *, complete: Any) -> Receipt:
        nonlocal failures
        if failures < 3 and len(transaction.units[0].body) > 2:
            failures += 1
            if landed:
                execute(connection, transaction, complete=complete)
            else:
                complete(Receipt(()))
            raise refusing("SQLITE_IOERR_FSYNC")
        return execute(connection, transaction, complete=complete)

    monkeypatch.setattr(writer, "execute", failing)
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        result = await (await runtime.start(PIPELINE, range(2_000))).wait()
        assert (result.status, result.stages[0].ok) == ("succeeded", 2_000)
    assert failures == 3
    assert settled(path) == 2_000
    assert examine(path).sound


async def test_acknowledged_commits_that_a_disk_has_lost_are_told_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db"

    def failing(connection: sqlite3.Connection, transaction: Any, *, complete: Any) -> Receipt:
        if fails:
            fails.clear()
            connection.execute("UPDATE owners SET commits = commits - 1")
            raise refusing("SQLITE_IOERR_FSYNC")
        return execute(connection, transaction, complete=complete)

    fails: list[bool] = []
    monkeypatch.setattr(writer, "execute", failing)
    with pytest.raises(StoreError, match="acknowledged commits"):  # noqa: PT012 - its leaving too
        async with open_runtime(path) as runtime:
            fails.append(True)
            with trio.fail_after(30):
                await (await runtime.start(PIPELINE, range(10))).wait()


# -- files that go, or are not what they were ---------------------------------------------------


def unlink(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def unlink_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [unlink, replace, unlink_log, move_away])
async def test_nothing_is_acknowledged_once_the_file_is_not_there_any_more(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "runs.db"
    with pytest.raises(StoreError, match="is gone while|was replaced"):  # noqa: PT012 - see above
        async with open_runtime(path) as runtime:
            await (await runtime.start(PIPELINE, range(10))).wait()
            harm(path)
            with trio.fail_after(10):
                with pytest.raises(StoreError):
                    await runtime.start(PIPELINE, range(10))
            assert runtime.health().status == "failed"


async def test_a_file_damaged_under_way_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with pytest.raises(StoreError, match=r"damaged|not a SQLite"):  # noqa: PT012 - see above
        async with open_runtime(path) as runtime:
            await (await runtime.start(PIPELINE, range(1_000))).wait()
            with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as foreign:
                foreign.execute("UPDATE runs SET target = 'x'")
                foreign.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(os.urandom(path.stat().st_size - 4096))
            with trio.fail_after(30):
                await (await runtime.start(PIPELINE, range(1_000))).wait()
    assert not examine(path).sound


NOBODY = """
    import os, sys, trio
    import stagerun.store.aio
    from stagerun import StoreError, open_runtime
    from stagerun.engine.env import Env

    async def main():
        async with open_runtime(sys.argv[1], env=Env(environ={})):
            print("opened")

    if not os.geteuid():
        os.setuid(65534)  # root may write everywhere
    try:
        trio.run(main)
    except StoreError as error:
        print(error)
"""


@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o777), (0o666, 0o555), (0o000, 0o755)])
def test_what_cannot_be_written_is_refused_at_once_and_never_replaced_by_memory(
    tmp_path: Path, file: int, folder: int
) -> None:
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001 and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    place = tmp_path / "place"
    place.mkdir()
    path = place / "runs.db"
    trio.run(_make, path)
    path.chmod(file)
    place.chmod(folder)
    try:
        done = run_program(NOBODY, str(path))
    finally:
        place.chmod(0o755)
    assert done.stdout.startswith("database "), done.stdout + done.stderr
    assert "runs.db" in done.stdout
    assert len(done.stdout.splitlines()) == 1


async def _make(path: Path) -> None:
    async with open_runtime(path):
        pass


# -- the write-ahead log ------------------------------------------------------------------------


async def test_a_reader_that_holds_the_log_up_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_LIMIT", 300_000)
    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM runs").fetchone()
            await (await runtime.start(PIPELINE, lambda: range(20_000))).wait()
            await until(status(runtime, "degraded"))
            assert "write-ahead log" in str(runtime.health().why)
        while runtime.health().status != "ok":
            await (await runtime.start(PIPELINE, range(2_000))).wait()
    assert examine(path).sound
