"""Whenever a stream is cut, and whatever is written and deleted meanwhile: each event once."""

import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from stagerun.web import tails
from tests.web.streamed import Client, Database, Served, database, parse, served

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 400)),
        st.tuples(st.just("delete"), st.integers(0, 99)),
        st.tuples(st.just("cut"), st.integers(0, 60_000)),
        st.tuples(st.just("resume"), st.just(0)),
        st.tuples(st.just("turn"), st.integers(0, 60_000)),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_LOOK", 0.001)
    monkeypatch.setattr(tails, "_FRAMES", 50)  # so that some fall behind the ring


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, connected=st.integers(0, 3))
def test_every_kept_event_comes_once_over_any_number_of_reconnects(
    steps: list[tuple[str, int]], connected: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(_try, Path(folder), steps, connected)


async def _try(folder: Path, steps: list[tuple[str, int]], connected: int) -> None:
    async with database(folder) as db, served(db.path) as service:
        db.run()
        db.event("running", "run")
        seen: list[int] = []
        last: int | None = None
        for place, (step, number) in enumerate(steps):
            if step == "cut":
                # Some of the steps happen while the client listens, the others before it is back.
                during = 0 if place % 4 > connected else number % 50 + 1
                raw = await _listen(db, service, last, cut=number, during=during)
                last = _take(raw, seen, last)
            elif step == "turn":
                raw = await _past_an_end(db, service, last, cut=number)
                last = _take(raw, seen, last)
            else:
                _do(db, step, number)
        end = db.end()
        client = await service.read(last=last)
        assert (client.status == 204) == (last == end)
        _take(client.raw, seen, last)
        kept = [seq for (seq,) in db.connection.execute("SELECT seq FROM events ORDER BY seq")]
        assert seen == sorted(set(seen)), "an event came twice, or too late"
        assert set(kept) <= set(seen), "an event was left out"


def _do(db: Database, step: str, number: int) -> None:
    db.connection.execute("BEGIN IMMEDIATE")
    match step:
        case "write":
            for each in range(number):
                db.event(f"line {each} " + "x" * (each * 37 % 700))
        case "delete":  # the oldest log lines, as the ledger does
            ((most,),) = db.connection.execute("SELECT max(seq) FROM events")
            db.prune(*range(2, most * number // 100))
        case "resume":
            db.end("failed")
            db.resume()
    db.connection.execute("COMMIT")


async def _listen(
    db: Database, service: Served, last: int | None, *, cut: int, during: int
) -> bytes:
    """Listen until *cut* bytes have come, or all there are; write something meanwhile."""
    ((end,),) = db.connection.execute("SELECT events FROM runs")
    async with service.client(last=last) as client:
        if during:
            await _more(client)
            _do(db, "write", during)
        with trio.fail_after(20):
            while len(client.raw) < cut and max([*client.ids, last or 0]) < end + during:
                await _more(client)
    return client.raw[:cut]


async def _past_an_end(db: Database, service: Served, last: int | None, *, cut: int) -> bytes:
    """Listen while the run ends and is resumed at once; the stream ends with that generation."""
    async with service.client(last=last) as client:
        for _ in range(cut % 4):  # it may have come far, or not have begun
            await _more(client)
        begun, ((end,),) = client.status, db.connection.execute("SELECT events + 1 FROM runs")
        _do(db, "resume", 0)
        _do(db, "write", cut % 50 + 1)
        with trio.fail_after(20):
            while begun and not client.over.is_set():
                await _more(client)
    if begun:
        assert client.ended
        assert [last, *client.ids][-1] == end, "it did not end with its generation"
    return client.raw[:cut]


async def _more(client: Client) -> None:
    with trio.move_on_after(0.02):
        await client.more.wait()


def _take(raw: bytes, seen: list[int], last: int | None) -> int | None:
    """Take what a browser takes, whole frames only; return the last one's number.

    Whoever said what it has must hear of each gap before it comes.
    """
    warned = last is None
    for frame in parse(raw):
        seq = int(frame["id"])
        if frame["event"] == "reset":
            warned = True
        else:
            assert warned or seq == (last or 0) + 1, "a gap, and nobody told of it"
            seen.append(seq)
        last = seq
    return last
