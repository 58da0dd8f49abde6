# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""`why` in virtual time: what a run waits for is named, whatever it is, and so is its end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from stagerun import Pipeline, Retry, UsageError, batch, stage
from tests.conftest import Bench


async def test_a_lock_that_nobody_releases_is_named_with_its_line(bench: Bench) -> None:
    lock = trio.Lock()

    @stage(deadline=60)
    async def locked(number):
        async with lock:
            return number

    async with lock:
        run = await bench.runtime.start(Pipeline("locked", [locked]), [1])
        await trio.sleep(10)
        told = await run.why()
        ((working,),) = [one["working"] for one in told["stages"]]
        assert (working["items"], working["attempt"]) == ((1,), 1)
        assert working["seconds"] == pytest.approx(10, abs=0.1)
        assert working["cut_in"] == pytest.approx(50, abs=1)
        (place,) = working["places"]
        assert place["file"].endswith("test_why_waits.py")
        assert (place["code"], place["awaits"]) == ("async with lock:", "trio.Lock.acquire")
        assert "item 1 of locked" in told["summary"]
        assert "trio.Lock.acquire" in told["summary"]
    await run.wait()


async def test_a_full_mailbox_leads_to_the_slow_stage_behind_it(bench: Bench) -> None:
    @stage(workers=4)
    async def quick(number):
        return number

    @stage(buffer=3, deadline=100)
    async def slow(_number):
        await trio.sleep(50)

    run = await bench.runtime.start(Pipeline("full", [quick, slow]), list(range(30)))
    await trio.sleep(10)
    told = await run.why()
    facts = {one["name"]: one for one in told["stages"]}
    assert facts["slow"]["waiting"] >= facts["slow"]["limit"] == 3
    assert facts["slow"]["putters"] > 0
    assert "item 1 of slow" in told["summary"]
    assert "it is full" in told["summary"]
    await run.cancel()
    await run.wait()


async def test_a_retry_that_waits_is_named_with_its_reason_and_its_end(bench: Bench) -> None:
    @stage(deadline=300, retry=Retry(attempts=3, base=100, cap=100))
    async def refused(_number):
        raise ConnectionRefusedError("nobody listens")

    run = await bench.runtime.start(Pipeline("retry", [refused]), [1, 2])
    await trio.sleep(1)
    told = await run.why()
    pausing = told["stages"][0]["pausing"]
    assert [one["item"] for one in pausing] == [1, 2]
    assert pausing[0]["resumes_in"] == pytest.approx(49, abs=1)
    assert "nobody listens" in pausing[0]["why"]
    assert "item 1 and 1 more of stage refused to be tried again" in told["summary"]
    assert told["next"]["what"] == "item 1 of refused begins attempt 2"
    await run.cancel()
    await run.wait()


async def test_a_source_that_gives_nothing_is_named_with_its_line(bench: Bench) -> None:
    async def silent() -> AsyncIterator[int]:
        yield 1
        await trio.Event().wait()

    @stage
    async def same(number):
        return number

    run = await bench.runtime.start(Pipeline("silent", [same], source_deadline=60), silent)
    await trio.sleep(10)
    told = await run.why()
    assert told["source"]["place"]["code"] == "await trio.Event().wait()"
    assert "next item of its source" in told["summary"]
    assert "The source is given up in 50" in told["summary"]
    await run.wait()


async def test_a_stage_s_own_tasks_are_looked_at_too(bench: Bench) -> None:
    async def ask(event: trio.Event) -> None:
        await event.wait()

    @stage
    async def asks(_number):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, trio.Event())

    run = await bench.runtime.start(Pipeline("asks", [asks]), [1])
    await trio.sleep(1)
    places = (await run.why())["stages"][0]["working"][0]["places"]
    assert [place["code"] for place in places] == [
        "await event.wait()",
        "async with trio.open_nursery() as nursery:",
    ]
    assert places[0]["awaits"] == "trio.Event.wait"
    await run.cancel()
    await run.wait()


