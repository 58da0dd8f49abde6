"""A program that meets a database in a bad state, by the library and by the command line.

``python -m tests.campaign.filechild DEED PATH [nobody]`` prints what it was told, a line each.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from stagerun import StoreError, open_runtime
from stagerun.cli import commands, main, running
from stagerun.store import aio
from tests.campaign.crowdruns import SIZES, brief, tiny
from tests.campaign.told import reading

__all__ = ["NOBODY"]

NOBODY: Final = 65534
_PRELOADED: Final = (commands, running, aio)
"""Imported while the files of the program can still be read."""


def _use(path: Path) -> None:
    """Open it, run something, and leave."""

    async def use() -> None:
        async with open_runtime(path) as runtime:
            _say(["opened"])
            run = await runtime.start(brief, list(range(1, SIZES["brief"] + 1)))
            _say(["started", run.id, SIZES["brief"]])
            result = await run.wait()
            _say(["ended", run.id, result.generation, result.status])

    _told(use)


def _live(path: Path) -> None:
    """Start run after run until SIGTERM; say all that is told, as a reader is, too."""

    async def live() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, nursery.cancel_scope)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    async def work(scope: trio.CancelScope) -> None:
        async with open_runtime(path) as runtime:
            _say(["opened"])
            while True:
                run = await runtime.start(tiny, [1])
                _say(["started", run.id, 1])
                result = await run.wait()
                _say(["ended", run.id, result.generation, result.status])
                await trio.sleep(0.005)
        scope.cancel()

    _told(live)


def _read(path: Path) -> None:
    """Say what a reader sees for two seconds."""
    with reading(path, _say):
        time.sleep(2)


def _command(path: Path) -> None:
    """Be the command line, as the user that this process is."""
    sys.argv = ["stagerun", "run", "tests.campaign.crowdruns:brief", "--db", str(path), "--json"]
    main.main()


def _told(program: Callable[[], Any]) -> None:
    began = time.monotonic()
    try:
        trio.run(program)
    except* StoreError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        _say(["raised", type(error).__name__, str(error), time.monotonic() - began])


_SPEAKING: Final = threading.Lock()


def _say(words: list[Any]) -> None:
    with _SPEAKING:
        print(json.dumps([time.monotonic(), *words]), flush=True)


_DEEDS: Final = {"use": _use, "live": _live, "read": _read, "command": _command}

if __name__ == "__main__":
    if "nobody" in sys.argv[3:]:
        os.setuid(NOBODY)
    _DEEDS[sys.argv[1]](Path(sys.argv[2]))
