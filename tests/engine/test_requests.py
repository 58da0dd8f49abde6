# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Requests through the database: idempotent, and truthful however they race with the run's end."""

import json
from typing import Any

import pytest
import trio

from stagerun import CancellationToken, Pipeline, stage
from stagerun.store import requests
from stagerun.store.transaction import Statement, Unit
from tests.conftest import Bench


@stage(deadline=100)
async def second(_number):
    await trio.sleep(1)


@stage(deadline=1000)
async def forever(_number):
    await trio.sleep_forever()


def rows(bench: Bench) -> list[Any]:
    return bench.sql(
        "SELECT q.kind, q.taken_at IS NOT NULL, q.done_at IS NOT NULL, q.answer, g.status, g.cause,"
        " g.message FROM requests q JOIN generations g USING (run, generation)"
    )


async def test_a_request_sets_the_token_and_the_ending_closes_it(bench: Bench) -> None:
    token = CancellationToken()
    run = await bench.runtime.start(Pipeline("forever", [forever], grace=5), [1], token=token)
    await trio.sleep(10)
    answer = await bench.runtime.cancel(run.id, "wrong input")
    assert (answer["became"], answer["run"], answer["grace"]) == ("cancelling", run.id, 5)
    result = await run.wait()
    assert (result.status, result.cause) == ("cancelled", "requested")
    assert result.message.startswith("wrong input (asked by pid ")
    assert result.seconds == pytest.approx(10, abs=0.1)
    assert not token.cancelled, "the host's own token is the host's"
    await trio.sleep(2)
    ((kind, taken, done, said, status, *_),) = rows(bench)
    assert (kind, taken, done) == ("cancel", 1, 1)
    assert json.loads(said)["status"] == status == "cancelled"


async def test_cancelling_again_and_after_the_end_changes_nothing(bench: Bench) -> None:
    @stage
    async def careful(_number, ctx):
        await ctx.token.wait()
        await trio.sleep(3)

    run = await bench.runtime.start(Pipeline("careful", [careful], grace=10), [1])
    await trio.sleep(1)
    first = await bench.runtime.cancel(run.id, "the first")
    again = await bench.runtime.cancel(run.id, "the second")
    assert first["became"] == again["became"] == "cancelling"
    assert "stopping already (cancelled: the first" in again["message"]
    await run.wait()
    late = await bench.runtime.cancel(run.id, "the third")
    later = await bench.runtime.cancel(run.id, "the fourth")
    assert late == later
    assert (late["became"], late["status"], late["cause"]) == ("ended", "cancelled", "requested")
    assert late["message"].startswith("the first")
    await trio.sleep(2)
    assert all(done for _, _, done, *_ in rows(bench))


@pytest.mark.parametrize("at", [0.0, 0.4, 0.94, 0.95, 0.999, 1.0, 1.001, 1.05, 1.5])
async def test_beside_its_completion_the_last_answer_is_what_the_row_says(
    bench: Bench, at: float
) -> None:
    run = await bench.runtime.start(Pipeline("second", [second]), [1])
    await trio.sleep(at)
    answer = await bench.runtime.cancel(run.id)
    result = await run.wait()
    if answer["became"] == "ended":
        assert (answer["status"], answer["cause"]) == (result.status, result.cause)
    after = await bench.runtime.cancel(run.id)
    assert (after["status"], after["cause"], after["message"]) == (
        result.status,
        result.cause,
        result.message,
    )
    await trio.sleep(2)
    for _, _, done, said, status, cause, message in rows(bench):
        told = json.loads(said)
        assert done
        assert (told["status"], told["cause"], told["message"]) == (status, cause, message)


async def test_a_run_that_succeeded_stays_so(bench: Bench) -> None:
    run = await bench.runtime.start(Pipeline("second", [second]), [1])
    await run.wait()
    answer = await bench.runtime.cancel(run.id)
    assert (answer["became"], answer["status"]) == ("ended", "succeeded")
    assert rows(bench) == []


async def test_a_queued_run_ends_at_once_and_only_once(bench: Bench) -> None:
    run = await bench.runtime.start(Pipeline("forever", [forever]), [1])
    recorder = bench.runtime._recorder
    waits = Unit(Statement("UPDATE generations SET status = 'queued', started_at = NULL"))
    await recorder.write(waits)
    answer = await bench.runtime.cancel(run.id, "not needed")
    assert (answer["became"], answer["status"]) == ("ended", "cancelled")
    row = bench.sql("SELECT status, cause, message, requested_at = finished_at FROM generations")
    assert row[0][:2] == ("cancelled", "requested")
    assert row[0][2].startswith("not needed")
    assert row[0][3] == 1
    assert bench.sql("SELECT max(seq) = (SELECT events FROM runs), kind FROM events") == [
        (1, "run")
    ]
    again = await bench.runtime.cancel(run.id, "again")
    assert again["message"] == answer["message"]


async def test_a_request_to_a_generation_that_has_ended_is_refused(bench: Bench) -> None:
    run = await bench.runtime.start(Pipeline("second", [second]), [1])
    at = await bench.store.ask(requests.standing(run.id))
    await run.wait()
    recorder = bench.runtime._recorder
    assert await recorder.write(requests.file(at, "cancel", {}, 1)) is None
    assert rows(bench) == []


async def test_a_row_written_by_hand_and_wrongly_harms_nobody(bench: Bench) -> None:
    run = await bench.runtime.start(Pipeline("forever", [forever]), [1])
    recorder = bench.runtime._recorder
    for kind in ("dance", "why"):
        strange = (
            "INSERT INTO requests (run, generation, kind, body, asked_at) VALUES (1, 1, ?, ?, 0)"
        )
        await recorder.write(Unit(Statement(strange, (kind, "[not json"))))
    answer = await bench.runtime.cancel(run.id, "all the same")
    assert answer["became"] == "cancelling"
    await run.wait()
    await trio.sleep(2)
    assert all(done for _, _, done, *_ in rows(bench))


async def test_a_callback_of_the_token_that_raises_does_not_keep_the_run(bench: Bench) -> None:
    token_of_run = []

    @stage(deadline=1000)
    async def hooked(_number, ctx):
        token_of_run.append(ctx.token)
        ctx.token.add_callback(lambda: 1 / 0)
        await trio.sleep_forever()

    run = await bench.runtime.start(Pipeline("hooked", [hooked], grace=1), [1])
    await trio.sleep(1)
    await bench.runtime.cancel(run.id)
    assert (await run.wait()).status == "cancelled"
    assert token_of_run[0].cancelled
