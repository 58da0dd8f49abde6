"""`stagerun watch` on a terminal, and the thread in which it asks."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from stagerun import Pipeline, open_runtime, stage
from stagerun.cli.inquiry import inquiring

pytestmark = pytest.mark.real

LONGEST = 60.0
COMMAND = [sys.executable, "-c", "from stagerun.cli.main import main; main()"]
PIPELINE = """
    import sys
    import trio
    from stagerun import Pipeline, stage

    @stage(workers=1, deadline=None)
    async def wait(n):
        if n == 1:
            raise ValueError("[red]no[/red] \\x1b[31m\\x07")
        await trio.sleep(0.2)
        if n == 3:
            print("begun", file=sys.stderr, flush=True)
            await trio.sleep_forever()

    waits = Pipeline("waits", [wait], source=lambda: range(9), grace=0.2, deadline=3600)
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGERUN_")}
    return {**kept, "PYTHONWARNINGS": "default", **more}


@contextmanager
def running(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run the pipeline above, until it waits for ever."""
    (folder / "jobs.py").write_text(textwrap.dedent(PIPELINE))
    process = subprocess.Popen(
        [*COMMAND, "run", "jobs.py:waits"],
        cwd=folder,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    killer = threading.Timer(LONGEST, process.kill)
    killer.start()
    try:
        with process:
            assert process.stderr is not None
            assert any("begun" in line for line in process.stderr)
            yield process
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LONGEST)
    finally:
        killer.cancel()
        process.kill()


class Terminal:
    """A terminal of so many columns and rows, with a command on it."""

    def __init__(self, folder: Path, size: tuple[int, int], *arguments: str) -> None:
        self.shown = b""
        self._ours, theirs = pty.openpty()
        columns, rows = size
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(TERM="xterm-256color"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def until(self, found: Callable[[str], bool]) -> None:
        """Read until what has been shown is as wanted."""
        killer = threading.Timer(LONGEST, self.process.kill)
        killer.start()
        with suppress(OSError):  # how Linux tells that nobody writes any more
            while not found(self.text) and (part := os.read(self._ours, 65536)):
                self.shown += part
        killer.cancel()
        assert found(self.text), self.text

    def end(self) -> int:
        """Read to the end; return the exit status."""
        with suppress(OSError):
            while part := os.read(self._ours, 65536):
                self.shown += part
        os.close(self._ours)
        return self.process.wait(LONGEST)

    @property
    def text(self) -> str:
        return self.shown.decode(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("size", [(80, 24), (160, 50), (40, 20)])
def test_a_run_is_drawn_on_a_screen_of_its_own_and_detaching_gives_the_terminal_back(
    tmp_path: Path, size: tuple[int, int], number: signal.Signals
) -> None:
    with running(tmp_path) as process:
        terminal = Terminal(tmp_path, size, "watch", "latest")
        terminal.until(lambda text: "what went wrong" in text and "at work" in text)
        terminal.process.send_signal(number)
        assert terminal.end() == 130
        assert process.poll() is None, "the run goes on"
    begun, left = (terminal.text.rindex(f"\x1b[?1049{mode}") for mode in "hl")
    frames, after = terminal.text[begun:left], terminal.text[left:]
    assert "━" in frames
    assert "deadline in 59 min" in frames
    assert "[red]no[/red]" in frames
    assert "\x07" not in terminal.text
    assert "\x1b[31m\x07" not in frames
    assert "\x1b[2K" not in frames, "nothing is wiped, so nothing flickers"
    assert "\x1b[2J" not in frames.removeprefix("\x1b[?1049h").removeprefix("\x1b[H")
    assert "\x1b[?25h" in terminal.text[left - 20 :], "the cursor is back"
    assert "detached, the run goes on" in after


def test_the_end_of_a_run_ends_the_picture_and_leaves_its_summary(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        terminal = Terminal(tmp_path, (80, 24), "watch", "latest")
        terminal.until(lambda text: "at work" in text)
        process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    after = terminal.text[terminal.text.rindex("\x1b[?1049l") :]
    assert "cancelled" in after
    assert "what did not succeed" in after


async def test_the_process_of_a_run_that_is_stuck_tells_why_and_what_went_wrong_is_grouped(
    tmp_path: Path,
) -> None:
    @stage(workers=1, deadline=3600)
    async def halt(number: int) -> None:
        if number:
            raise ValueError("the same")
        await trio.sleep_forever()

    path = tmp_path / "runs.db"
    async with open_runtime(path) as runtime:
        run = await runtime.start(Pipeline("p", [halt], grace=0.1), [1, 2, 0])
        with inquiring(path, run.id) as asked, trio.fail_after(30):
            while not (asked.answers.why and asked.answers.failures):
                asked.look(await run.document(), stuck=True)
                await trio.sleep(0.05)
            while asked.answers.why:
                asked.look(await run.document(), stuck=False)
                await trio.sleep(0.05)
        (sort,) = asked.answers.failures
        assert (sort.stage, sort.outcome, sort.count) == ("halt", "failed", 2)
        assert "the same" in sort.message


async def test_a_run_whose_database_has_gone_is_no_reason_to_end(tmp_path: Path) -> None:
    with inquiring(tmp_path / "none.db", "0" * 32) as asked, trio.fail_after(30):
        while not asked.answers.why:  # noqa: ASYNC110 - a thread writes it
            await trio.sleep(0.05)
    assert "none.db" in asked.answers.why
