"""A disk that refuses: a small share of the campaign's faults, and that the harness bites."""

import errno
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.campaign import disk, shim
from tests.campaign.images import ROOT

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(shim.unavailable()), reason=shim.unavailable()),
]


def test_faults_of_the_disk_are_told_and_lose_nothing(tmp_path: Path) -> None:
    part = disk.run(16, random.randrange(10**6), tmp_path)
    assert part.violations == ()
    assert part.counts["trials in which the disk refused"] == sum(
        count for name, count in part.counts.items() if name.startswith("... ")
    )
    assert "... swallowed" not in part.counts


@pytest.mark.parametrize(
    ("plant", "words"),
    [("swallowed commits", "--only under_way/enospc/30/once"), ("silent trouble", "nothing was")],
)
def test_an_engine_that_swallows_trouble_is_found(tmp_path: Path, plant: str, words: str) -> None:
    part = disk.run(None, 1, tmp_path, only="under_way/enospc/30/once", plant=plant)
    assert part.trials == 1
    assert any(words in violation for violation in part.violations)


PROGRAM = """
    import os, sys
    from tests.campaign import shim

    def attempt():
        try:
            return os.pwrite(descriptor, b"12345678", 0)
        except OSError as error:
            return error.errno

    descriptor = os.open(sys.argv[1] + "/x.db", os.O_RDWR | os.O_CREAT)
    other = os.open(sys.argv[1] + "/x.txt", os.O_RDWR | os.O_CREAT)
    shim.arm(2, "write", shim.EIO)
    done = attempt(), os.write(other, b"1"), attempt(), attempt()
    print(*done, shim.calls("write"), shim.fired())
    shim.arm(1, "any", shim.ENOSPC, sticky=True)
    print(attempt(), attempt(), shim.fired())
    shim.arm(1, "write", shim.SHORT)
    print(attempt(), attempt(), attempt())
    shim.disarm()
    print(attempt(), shim.calls())
    log = open(sys.argv[1] + "/log", "wb", buffering=0)
    shim.record(log.fileno())
    attempt()
    shim.mark(b"told")
    os.fsync(descriptor)
    os.ftruncate(descriptor, 3)
    os.unlink(sys.argv[1] + "/x.db")
    shim.record(-1)
    for change in shim.changes(open(sys.argv[1] + "/log", "rb").read()):
        print(change.op.name, os.path.basename(change.path), change.offset, change.data)
    shim.arm(1, "fsync", shim.KILL)
    os.fsync(descriptor)
"""


def test_the_shim_meets_the_calls_that_it_is_armed_for_and_records_what_landed(
    tmp_path: Path,
) -> None:
    library = shim.build(tmp_path)
    assert library is not None
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        env=shim.environment(library) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert done.stdout.splitlines() == [
        f"8 1 {errno.EIO} 8 3 1",
        f"{errno.ENOSPC} {errno.ENOSPC} 2",
        f"4 {errno.ENOSPC} 8",
        "8 1",
        "WRITE x.db 0 b'12345678'",
        "MARK  0 b'told'",
        "SYNC x.db 0 b''",
        "TRUNCATE x.db 3 b''",
        "UNLINK x.db 0 b''",
    ]


def test_a_process_without_the_shim_says_so() -> None:
    if shim.is_loaded():
        pytest.skip("this process has it")
    with pytest.raises(RuntimeError, match="start again"):
        shim.disarm()
