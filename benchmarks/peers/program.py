"""A peer's program in processes of its own, all of which are gone afterwards."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from attrs import frozen

from benchmarks.peers.redis import Redis, redis
from benchmarks.peers.subjects import PROGRAMS, Subject

_WITHIN = 30.0


@frozen
class Program:
    """A peer that is installed, with a directory and, where it needs one, a Redis."""

    subject: Subject
    python: Path
    directory: Path
    redis: Redis | None

    @contextmanager
    def started(self, mode: str, items: int) -> "Iterator[subprocess.Popen[str]]":
        """Start it in a session of its own, and kill all of that at the end."""
        with self._errors(mode).open("w") as errors:
            child = subprocess.Popen(
                self._command(mode, items),
                cwd=self.directory,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            yield child
        finally:
            kill(child)

    def complaint(self, mode: str) -> str:
        """The last line that it wrote to its standard error."""
        lines = self._errors(mode).read_text().strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _errors(self, mode: str) -> Path:
        return self.directory / f"{mode}.err"

    def _environ(self) -> dict[str, str]:
        """An environment of its own is not told where the project's packages are."""
        hidden = {"PYTHONPATH"} if self.subject.requirements else set()
        return {name: value for name, value in os.environ.items() if name not in hidden}

    def _command(self, mode: str, items: int) -> list[str]:
        command = [str(self.python), str(PROGRAMS / self.subject.program)]
        command += [mode, str(items), str(self.directory), "--variant", self.subject.variant]
        if self.redis is not None:
            command += ["--service", self.redis.url, "--service-pid", str(self.redis.pid)]
        return command


@contextmanager
def prepared(subject: Subject, python: Path, directory: Path | None) -> Iterator[Program]:
    with tempfile.TemporaryDirectory(
        prefix="stagerun-benchmark-", dir=directory, ignore_cleanup_errors=True
    ) as scratch:
        place = Path(scratch).absolute()  # the program runs elsewhere
        with redis(place) if subject.needs_redis else nullcontext() as service:
            yield Program(subject, python, place, service)


def kill(child: "subprocess.Popen[str]") -> None:
    """Kill the program and all that it has started, and wait until it is dead."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=_WITHIN)
