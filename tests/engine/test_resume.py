"""Resume: a new generation of the same run repeats only what has no final outcome."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, Stage, UsageError, batch, collect, stage
from stagerun.store.documents import item_list
from stagerun.store.inline import InlineStore
from tests.conftest import Bench, listed, sums_hold

NewBench = Callable[..., AbstractAsyncContextManager[Bench]]


class World:
    """Counts what is executed, and lets chosen items misbehave until it is healed."""

    def __init__(self, *broken: Any, hangs: Any = ()) -> None:
        self.calls: Counter[tuple[str, Any]] = Counter()
        self.broken = set(broken)
        self.hangs = set(hangs)

    async def call(self, name: str, value: Any) -> None:
        self.calls[name, value] += 1
        if value in self.hangs:
            await trio.sleep_forever()
        if value in self.broken:
            raise ValueError(f"{value} is broken")

    def executed(self, name: str) -> dict[Any, int]:
        return {value: count for (stage, value), count in self.calls.items() if stage == name}


def two_stages(world: World) -> tuple[Stage, Stage]:
    @stage
    async def double(n: int) -> int:
        await world.call("double", n)
        return n * 2

    @stage(deadline=1000)
    async def write(n: int) -> int:
        await world.call("write", n)
        return n + 1

    return double, write


async def test_a_cancelled_run_goes_on_where_it_stopped(bench: Bench) -> None:
    world = World(hangs=[6])
    pipeline = Pipeline("p", two_stages(world))
    run = await bench.runtime.start(pipeline, [1, 2, 3, 4])
    await trio.sleep(5)
    await run.cancel("enough")
    first = await run.wait()
    assert first.status == "cancelled"
    world.hangs.clear()
    again = await run.resume()
    assert (again.id, again.generation) == (run.id, 2)
    second = await again.wait()
    assert second.status == "succeeded"
    assert await listed(second.results()) == [3, 5, 7, 9]
    assert world.executed("double") == {1: 1, 2: 1, 3: 1, 4: 1}
    assert world.executed("write") == {2: 1, 4: 1, 6: 2, 8: 1}
    assert [c.ok for c in second.stages] == [4, 4]
    assert first.status == (await run.wait()).status == "cancelled", "an ending is final"


async def test_failed_items_run_again_only_if_asked_for(bench: Bench) -> None:
    world = World(2)
    pipeline = Pipeline("p", two_stages(world))
    first = await bench.finish(pipeline, [1, 2, 3])
    assert first.status == "succeeded"
    with pytest.raises(UsageError, match=r"has succeeded: there is nothing to resume"):
        await bench.runtime.resume(first.id, pipeline)
    world.broken.clear()
    run = await bench.runtime.resume(first.id, pipeline, failed=True)
    second = await run.wait()
    assert await listed(second.results()) == [3, 5, 7]
    assert world.executed("double") == {1: 1, 2: 2, 3: 1}
    assert [(c.accepted, c.ok, c.failed) for c in second.stages] == [(3, 3, 0), (3, 3, 0)]


async def test_the_document_lists_the_earlier_generations(bench: Bench) -> None:
    world = World(2)
    pipeline = Pipeline("p", two_stages(world), least_ok=1.0)
    run = await bench.runtime.start(pipeline, [1, 2])
    assert (await run.wait()).cause == "least_ok"
    world.broken.clear()
    again = await run.resume(failed=True)
    await again.wait()
    document = await again.document()
    assert (document["generation"], document["status"]) == (2, "succeeded")
    (earlier,) = document["generations"]
    assert (earlier["generation"], earlier["status"], earlier["cause"]) == (1, "failed", "least_ok")


@pytest.mark.parametrize("kind", ["list", "function", "generator function", "async"])
async def test_a_run_of_a_stopped_program_is_resumed_by_the_next(
    kind: str, tmp_path: Path, new_bench: NewBench
) -> None:
    async def later() -> AsyncIterator[int]:
        for n in range(6):
            yield n

    def generated() -> Iterator[int]:
        yield from range(6)

    items: Any = {
        "list": list(range(6)),
        "function": lambda: range(6),
        "generator function": generated,
        "async": later,
    }[kind]
    world = World(hangs=[3])
    pipeline = Pipeline("p", two_stages(world), source=items)
    database = str(tmp_path / "runs.db")
    async with new_bench(store=InlineStore(database)) as bench:
        run = await bench.runtime.start(pipeline)
        await trio.sleep(5)
    world.hangs.clear()
    async with new_bench(store=InlineStore(database)) as bench:
        again = await bench.runtime.resume(run.id, pipeline)
        result = await again.wait()
        sums_hold(bench.store._connection)
        assert await listed(result.results()) == [1, 3, 5, 7, 9, 11]
        assert result.status == "succeeded"
    assert world.executed("double") == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1}


async def test_what_an_iterator_had_given_is_finished_and_the_run_says_it_is_gone(
    tmp_path: Path, new_bench: NewBench
) -> None:
    world = World(hangs=[1])
    pipeline = Pipeline("p", two_stages(world))
    database = str(tmp_path / "runs.db")

    async def endless() -> AsyncIterator[int]:
        yield 0
        yield 1
        await trio.sleep_forever()

    async with new_bench(store=InlineStore(database)) as bench:
        run = await bench.runtime.start(pipeline, endless())
        await trio.sleep(5)
    world.hangs.clear()
    async with new_bench(store=InlineStore(database)) as bench:
        result = await (await bench.runtime.resume(run.id, pipeline)).wait()
        assert (result.status, result.cause) == ("failed", "source_gone")
        assert await listed(result.results()) == [1, 3]


async def test_changed_stages_are_named_and_repeated_only_if_asked_for(bench: Bench) -> None:
    world = World(hangs=[6])
    double, write = two_stages(world)
    run = await bench.runtime.start(Pipeline("p", [double, write]), [1, 2, 3])
    await trio.sleep(5)
    await run.cancel()
    await run.wait()
    world.hangs.clear()
    changed = Pipeline("p", [double, write.with_options(version=2)])
    words = r"stage 2 was write \(each, version 1\), is write \(each, version 2\)"
    with pytest.raises(UsageError, match=words):
        await bench.runtime.resume(run.id, changed)
    again = await bench.runtime.resume(run.id, changed, changed="repeat")
    result = await again.wait()
    assert await listed(result.results()) == [3, 5, 7]
    assert world.executed("double") == {1: 1, 2: 1, 3: 1}
    assert world.executed("write") == {2: 2, 4: 2, 6: 2}


async def test_children_groups_and_batches_go_on(tmp_path: Path, new_bench: NewBench) -> None:
    world = World(hangs=["b1"])

    @stage
    async def split(text: str) -> AsyncIterator[str]:
        await world.call("split", text)
        for n in range(2):
            yield f"{text}{n}"

    @batch(size=2, deadline=1000)
    async def embed(texts: list[str]) -> list[str]:
        for text in texts:
            await world.call("embed", text)
        return [text.upper() for text in texts]

    @collect(by=lambda text: text[-1])
    async def join(members: AsyncIterator[Any]) -> str:
        return "+".join([member.value async for member in members if member.ok])

    pipeline = Pipeline("p", [split, embed, join])
    database = str(tmp_path / "runs.db")
    async with new_bench(store=InlineStore(database)) as bench:
        run = await bench.runtime.start(pipeline, ["a", "b", "c"])
        await trio.sleep(5)
    world.hangs.clear()
    async with new_bench(store=InlineStore(database)) as bench:
        result = await (await bench.runtime.resume(run.id, pipeline)).wait()
        sums_hold(bench.store._connection)
        assert await listed(result.results()) == ["A0+B0+C0", "A1+B1+C1"]
    assert world.executed("split") == {"a": 1, "b": 1, "c": 1}
    assert world.calls["embed", "a0"] == 1


async def test_with_a_key_a_source_may_give_its_items_in_another_order(
    tmp_path: Path, new_bench: NewBench
) -> None:
    world = World(hangs=[3])
    double, write = two_stages(world)
    order = [1, 2, 3, 4]
    keyed = double.with_options(key=lambda n: n)
    pipeline = Pipeline("p", [keyed, write], source=lambda: order)
    database = str(tmp_path / "runs.db")
    async with new_bench(store=InlineStore(database)) as bench:
        run = await bench.runtime.start(pipeline)
        await trio.sleep(5)
    world.hangs.clear()
    order[:] = [5, 4, 3, 3, 2, 1]
    async with new_bench(store=InlineStore(database)) as bench:
        result = await (await bench.runtime.resume(run.id, pipeline)).wait()
        sums_hold(bench.store._connection)
        assert sorted(await listed(result.results())) == [3, 5, 7, 9, 11]
    assert world.executed("double") == {1: 1, 2: 1, 3: 2, 4: 1, 5: 1}


async def test_a_run_under_way_cannot_be_resumed(bench: Bench) -> None:
    world = World(hangs=[1])
    pipeline = Pipeline("p", two_stages(world))
    run = await bench.runtime.start(pipeline, [1])
    with pytest.raises(UsageError, match="has not ended"):
        await run.resume()
    await run.cancel()
    await run.wait()
    with pytest.raises(UsageError, match="does not know"):
        await bench.runtime.resume(run.id)


async def test_two_resumes_at_once_open_one_generation(bench: Bench) -> None:
    world = World(hangs=[1])
    pipeline = Pipeline("p", two_stages(world))
    run = await bench.runtime.start(pipeline, [1])
    await trio.sleep(1)
    await run.cancel()
    await run.wait()
    world.hangs.clear()
    refused = []

    async def resume() -> None:
        try:
            await (await run.resume()).wait()
        except UsageError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(resume)
    assert len(refused) == 2
    assert bench.sql("SELECT generation FROM runs") == [(2,)]
    assert world.executed("double") == {1: 2}


async def test_what_was_never_stored_whole_is_not_resumed_as_if_it_were(bench: Bench) -> None:
    world = World()
    pipeline = Pipeline("p", two_stages(world))
    with pytest.raises(UsageError, match="cannot be stored"):
        await bench.runtime.start(pipeline, [1, object()])
    ((identifier,),) = bench.sql("SELECT id FROM runs")
    with pytest.raises(UsageError, match="has never begun: its items were not stored whole"):
        await bench.runtime.resume(identifier, pipeline)


async def test_a_function_given_at_start_must_be_given_again(bench: Bench) -> None:
    world = World(hangs=[2])
    pipeline = Pipeline("p", two_stages(world), source=lambda: range(100, 110))
    run = await bench.runtime.start(pipeline, lambda: range(3))
    await trio.sleep(1)
    await run.cancel()
    await run.wait()
    world.hangs.clear()
    with pytest.raises(UsageError, match="a function that is not the pipeline's own source"):
        await bench.runtime.resume(run.id, pipeline)
    result = await (await run.resume()).wait()  # this handle has it still
    assert await listed(result.results()) == [1, 3, 5]
    with pytest.raises(UsageError, match="nothing to resume"):
        await bench.runtime.resume(run.id, pipeline, items=lambda: range(3))


async def test_the_failures_of_earlier_generations_are_told_as_long_as_they_count(
    bench: Bench,
) -> None:
    world = World(2, hangs=[6])
    pipeline = Pipeline("p", two_stages(world))
    run = await bench.runtime.start(pipeline, [1, 2, 3])
    await trio.sleep(1)
    await run.cancel()
    await run.wait()
    world.hangs.clear()
    again = await run.resume()
    await again.wait()
    ((number, generation),) = bench.sql("SELECT run, generation FROM runs")
    assert bench.store._connection is not None
    failures = item_list(number, generation)(bench.store._connection)
    assert [(f["stage"], f["item"], f["message"]) for f in failures] == [
        ("double", 2, "2 is broken"),
        ("write", 1, "2 is broken"),
    ]


@dataclass
class Text:
    topic: str
    length: int


async def test_groups_made_again_by_a_changed_stage_get_what_the_stage_before_returns(
    bench: Bench,
) -> None:
    @stage
    async def read(text: str) -> Text:
        return Text(text[0], len(text))

    @collect(by=lambda text: text.topic)
    async def total(members: AsyncIterator[Any]) -> int:
        return sum([member.value["length"] async for member in members])

    first = await bench.finish(Pipeline("p", [read, total]), ["a", "bb", "aaa"])
    changed = Pipeline("p", [read, total.with_options(version=2)])
    again = await bench.runtime.resume(first.id, changed, changed="repeat")
    result = await again.wait()
    assert await listed(result.results()) == [4, 2]
    assert [c.accepted for c in result.stages] == [3, 2]
