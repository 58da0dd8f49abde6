"""What the dashboard is pictured with: a crawl whose server is slow, busy, and sometimes silent."""

import random

import trio

from stagerun import Pipeline, Retry, stage

chance = random.Random(3)


@stage(workers=8, deadline=3, retry=Retry(attempts=3, attempt_deadline=1.5, base=0.1))
async def fetch(number: int) -> int:
    await trio.sleep(60 if number % 37 == 12 else chance.lognormvariate(-1.6, 0.7))
    if chance.random() < 0.08:
        raise ConnectionError("503 Service Unavailable")
    return number


@stage(workers=4, deadline=2)
async def parse(number: int) -> int:
    await trio.sleep(chance.uniform(0.02, 0.3))
    if number % 31 == 4:
        raise ValueError("no title in the page")
    return number


@stage(workers=2, deadline=5)
async def embed(number: int) -> int:
    await trio.sleep(chance.uniform(0.05, 0.15))
    return number


pipeline = Pipeline("crawl", [fetch, parse, embed], deadline=300, source=lambda: range(300))
