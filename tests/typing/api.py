"""The public names as a typed program uses them. Never run: mypy checks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stagerun import (
    DROP,
    CancellationToken,
    Context,
    Pipeline,
    Result,
    Retry,
    Run,
    Runtime,
    Stage,
    StageOutcome,
    batch,
    collect,
    open_runtime,
    report,
    stage,
)


@asynccontextmanager
async def client() -> AsyncIterator[object]:
    yield object()


@stage(workers=4, deadline=30, retry=Retry(attempts=3, attempt_deadline=10), resource=client)
async def fetch(url: str, ctx: Context) -> dict[str, str]:
    ctx.token.raise_if_cancelled()
    ctx.report("fetch", url, done=1, total=2)
    return {"url": url}


@stage
async def unfold(page: dict[str, str]) -> AsyncIterator[str]:
    yield page["url"]


@stage(least_ok=0.9)
def check(record: str) -> object:
    report("check")
    return DROP if not record else len(record)


@batch(size=10, wait=0.5, workers=2)
async def embed(sizes: list[int]) -> list[float | Exception]:
    return [float(size) for size in sizes]


@collect(by=lambda value: value > 1)
async def summary(outcomes: AsyncIterator[StageOutcome]) -> int:
    return len([outcome async for outcome in outcomes if outcome.ok])


stages: list[Stage] = [fetch, unfold, check, embed, summary]
pipeline = Pipeline("typed", stages, deadline=600, source=["http://a"])


async def main(runtime: Runtime, token: CancellationToken) -> Result:
    run: Run = await runtime.start(pipeline, params={"a": 1}, labels={"b": "c"}, token=token)
    await run.cancel("enough")
    result: Result = await run.wait()
    async for value in result.raise_for_status().results():
        print(value)
    async with open_runtime("runs.db") as other:
        assert isinstance(other, Runtime)
    return result


@stage(mode="process", heartbeat_timeout=5)
def crunch(n: int) -> int:
    return n * n


durable = Pipeline("durable", [crunch], on_interrupt="resume", resumes=3)


async def again(first: Run) -> str | None:
    async with open_runtime("runs.db", pipelines=[pipeline, durable]) as runtime:
        found: Run = await runtime.find(first.id)
        second: Run = await found.resume(failed=True)
        third: Run = await runtime.resume(second.id, durable, changed="repeat")
        await runtime.start(durable, [1], key="once", concurrency_key="customer", concurrency=2)
        sentence: str = (await third.why())["message"]
        generation: int = third.generation
        return runtime.health().why or f"{generation}: {sentence}"
