# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# Stages are written here as most users write them: without annotations.
"""Resources: opened by each worker, closed for certain, and given up only after some failures."""

from contextlib import asynccontextmanager

import pytest
import trio

from stagerun import Pipeline, Restart, Retry, batch, stage
from tests.conftest import Bench


class Shop:
    """A resource that notes what is done with it, and fails to open at first if told so."""

    def __init__(self, *, failures=0, error=None, opening=0.0, closing=0.0):
        self.failures, self.error = failures, error or OSError("closed today")
        self.opening, self.closing = opening, closing
        self.opened = self.closed = self.tries = 0

    @asynccontextmanager
    async def __call__(self):
        self.tries += 1
        await trio.sleep(self.opening)
        if self.tries <= self.failures:
            raise self.error
        self.opened += 1
        number = self.opened
        try:
            yield number
        finally:
            self.closed += 1
            with trio.CancelScope(shield=True):
                await trio.sleep(self.closing)


def using(shop, **options):
    @stage(name="use", resource=shop, **options)
    async def use(number, ctx):
        await trio.sleep(1)
        return ctx.resource

    return use


async def test_each_worker_opens_its_own_and_closes_it(bench: Bench) -> None:
    shop = Shop()
    result = await bench.finish(Pipeline("shop", [using(shop, workers=3)]), list(range(30)))
    assert {value async for value in result.results()} == {1, 2, 3}
    assert (shop.opened, shop.closed) == (3, 3)


async def test_no_items_open_nothing(bench: Bench) -> None:
    shop = Shop()
    assert (await bench.finish(Pipeline("shop", [using(shop)]), [])).status == "succeeded"
    assert shop.tries == 0


async def test_opening_takes_nothing_from_an_item_s_budget(bench: Bench) -> None:
    shop = Shop(opening=20)
    result = await bench.finish(Pipeline("shop", [using(shop, deadline=5)]), [1])
    assert result.stages[0].ok == 1


async def test_a_resource_that_fails_to_open_is_tried_again(bench: Bench) -> None:
    shop = Shop(failures=4)
    result = await bench.finish(Pipeline("shop", [using(shop)]), [1, 2])
    assert result.stages[0].ok == 2
    assert (shop.tries, shop.closed) == (5, 1)


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_resource_that_never_opens_fails_the_run(bench: Bench, workers: int) -> None:
    shop = Shop(failures=10**9)
    other = await bench.runtime.start(Pipeline("other", [using(Shop())]), [1] * 20)
    restart = Restart(attempts=3, base=1)
    pipeline = Pipeline("shop", [using(shop, workers=workers, restart=restart)])
    result = await bench.finish(pipeline, [1] * 8)
    assert (result.status, result.cause) == ("failed", "resource")
    assert "closed today" in result.message
    assert (await run_document_error(bench, result)) == "builtins.OSError"
    assert result.stages[0].waiting == 8
    assert (await other.wait()).status == "succeeded"


async def run_document_error(bench: Bench, result) -> str:
    ((code,),) = bench.sql(
        "SELECT g.error_code FROM generations g JOIN runs r USING (run) WHERE r.id = ?", result.id
    )
    return str(code)


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), ExceptionGroup("x", [OSError()])]
)
async def test_whatever_opening_raises_fails_the_run_alone(bench: Bench, error) -> None:
    other = await bench.runtime.start(Pipeline("other", [using(Shop())]), [1] * 5)
    shop = Shop(failures=10**9, error=error)
    result = await bench.finish(Pipeline("shop", [using(shop, restart=Restart(attempts=2))]), [1])
    assert (result.status, result.cause) == ("failed", "resource")
    assert (await other.wait()).status == "succeeded"


async def test_what_is_no_context_manager_fails_the_run(bench: Bench) -> None:
    pipeline = Pipeline("shop", [using(lambda: 5, restart=Restart(attempts=2))])
    result = await bench.finish(pipeline, [1])
    assert (result.status, result.cause) == ("failed", "resource")


async def test_an_opening_that_hangs_counts_as_a_failure(bench: Bench) -> None:
    shop = Shop(opening=1e6)
    restart = Restart(attempts=2, base=0, deadline=10)
    result = await bench.finish(Pipeline("shop", [using(shop, restart=restart)]), [1])
    assert (result.status, result.cause) == ("failed", "resource")
    assert result.seconds == pytest.approx(20)


