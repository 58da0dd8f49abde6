"""Streams of events: each kept event once, whatever happens, and an end to every stream."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from stagerun.errors import StoreError
from tests.web.streamed import RUN, Client, database, served


async def test_a_stream_gives_all_events_and_ends_after_the_terminal_one(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event("running", "run")
        db.event("a line", level="INFO", stage="fetch", item=7)
        async with service.client() as client:
            await client.until(2)
            assert client.headers["content-type"].startswith("text/event-stream")
            assert "content-length" not in client.headers
            assert client.raw.startswith(b"retry: 1000\n\n")
            db.event("another")
            await client.until(3)
            assert not client.ended
            db.end()
            with trio.fail_after(5):
                await client.over.wait()
        assert client.ended
        assert client.ids == [1, 2, 3, 4]
        assert client.frames[1] == {
            "id": "2",
            "event": "log",
            "data": {
                "message": "a line",
                "seq": 2,
                "at": "1970-01-01T00:00:02.000+00:00",
                "generation": 1,
                "kind": "log",
                "level": "INFO",
                "stage": "fetch",
                "item": 7,
            },
        }
        assert client.frames[3]["data"]["status"] == "succeeded"
        assert service.events.open == 0


async def test_progress_names_its_sums_and_blocks_tell_where(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event('{"percent": 12.5, "stages": {"fetch": [8, 1, 2, 3, 4, 5, 6]}}', "progress")
        db.event('{"place": "jobs.py:3", "seconds": 1.5, "seq": 99}', "block", stage="fetch")
        db.event("[1, 2]", "block")
        db.event('{"x": NaN, "y": 1e999}', "survivor")
        db.event("9" * 5_000, "survivor")
        db.event("[" * 100_000, "survivor")
        db.end()
        first, second, third, fourth, fifth, sixth, _ = (await service.read()).frames
        assert first["data"]["percent"] == 12.5
        sums = {"accepted": 8, "ok": 1, "failed": 2, "timed_out": 3}
        assert first["data"]["stages"]["fetch"] == sums | {
            "cancelled": 4,
            "skipped": 5,
            "crashed": 6,
        }
        assert (second["event"], second["data"]["place"]) == ("block", "jobs.py:3")
        assert second["data"]["seq"] == 2
        assert third["data"]["message"] == "[1, 2]"
        assert fourth["data"]["message"] == '{"x": NaN, "y": 1e999}'
        assert fifth["data"]["message"] == "9" * 5_000
        assert sixth["data"]["message"] == "[" * 100_000


HOSTILE = [
    "two\nlines",
    "two\r\nlines",
    "two\rlines",
    "an end\n\nid: 99\nevent: run\ndata: {}\n\n",
    "\u2028\u2029\u0085\x0b\x0c",
    "\x00",
    "data: x",
    ": ping",
    "</script><img src=x onerror=alert(1)>",
    "\x1b]0;title\x07",
    "\U0001f600 ünï",
    "",
    " leading and trailing ",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_one_event_is_one_frame_whatever_it_says(tmp_path: Path, text: str) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event(text, stage=text, level=text)
        db.event("x", kind=text)
        db.end()
        client = await service.read()
        assert client.ids == [1, 2, 3]
        frame = client.frames[0]
        assert frame["data"]["message"] == frame["data"]["stage"] == text
        assert client.frames[1]["data"]["kind"] == text
        assert client.raw.isascii()
        assert client.raw.count(b"\n\n") == 4  # the retry, and each frame
        assert b"\r" not in client.raw


def test_lone_surrogates_are_sent_as_json_writes_them() -> None:
    from stagerun.store.feed import FeedEvent
    from stagerun.web.frames import frame
    from tests.web.streamed import parse

    sent = frame(FeedEvent(1, 0, 1, "log", None, "\ud800", None, "\udfff")).data
    assert sent.isascii()
    ((found),) = parse(sent)
    assert (found["data"]["stage"], found["data"]["message"]) == ("\ud800", "\udfff")


async def test_a_client_that_comes_back_goes_on_where_it_stood(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        for number in range(700):
            db.event(f"line {number}")
        last = db.end()
        assert (await service.read(last=0)).ids == list(range(1, last + 1))
        assert (await service.read(last=250)).ids == list(range(251, last + 1))
        assert (await service.read(last=last - 1)).ids == [last]
        async with service.client(query="after=690") as client:
            await client.until(last)
        assert client.ids == list(range(691, last + 1))
        async with service.client(last=695, query="after=690") as client:
            await client.until(last)
        assert client.ids[0] == 696  # what the browser says is newer than its page's address


async def test_whoever_has_all_of_an_ended_run_is_told_not_to_come_back(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        last = db.end()
        client = await service.read(last=last)
        assert (client.status, client.raw) == (204, b"")
        db.run(2, "empty")
        db.connection.execute(
            "UPDATE generations SET status = 'failed', cause = 'x', finished_at = 1 WHERE run = 2"
        )
        assert (await service.read("empty")).status == 204


async def test_a_stream_goes_on_with_the_generation_that_a_resume_opens(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        last = db.end("failed")
        db.resume()
        async with service.client() as client:
            await client.until(last + 1)
            assert not client.over.is_set()
            db.end()
            with trio.fail_after(5):
                await client.over.wait()
        assert client.ids == [1, 2, 3]
        assert [frame["data"]["generation"] for frame in client.frames] == [1, 2, 2]


@pytest.mark.parametrize("look", [0.25, 0.001])
async def test_a_stream_ends_with_its_generation_however_soon_that_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: float
) -> None:
    monkeypatch.setattr("stagerun.web.tails._LOOK", look)
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event()
        async with service.client() as first, service.client() as beside:
            await first.until(1)
            await beside.until(1)
            db.connection.execute("BEGIN IMMEDIATE")  # nobody can look in between
            end = db.end("failed")
            db.resume()
            db.event("of the second generation")
            db.connection.execute("COMMIT")
            with trio.fail_after(5):
                await first.over.wait()
                await beside.over.wait()
        assert first.ended
        assert first.ids == beside.ids == list(range(1, end + 1))
        async with service.client(last=end) as second, service.client() as whole:
            await second.until(end + 2)
            assert not second.over.is_set()
            last = db.end()
            with trio.fail_after(5):
                await second.over.wait()
                await whole.over.wait()
        assert second.ids == list(range(end + 1, last + 1))
        assert whole.ids == list(range(1, last + 1))  # it came while the second one was current
        assert (await service.read(last=last)).status == 204


async def test_a_generation_that_has_said_nothing_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagerun.web.tails._LOOK", 3600)  # it is looked here, and only then
    async with database(tmp_path) as db, served(db.path, ping=0.01) as service:
        db.run()
        end, tails = db.end("failed"), service.events.tails
        with tails.listening(1, end):
            await tails.look()
            db.open_generation()  # of which that look could not know
            async with service.client(last=end) as client:
                await client.pinged()
                db.event("at last")
                await tails.look()
                await client.until(end + 1)
                assert not client.over.is_set()


async def test_a_page_of_many_generations_is_sent_whole_to_whoever_begins_behind_them(
    tmp_path: Path,
) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        ends = []
        for _ in range(5):
            ends.append(db.end("failed"))
            db.resume()
        last = db.end()
        for start in (None, 0, ends[0] - 1, ends[2], ends[4]):
            client = await service.read(last=start)
            assert client.ids == list(range((start or 0) + 1, last + 1))


async def test_whoever_misses_deleted_events_gets_the_runs_document_first(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        for number in range(20):
            db.event(f"line {number}")
        db.prune(*range(2, 11))
        last = db.end()
        client = await service.read(last=1)
        assert client.frames[0]["event"] == "reset"
        assert client.frames[0]["id"] == "1"
        assert client.frames[0]["data"]["id"] == RUN
        assert client.ids == list(range(11, last + 1))
        assert [frame["event"] for frame in client.frames].count("reset") == 1
        # Nobody who misses nothing, and nobody who does not say what it has.
        assert (await service.read(last=10)).frames[0]["event"] == "log"
        fresh = await service.read()
        assert fresh.ids == [1, *range(11, last + 1)]
        assert fresh.frames[0]["event"] == "log"
        # But who says that it has nothing.
        assert (await service.read(last=0)).frames[0]["event"] == "reset"


async def test_an_identifier_from_the_future_begins_anew(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event()
        async with service.client(last=10**17) as client:
            await client.until(1)
            assert client.frames[0]["event"] == "reset"
            assert client.frames[0]["id"] == "0"
            db.event()
            await client.until(2)
        assert client.ids == [1, 2]


@pytest.mark.parametrize("last", ["x", "-1", "1.0", "٣", "1" * 19, " ", "0x1", "1,2"])
async def test_garbage_for_an_identifier_is_refused(tmp_path: Path, last: str) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        from urllib.parse import quote

        async with service.client(query=f"after={quote(last)}") as client:
            await client.over.wait()
        assert client.status == 400
        assert b"application/problem+json" in client.headers["content-type"].encode()


async def test_an_unknown_run_is_not_found(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        assert (await service.read("nobody")).status == 404
        async with service.client("rrr") as client:  # the beginning of an identifier is enough
            pass
        assert client.status in (0, 200)


async def test_a_run_that_is_deleted_ends_its_streams(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event()
        async with service.client() as client:
            await client.until(1)
            db.delete()
            with trio.fail_after(5):
                await client.over.wait()
        assert client.ended


async def test_a_silent_stream_shows_that_it_lives(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path, ping=0.05) as service:
        db.run()
        async with service.client() as client:
            await client.pinged()


async def test_a_stream_ends_when_its_client_goes(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event()
        async with service.client() as client:
            await client.until(1)
            assert service.events.open == 1
            client.leave()
            with trio.fail_after(1):
                await client.over.wait()
        assert service.events.open == 0
        assert not client.ended


async def test_a_stream_ends_when_it_is_old(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path, age=0.5) as service:
        db.run()
        db.event()
        client = await service.read()
        assert client.ids == [1]
        assert client.ended


async def test_a_client_that_takes_nothing_is_dropped(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path, taking=0.05) as service:
        db.run()
        db.event()
        async with service.client(takes=False) as client:
            with trio.fail_after(5):
                await client.over.wait()
        assert not client.ended
        assert service.events.open == 0


async def test_streams_end_when_the_program_is_left(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event()
        async with service.client() as waits, service.client(takes=False) as stuck:
            await waits.until(1)
            await stuck.offered.wait()
            began = trio.current_time()
            service.backend.leaving = True
            with trio.fail_after(1):
                await waits.over.wait()
                await stuck.over.wait()
            assert trio.current_time() - began < 0.5
            assert waits.ended
            late = await service.read()
            assert late.status == 503
            assert "retry-after" in late.headers


async def test_leaving_the_service_ends_streams(tmp_path: Path) -> None:
    async with database(tmp_path) as db, trio.open_nursery() as nursery:
        db.run()
        db.event()
        client = Client()
        async with served(db.path) as service:
            nursery.start_soon(client.connect, service.app, RUN, None)
            await client.until(1)
        with trio.fail_after(1):
            await client.over.wait()
        assert client.ended


async def test_streams_are_bounded_in_all_and_for_each_client(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path, streams=3, each=1) as service:
        db.run()
        db.event()
        far: dict[str, Any] = {"address": "203.0.113.9"}
        async with service.client(**far) as first, service.client() as near:
            await first.until(1)
            await near.until(1)
            async with service.client(**far) as second:
                await second.over.wait()
            assert second.status == 429
            assert "retry-after" in second.headers
            async with service.client() as also_near:
                await also_near.until(1)
                assert (await service.read()).status == 503
        assert service.events.open == 0
        async with service.client(**far) as again:
            await again.until(1)


async def test_streams_that_all_begin_at_once_wait_for_each_other(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        for _ in range(100):
            db.event("x" * 200)
        last, asked = db.end(), service.backend.pool
        at_once, most = 0, 0

        class Watched:
            async def ask(self, question: Any) -> Any:
                nonlocal at_once, most
                at_once += 1
                most = max(most, at_once)
                try:
                    return await asked.ask(question)
                finally:
                    at_once -= 1

        service.backend.pool = Watched()
        async with trio.open_nursery() as nursery:
            clients = [Client() for _ in range(50)]
            for client in clients:
                nursery.start_soon(client.connect, service.app, RUN, None)
        assert all(client.ids == list(range(1, last + 1)) for client in clients)
        assert most <= 3  # with the look for all of them


async def test_a_stream_that_gets_no_turn_is_refused(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path, patience=0.01) as service:
        db.run()
        async with service.events._turns, service.events._turns:
            with pytest.raises(StoreError):
                await service.events.ask(lambda _: None)


async def test_a_database_that_does_not_answer_keeps_streams_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with database(tmp_path) as db, served(db.path, pause=0.01) as service:
        db.run()
        db.event()
        async with service.client() as client:
            await client.until(1)
            pool, tail = service.backend.pool, service.events.tails
            failed = trio.Event()

            class Broken:
                async def ask(self, _question: Any) -> Any:
                    failed.set()
                    raise StoreError("the disk is on fire")

            service.backend.pool = Broken()
            await failed.wait()
            await tail.look()
            service.backend.pool = pool
            db.event()
            await client.until(2)
    assert caplog.text.count("on fire") == 1


async def test_head_tells_the_headers_alone(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event()
        async with service.client(method="HEAD") as client:
            with trio.fail_after(5):
                await client.over.wait()
        assert (client.status, client.raw) == (200, b"")


async def test_a_stream_holds_nothing_while_it_waits(tmp_path: Path) -> None:
    async with database(tmp_path) as db, served(db.path) as service:
        db.run()
        db.event("x" * 100_000)
        async with service.client() as client:
            await client.until(1)
            (tail,) = service.events.tails._tails.values()
            assert not tail._frames  # it was read for this one client alone
            assert tail.listeners == 1


def test_the_same_holds_under_asyncio(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path) as db, served(db.path) as service:
            db.run()
            db.event()
            async with service.client() as client, service.client() as other:
                await client.until(1)
                await other.until(1)
                other.leave()
                with anyio.fail_after(1):
                    await other.over.wait()
                db.event()
                await client.until(2)
                service.backend.leaving = True
                with anyio.fail_after(1):
                    await client.over.wait()
                assert client.ended

    asyncio.run(main())
