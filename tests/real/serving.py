"""`stagerun serve` as a process, for tests that ask it over HTTP or by a browser."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

COMMAND = [sys.executable, "-c", "from stagerun.cli.main import main; main()"]
LONGEST = 60.0
"""Seconds that a server may take for anything before its test fails."""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGERUN_")}
    return {**kept, "PYTHONWARNINGS": "default", **more}


@frozen
class Server:
    """A server under way."""

    url: str
    """With a slash at its end."""
    folder: Path
    process: "subprocess.Popen[str]"

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    @property
    def token(self) -> str:
        return (self.folder / "runs.db.token").read_text().strip()

    def get(self, path: str) -> Any:
        return self.ask("GET", path)[1]

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.ask("POST", path, body if body is not None else {}, token=self.token)[1]

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Return the status of an answer, and its JSON or text."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LONGEST) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _read(error)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return exit status, standard output and standard error."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        # Not communicate(): it does not know of lines that a readline() has read in advance.
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(self.process.stderr.read)
            out = self.process.stdout.read()
        return self.process.wait(LONGEST), out, said.result()


def _read(answer: Any) -> Any:
    content = answer.read().decode()
    return json.loads(content) if "json" in answer.headers["Content-Type"] else content


@contextmanager
def serving(folder: Path, *arguments: str, port: int = 0, **variables: str) -> Iterator[Server]:
    """Serve from *folder*, with its runs.db, at a free port; in the end stop what still runs."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--db", "runs.db", "--port", str(port), *arguments],
        cwd=folder,
        env=environment(**variables),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    killer = threading.Timer(LONGEST, process.kill)
    killer.start()
    try:
        with process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("stagerun is at "):
                raise AssertionError(process.communicate())
            yield Server(line.split()[-1].partition("#")[0], folder, process)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=LONGEST)
    finally:
        killer.cancel()
        process.kill()
