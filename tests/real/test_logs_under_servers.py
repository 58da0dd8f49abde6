"""INFO lines under unmodified servers: seen once, whether the host configures logging or not."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

# The host program. It logs when it starts, then a line "the end", after which the test stops it.
HOST = """
import logging, logging.config, os

from stagerun.logs import RunLog, install

STREAM = "ext://sys.stderr"
CONSOLE = {"console": {"class": "logging.StreamHandler", "stream": STREAM, "formatter": "host"}}
FORMATS = {"host": {"format": "HOST %(levelname)s %(message)s"}}
ROOT = {"level": "INFO", "handlers": ["console"]}
CONFIG = {"version": 1, "handlers": CONSOLE, "formatters": FORMATS, "root": ROOT}

def configure(when):
    if os.environ["HOST_LOGGING"] == when:
        logging.config.dictConfig(CONFIG)  # it also disables every logger there is

def speak():
    configure("before")
    installed = install()
    configure("after")
    log = RunLog(pipeline="crawl", run="7f3a")
    log.info("pipeline started")
    log.for_stage("fetch").warning("item %d timed out", 12, item=12)
    log.info("the end")
    return installed

async def asgi(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    with speak():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})

def wsgi_factory():
    speak()
    return lambda environ, start_response: []
"""

SERVERS = {
    "uvicorn": ("uvicorn", ["--port", "0", "host:asgi"]),
    "hypercorn": ("hypercorn", ["--bind", "127.0.0.1:0", "host:asgi"]),
    "hypercorn-trio": ("hypercorn", ["-k", "trio", "--bind", "127.0.0.1:0", "host:asgi"]),
    "gunicorn": ("gunicorn", ["--bind", "127.0.0.1:0", "host:wsgi_factory()"]),
    "gunicorn-asgi": ("gunicorn", ["-k", "asgi", "--bind", "127.0.0.1:0", "host:asgi"]),
}

TEXT = [
    "INFO [crawl 7f3a] pipeline started",
    "WARNING [crawl/fetch 7f3a] item 12 timed out",
    "INFO [crawl 7f3a] the end",
]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> list[str]:
    module, arguments = SERVERS[request.param]
    needed = "gunicorn.workers.gasgi" if request.param == "gunicorn-asgi" else module
    if find_spec(module) is None or find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed; the extra stagerun[test] brings it")
    return [sys.executable, "-m", module, *arguments]


def test_lines_are_seen_once_where_the_host_does_not_configure_logging(
    server: list[str], tmp_path: Path
) -> None:
    ours = [line for line in output(server, tmp_path, "never") if "[crawl" in line]
    assert [line.split(" ", 1)[1] for line in ours] == TEXT  # after the time


@pytest.mark.parametrize("when", ["before", "after"])
def test_lines_are_the_hosts_alone_where_it_configures_logging(
    server: list[str], when: str, tmp_path: Path
) -> None:
    ours = [line for line in output(server, tmp_path, when) if "[crawl" in line]
    assert ours == [f"HOST {line}" for line in TEXT]


def output(command: list[str], folder: Path, host_logging: str) -> list[str]:
    """All lines of a server that was stopped once the host had said "the end"."""
    with running(command, folder, host_logging) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.endswith("the end\n"):
                process.terminate()
    assert any(line.endswith("the end") for line in lines), "\n".join(lines)
    return lines


@contextmanager
def running(command: list[str], folder: Path, host_logging: str) -> Iterator[subprocess.Popen[str]]:
    """Start a server that is gone at the end of the block, and at the latest after 30 s."""
    (folder / "host.py").write_text(HOST)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGERUN_")}
    environ = kept | {
        "HOST_LOGGING": host_logging,
        "HOME": str(folder),  # where gunicorn puts its control socket
        "PYTHONPATH": str(folder),
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its workers end with it
    )

    def end() -> None:
        with suppress(ProcessLookupError):  # everything may have ended by itself
            os.killpg(process.pid, signal.SIGKILL)

    watchdog = threading.Timer(30, end)
    watchdog.start()
    with process:
        try:
            yield process
        finally:
            watchdog.cancel()
            end()  # before it is waited for: until then nobody else can have its number
