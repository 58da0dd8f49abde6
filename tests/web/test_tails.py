"""One look for all who listen: a bounded ring of what is new, and nothing for whoever is slow."""

from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun.store.feed import Feed, FeedEvent
from stagerun.store.pool import ReadingPool
from stagerun.web import tails
from stagerun.web.tails import Tail, Tails
from tests.web.streamed import database


def page(*seqs: int, last: int | None = None, first_kept: int = 1, ended: bool = False) -> Feed:
    events = tuple(FeedEvent(seq, 0, 1, "log", None, None, None, "x") for seq in seqs)
    return Feed(events, first_kept, last or (seqs[-1] if seqs else 0), 1, ended)


def ids(data: bytes) -> list[int]:
    lines = data.decode().splitlines()
    return [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]


def test_the_ring_gives_what_is_new_from_any_point_that_it_holds() -> None:
    tail = Tail(1, 10)
    tail.take(page(11, 12, 13))
    for start in (10, 11, 12, 13):
        chunk = tail.after(start)
        assert chunk is not None
        assert ids(chunk.data) == list(range(start + 1, 14))
        assert chunk.seq == 13
    assert tail.after(9) is None
    assert tail.after(14) is None  # of that it does not know yet


def test_the_ring_is_bounded_by_frames_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_FRAMES", 3)
    tail = Tail(1, 0)
    tail.take(page(*range(1, 11)))
    assert (tail.floor, tail.read, len(tail._frames)) == (7, 10, 3)
    assert tail.after(6) is None
    monkeypatch.setattr(tails, "_BYTES", 200)
    tail.take(page(11, 12, 13))
    assert tail._size <= 200
    assert tail._size == sum(len(frame.data) for frame in tail._frames)


def test_one_frame_above_the_bound_is_left_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_BYTES", 10)
    tail = Tail(1, 0)
    tail.take(page(1))
    assert (tail.floor, tail.read, tail._size) == (1, 1, 0)


def test_a_chunk_is_made_once_for_all_who_stand_at_the_same_place() -> None:
    tail = Tail(1, 0)
    tail.take(page(1, 2))
    assert tail.after(0) is tail.after(0)
    tail.take(page(3))
    chunk = tail.after(0)
    assert chunk is not None
    assert ids(chunk.data) == [1, 2, 3]


def test_events_that_were_deleted_before_they_were_seen_are_left_to_the_database() -> None:
    tail = Tail(1, 10)
    tail.take(page(11))
    tail.take(page(20, 21, first_kept=20))
    assert tail.after(11) is None  # so that the reader finds the gap, and tells of it
    assert tail.after(20) is None
    assert tail.after(21) is not None


def test_an_end_is_news_and_so_is_its_revocation() -> None:
    tail = Tail(1, 10)
    news = tail.news
    tail.take(page(last=10))
    assert not news.is_set()
    tail.take(page(last=10, ended=True))
    assert news.is_set()
    assert tail.final == 10
    news = tail.news
    tail.take(page(11))
    assert news.is_set()
    assert tail.final is None
    tail.take(None)
    assert tail.gone


def test_a_page_that_does_not_reach_the_end_is_followed_by_another_at_once() -> None:
    tail = Tail(1, 0)
    tail.take(page(1, 2, last=5))
    assert tail.behind
    tail.take(page(3, 4, 5))
    assert not tail.behind


async def test_all_runs_are_looked_at_by_one_question(tmp_path: Path) -> None:
    async with database(tmp_path) as db:
        pool = ReadingPool(db.path)
        asked = 0

        class Counting:
            async def ask(self, question: Any) -> Any:
                nonlocal asked
                asked += 1
                return await pool.ask(question)

        watched = Tails(Counting)  # type: ignore[arg-type]  # it counts
        await watched.look()
        assert asked == 0  # nobody listens
        for number in range(1, 31):
            db.run(number, f"run{number}")
            db.event(run=number)
        with watched.listening(1, 0) as first, watched.listening(1, 0) as again:
            assert first is again
            with watched.listening(2, 0) as second:
                db.delete(run=2)
                await watched.look()
                assert (first.read, second.gone) == (1, True)
                assert asked == 1
            await watched.look()
            assert len(watched) == 1
        await watched.look()
        assert len(watched) == 0
        pool.close()


async def test_watching_goes_on_until_it_is_cancelled(tmp_path: Path) -> None:
    async with database(tmp_path) as db, trio.open_nursery() as nursery:
        pool = ReadingPool(db.path)
        db.run()
        watched = Tails(lambda: pool)
        nursery.start_soon(watched.watch)
        with watched.listening(1, 0) as tail:
            db.event()
            with trio.fail_after(5):
                await tail.news.wait()
            assert tail.read == 1
        nursery.cancel_scope.cancel()
    pool.close()
