"""The live page: what it says of a process, and that a strange file says nothing."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagerun.store.owner import Liveness, OwnerFile, probe
from stagerun.store.page import SIZE, InFlight, Page, read_page, suspects


class Worker:
    numbers: "memoryview[int]"
    starts: "memoryview[float]"


def begin(worker: Worker, slot: int, item: int, started: float = 0.0) -> None:
    worker.numbers[slot], worker.starts[slot] = item, started


def test_what_a_worker_has_in_hand_is_read_from_the_file_also_when_its_process_is_gone(
    tmp_path: Path,
) -> None:
    page = Page()
    before, after = Worker(), Worker()
    slot = page.occupy(before, 1, run=7, generation=2, stage=0)
    begin(before, slot, 41)
    file = OwnerFile(tmp_path / "runs.db", "me", page)
    page.synchronize(trio_time := 1000.0)
    begin(after, page.occupy(after, 1, run=7, generation=2, stage=3), 5, trio_time)
    view = read_page(file.path)
    assert view is not None
    assert view.pid == os.getpid()
    assert {(each.run, each.generation, each.stage, each.item) for each in view.in_flight} == {
        (7, 2, 0, 41),
        (7, 2, 3, 5),
    }
    (late,) = [each for each in view.in_flight if each.item == 5]
    assert isinstance(late, InFlight)
    assert late.started == pytest.approx(time.monotonic(), abs=10)
    begin(before, slot, 42)  # it moved into the file with the page
    file.let_go()
    assert suspects(file.path) == [(7, 2, 0, 42), (7, 2, 3, 5)]


def test_a_batch_is_told_item_by_item_and_a_worker_that_went_home_no_more() -> None:
    page, worker = Page(), Worker()
    page.occupy(worker, 3, run=1, generation=1, stage=0)
    page.show(worker, [10, 11, 12], 0.0)
    assert numbers(page) == [10, 11, 12]
    page.show(worker, [13], 0.0)
    assert numbers(page) == [13]
    page.leave(worker)
    page.leave(worker)  # twice does no harm
    assert numbers(page) == []


def test_items_beyond_the_last_slot_are_not_told_and_harm_nobody() -> None:
    page = Page()
    workers = [Worker() for _ in range(1_100)]
    for number, worker in enumerate(workers, 1):
        begin(worker, page.occupy(worker, 1, run=1, generation=1, stage=0), number)
    assert numbers(page) == list(range(1, 1_001))
    for worker in workers:
        page.leave(worker)
    assert numbers(page) == []


def test_the_signs_of_life_are_told_in_monotonic_seconds(tmp_path: Path) -> None:
    page = Page()
    file = OwnerFile(tmp_path / "runs.db", "me", page)
    before = time.monotonic()
    page.tick()
    page.pulse()
    page.committed()
    view = read_page(file.path)
    assert view is not None
    for at in (view.tick, view.pulse, view.commit):
        assert before <= at <= time.monotonic()
    file.close()


def test_a_page_that_was_let_go_writes_to_nobody(tmp_path: Path) -> None:
    page, worker = Page(), Worker()
    file = OwnerFile(tmp_path / "runs.db", "me", page)
    slot = page.occupy(worker, 1, run=1, generation=1, stage=0)
    begin(worker, slot, 1)
    page.let_go()
    begin(worker, slot, 2)
    assert suspects(file.path) == [(1, 1, 0, 1)]
    file.let_go()


@given(st.binary(max_size=300))
def test_a_short_or_strange_file_names_nothing(content: bytes) -> None:
    assert suspects(written(content)) == []


@given(st.binary(max_size=300), st.integers(64, 400))
def test_a_torn_page_is_read_as_far_as_it_goes(noise: bytes, length: int) -> None:
    page, worker = Page(), Worker()
    begin(worker, page.occupy(worker, 1, run=1, generation=1, stage=0), 9)
    content = bytes(page.numbers)[:length] + noise
    assert all(len(each) == 4 for each in suspects(written(content)))


def test_a_file_that_is_gone_or_a_folder_names_nothing(tmp_path: Path) -> None:
    assert suspects(tmp_path / "gone") == []
    assert suspects(tmp_path) == []


def test_an_owner_whose_file_is_gone_or_replaced_puts_a_locked_one_there(tmp_path: Path) -> None:
    page, worker = Page(), Worker()
    file = OwnerFile(tmp_path / "runs.db", "me", page)
    slot = page.occupy(worker, 1, run=1, generation=1, stage=0)
    begin(worker, slot, 1)
    assert file.heal() is None, "it is there"
    for harm in (remove, replace):
        first = file.identity
        harm(file.path)
        assert probe(file.path, first) is Liveness.UNKNOWN
        identity = file.heal()
        assert identity is not None
        assert probe(file.path, identity) is Liveness.ALIVE
        assert probe(file.path, first) is Liveness.ALIVE, "locked: its owner is about to say so"
        begin(worker, slot, 2)
        assert suspects(file.path) == [(1, 1, 0, 2)], "the page has moved with it"
    assert file.path.stat().st_size == SIZE
    file.close()
    assert file.heal() is None, "it has ended"
    assert list(file.path.parent.iterdir()) == []


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"")
    other.replace(path)


def numbers(page: Page) -> list[int]:
    return sorted(item for _, _, _, item in suspects(written(bytes(page.numbers))))


def written(content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(content)
    _WRITTEN.append(Path(file.name))
    return _WRITTEN[-1]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    while _WRITTEN:
        _WRITTEN.pop().unlink()


_WRITTEN: list[Path] = []


def test_a_program_that_leaves_blames_nobody(tmp_path: Path) -> None:
    page, worker = Page(), Worker()
    file = OwnerFile(tmp_path / "runs.db", "me", page)
    begin(worker, page.occupy(worker, 1, run=1, generation=1, stage=0), 5)
    assert suspects(file.path) == [(1, 1, 0, 5)]
    page.blame_nobody()
    file.let_go()
    assert suspects(file.path) == []
