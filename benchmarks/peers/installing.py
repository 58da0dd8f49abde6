"""An environment for each peer: none of them is a dependency of the project."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process import BenchmarkError

_WITHIN = 900  # seconds to install one peer
_DONE = "installed"


def python_for(requirements: Sequence[str], place: Path | None) -> Path:
    """Return the interpreter that has them; made at the first call, found again afterwards.

    Raises:
        BenchmarkError: they could not be installed.
    """
    if not requirements:
        return Path(sys.executable)
    environment = (place or _default_place()).absolute() / _name(requirements)
    python = environment / "bin" / "python"
    if not (environment / _DONE).exists():
        _call([sys.executable, "-m", "venv", "--clear", str(environment)])
        _call(
            [
                str(python),
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--quiet",
                *requirements,
            ]
        )
        (environment / _DONE).write_text("\n".join(requirements))
    return python


def _default_place() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stagerun-benchmarks"


def _name(requirements: Sequence[str]) -> str:
    """One name for the same packages and the same Python."""
    text = "\n".join([sys.version, *requirements])
    return f"{requirements[0].partition('=')[0]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _call(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN, check=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"it could not be installed: {error}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise BenchmarkError(f"it could not be installed: {last}") from error
