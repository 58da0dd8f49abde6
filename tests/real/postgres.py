"""A PostgreSQL server of the tests' own: in a temporary folder, on a socket there, for one module.

It is made from the programs of this machine, and nothing of a server that runs here is touched.
PostgreSQL refuses root, so under root it runs as `nobody`.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LONGEST = 60.0
"""Seconds that one of its programs may take."""


def programs() -> Path | None:
    """Return the folder of the newest server's programs, or None when there is none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda each: float(each.parent.name)
    )
    return next((each for each in reversed(found) if (each / "initdb").exists()), None)


@contextmanager
def server(bin_folder: Path) -> Iterator[str]:
    """Run a server; give what to connect with, ``postgresql://...``."""
    folder = Path(tempfile.mkdtemp(prefix="stagerun-pg-"))  # short: a socket's path has 107 bytes
    data = folder / "data"
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        user = {"user": "nobody", "extra_groups": []}

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [bin_folder / program, "-D", data, *arguments],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
            **user,
        )
        log = folder / "log"
        said = log.read_text() if log.exists() else ""
        assert done.returncode == 0, f"{program}: {done.stdout}\n{said}"

    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    try:
        call("initdb", "--auth=trust", "--username=stagerun", "--encoding=UTF8", "--no-sync")
        # Its output goes to a file: a server that kept our pipe would keep us waiting for its end.
        call("pg_ctl", "start", "--wait", "--silent", f"--log={folder / 'log'}", "-o", options)
        try:
            yield f"postgresql://stagerun@/postgres?host={folder}"
        finally:
            call("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A server for the module's tests; they are skipped where none is installed."""
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed here: nothing of /usr/lib/postgresql/*/bin")
    with server(found) as address:
        yield address
