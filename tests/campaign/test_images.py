"""Power loss: a small share of the campaign's images, and that the harness bites."""

import random
from pathlib import Path

import pytest

from tests.campaign import images, shim
from tests.campaign.platter import SECTOR, Platter
from tests.campaign.shim import Change, Op

pytestmark = pytest.mark.real

needs_shim = pytest.mark.skipif(bool(shim.unavailable()), reason=shim.unavailable())


@needs_shim
def test_nothing_acknowledged_is_lost_by_a_power_loss(tmp_path: Path) -> None:
    part = images.run(160, random.randrange(10**6), tmp_path, each=20)
    assert part.violations == ()
    assert part.trials == part.counts["images"] == 160
    assert part.counts["images with writes that were not synced"] > 70
    assert part.counts["fsyncs that failed in them"] > 0


@needs_shim
@pytest.mark.parametrize("plant", ["synchronous=NORMAL", "synchronous=OFF"])
def test_a_weaker_promise_to_the_disk_is_found(tmp_path: Path, plant: str) -> None:
    part = images.run(40, 1, tmp_path, plant=plant)
    assert any(" is not there" in words or "no schema" in words for words in part.violations)
    replay, _, _ = part.violations[0].partition(": ")
    assert images.main(replay.split()[3:]) == 1, "what it names replays it"


def test_without_a_compiler_it_is_skipped_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    part = images.run(10, 1, tmp_path)
    assert (part.trials, part.violations) == (0, ())
    assert "compiler" in part.skipped or "Linux" in part.skipped


# -- the disk --------------------------------------------------------------------------------------


def write(data: bytes, offset: int = 0, path: str = "x.db") -> Change:
    return Change(Op.WRITE, path, offset, data)


def contents(platter: Platter, folder: Path, losses: int = 300) -> set[bytes]:
    """Return what the file may hold after a power loss."""
    found = set()
    for seed in range(losses):
        platter.put(folder, "x.db", random.Random(seed))
        file = folder / "x.db"
        found.add(file.read_bytes() if file.exists() else b"gone")
    return found


def test_what_was_synced_is_always_there_and_the_rest_perhaps_or_torn(tmp_path: Path) -> None:
    platter = Platter(random.Random(1))
    platter.take(write(b"a" * SECTOR))
    platter.take(Change(Op.SYNC, "x.db", 0, b""))
    platter.take(write(b"b" * SECTOR * 2, SECTOR))
    assert contents(platter, tmp_path) == {
        b"a" * SECTOR,
        b"a" * SECTOR + b"b" * SECTOR + bytes(SECTOR),
        b"a" * SECTOR + bytes(SECTOR) + b"b" * SECTOR,
        b"a" * SECTOR + bytes(2 * SECTOR),
        b"a" * SECTOR + b"b" * SECTOR * 2,
    }


def test_what_a_failed_fsync_let_go_of_is_not_saved_by_a_later_one(tmp_path: Path) -> None:
    left = set()
    for seed in range(20):
        platter = Platter(random.Random(seed))
        platter.take(write(b"a"))
        platter.take(Change(Op.FAILED_SYNC, "x.db", 0, b""))
        platter.take(Change(Op.SYNC, "x.db", 0, b""))
        left |= contents(platter, tmp_path, 1)
    assert left == {b"", b"a"}


def test_a_deleted_file_may_come_back_until_something_is_synced(tmp_path: Path) -> None:
    platter = Platter(random.Random(1))
    platter.take(write(b"a"))
    platter.take(Change(Op.SYNC, "x.db", 0, b""))
    platter.take(Change(Op.UNLINK, "x.db", 0, b""))
    assert contents(platter, tmp_path) == {b"a", b"gone"}
    platter.take(Change(Op.SYNC, "x.db-wal", 0, b""))
    assert contents(platter, tmp_path) == {b"gone"}