async def test_a_batch_is_one_attempt_of_many_items(bench: Bench) -> None:
    @batch(size=3, wait=1, deadline=60)
    async def together(numbers):
        await trio.sleep(50)
        return numbers

    run = await bench.runtime.start(Pipeline("batch", [together]), [1, 2, 3])
    await trio.sleep(5)
    told = await run.why()
    assert told["stages"][0]["working"][0]["items"] == (1, 2, 3)
    assert "the batch of 3 items from 1 on of together" in told["summary"]
    await run.wait()


async def test_a_run_that_waits_in_line_says_for_which_key(bench: Bench) -> None:
    @stage(deadline=1000)
    async def nap(_number):
        await trio.sleep(100)

    line: dict[str, Any] = {"concurrency_key": "customer-7", "concurrency": 1}
    first = await bench.runtime.start(Pipeline("nap", [nap]), [1], **line)
    second = await bench.runtime.start(Pipeline("nap", [nap]), [1], **line)
    await trio.sleep(10)
    told = await second.why()
    assert (told["status"], told["turn"]) == ("queued", "customer-7")
    assert told["seconds"] == pytest.approx(10, abs=0.1)
    assert "waits for a place of the key customer-7" in told["summary"]
    answer = await bench.runtime.cancel(second.id, "not needed")
    assert (answer["became"], answer["status"]) == ("ended", "cancelled")
    assert (await second.wait()).status == "cancelled"
    assert (await first.wait()).status == "succeeded"


async def test_an_attempt_that_must_beat_says_when_it_counts_as_stalled(bench: Bench) -> None:
    @stage(deadline=1000, heartbeat_timeout=30)
    async def silent(_number):
        await trio.sleep(900)

    run = await bench.runtime.start(Pipeline("silent", [silent]), [1])
    await trio.sleep(10)
    told = await run.why()
    assert told["stages"][0]["working"][0]["stalls_in"] == pytest.approx(20, abs=0.1)
    assert "It is cut as stalled in 20.0 s, unless it beats" in told["summary"]
    await run.wait()


async def test_a_run_that_is_asked_to_stop_says_when_it_will_have_ended(bench: Bench) -> None:
    @stage
    async def careful(_number, ctx):
        await ctx.token.wait()
        await trio.sleep(3)

    run = await bench.runtime.start(Pipeline("careful", [careful], grace=5), [1])
    await trio.sleep(1)
    await run.cancel("enough")
    await trio.sleep(1)
    told = await run.why()
    assert told["stopping"]["message"] == "enough"
    assert told["stopping"]["ends_in"] == pytest.approx(4.5, abs=0.1)
    await run.wait()


async def test_the_story_of_a_run_that_is_over_groups_its_failures(bench: Bench) -> None:
    @stage(workers=5)
    async def picky(number):
        await trio.sleep(number)
        if number % 2:
            raise ValueError("odd")
        return number

    run = await bench.runtime.start(Pipeline("picky", [picky], least_ok=0.9), list(range(10)))
    await run.wait()
    told = await run.why()
    assert told == await bench.runtime.why(run.id)
    assert (told["told_by"], told["ended"], told["status"]) == ("database", True, "failed")
    (sort,) = told["failures"]
    assert (sort["stage"], sort["outcome"], sort["cause"]) == ("picky", "failed", "error")
    assert (sort["count"], sort["first_item"]) == (5, 2)
    assert told["slowest"][0]["item"] == 10
    assert told["recent_logs"][-1]["message"].startswith("run failed after")
    assert told["summary"].endswith("5 items did not succeed, in stage picky (failed): odd")


async def test_a_run_that_nobody_knows_is_a_mistake_of_the_user(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no run"):
        await bench.runtime.why("0" * 32)
    with pytest.raises(UsageError, match="no run"):
        await bench.runtime.cancel("0" * 32)