async def test_an_opening_that_swallows_its_cancellation_does_not_hold_the_run(
    bench: Bench,
) -> None:
    release = trio.Event()

    @asynccontextmanager
    async def deaf():
        with trio.CancelScope(shield=True):
            await release.wait()
        yield 1

    restart = Restart(attempts=2, base=0, deadline=10)
    pipeline = Pipeline("shop", [using(deaf, restart=restart)], deadline=100, grace=5)
    run = await bench.runtime.start(pipeline, [1])
    with trio.move_on_after(200):
        await run.wait()
    status = run.status
    release.set()
    assert status in ("failed", "timed_out")


async def test_a_resource_is_opened_anew_after_an_attempt_was_cut(bench: Bench) -> None:
    shop = Shop()

    @stage(resource=shop, deadline=10)
    async def use(number, ctx):
        if number == 2:
            await trio.sleep_forever()
        return ctx.resource

    result = await bench.finish(Pipeline("shop", [use]), [1, 2, 3])
    assert [value async for value in result.results()] == [1, 2]
    assert bench.outcomes(result) == {1: "ok", 2: "timed_out", 3: "ok"}
    assert shop.opened == shop.closed == 2


async def test_a_resource_is_closed_when_its_run_is_cancelled(bench: Bench) -> None:
    shop = Shop(closing=1)
    run = await bench.runtime.start(Pipeline("shop", [using(shop, workers=3)]), [1] * 50)
    await trio.sleep(5.5)
    await run.cancel()
    await run.wait()
    assert shop.opened == shop.closed == 3


async def test_a_closing_that_raises_is_told_and_harms_nothing(bench: Bench) -> None:
    @asynccontextmanager
    async def rude():
        yield 1
        raise OSError("cannot close")

    run = await bench.runtime.start(Pipeline("shop", [using(rude)]), [1, 2])
    assert (await run.wait()).status == "succeeded"
    logs = [line["message"] for line in (await run.document())["recent_logs"]]
    assert any("cannot close" in line or "close" in line for line in logs), logs


async def test_a_closing_that_hangs_is_cut(bench: Bench) -> None:
    @asynccontextmanager
    async def slow():
        yield 1
        await trio.sleep_forever()

    restart = Restart(deadline=10)
    result = await bench.finish(Pipeline("shop", [using(slow, restart=restart)]), [1])
    assert result.status == "succeeded"
    assert result.seconds == pytest.approx(11)


@pytest.mark.parametrize("workers", [2, 3, 8])
async def test_idle_workers_go_home_when_the_last_item_was_in_a_pause(
    bench: Bench, workers: int
) -> None:
    """The source is through while one item pauses: every worker must still learn of the end."""
    failed: list[int] = []

    @stage(resource=Shop(), workers=workers, retry=Retry(attempts=2, base=100, cap=100))
    async def flaky(number):
        await trio.sleep(1)
        if number == 1 and not failed:
            failed.append(number)
            raise ValueError("once")
        return number

    result = await bench.finish(Pipeline("idle", [flaky]), list(range(1, 9)))
    assert result.status == "succeeded"
    assert result.seconds < 100


async def test_a_batch_stage_with_a_resource(bench: Bench) -> None:
    shop = Shop()

    @batch(size=4, wait=1, workers=2, resource=shop)
    async def use(numbers, ctx):
        await trio.sleep(0.1)
        return [ctx.resource] * len(numbers)

    async def source():
        for number in range(30):
            yield number
            await trio.sleep(0.3)

    result = await bench.finish(Pipeline("shop", [use]), source)
    assert result.stages[0].ok == 30
    assert shop.opened == shop.closed


async def test_an_abandoned_worker_is_replaced_with_a_resource_of_its_own(bench: Bench) -> None:
    release, shop = trio.Event(), Shop()

    @stage(resource=shop, deadline=5)
    async def use(number, ctx):
        if number == 1:
            with trio.CancelScope(shield=True):
                await release.wait()
        return ctx.resource

    result = await bench.finish(Pipeline("shop", [use]), [1, 2, 3])
    assert bench.outcomes(result) == {1: "timed_out", 2: "ok", 3: "ok"}
    assert shop.opened == 2
    release.set()
    await trio.sleep(1)
    assert shop.closed == 2
