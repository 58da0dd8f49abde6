"""Upstreams that fail at random, and pipelines that ask them: judged by the upstream's own record.

    python -m tests.campaign.upstream --rounds 200 --seed 1

A round is two runs at once, over one client each. In `tries` a call may take `TOTAL` seconds and is
tried three times where that helps; in `hangs` nothing bounds a call but the deadline of its item.
Each item has an address of its own, at which it meets faults in an order drawn from seed and round.
"""

import argparse
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
from attrs import frozen

from stagerun import Context, Pipeline, Retry, Runtime, open_runtime, stage
from stagerun.http import Client, HttpError, open_client, worth_another_try
from stagerun.testing.upstream import (
    TLS,
    Bomb,
    Call,
    Endless,
    Unread,
    Upstream,
    black_hole,
    black_holed_names,
    open_upstream,
    refused,
)
from tests.campaign.part import Part
from tests.campaign.upstreamfaults import FAULTS, GOOD, PLACES, Item, filled
from tests.campaign.upstreamjudge import (
    ATTEMPTS,
    CUT,
    DEADLINE,
    LATE,
    TOTAL,
    Judge,
    Seen,
    Tally,
    told_of,
)

__all__ = ["run"]

LARGE: Final = bytes(16 * 2**20)
"""More than the kernels' buffers take from who does not read."""


def run(rounds: int = 200, seed: int = 1, only: int | None = None) -> Part:
    """Play so many rounds, or the one with this number, and judge each."""
    command = f"python -m tests.campaign.upstream --rounds {rounds} --seed {seed}"
    began, tally = time.perf_counter(), Tally()
    numbers = range(rounds) if only is None else (only,)
    trio.run(_rounds, numbers, seed, tally)
    return Part(
        name="upstream faults",
        what=(
            "Pipelines with retries ask servers that fail in every way of a list, drawn anew for"
            " each item; type, time, attempts and value of each outcome are checked against the"
            " servers' own record. The draw is the same for a seed, the timing is real."
        ),
        command=command,
        trials=tally.items,
        violations=tuple(tally.violations),
        skipped="; ".join(tally.doubts()),
        seconds=time.perf_counter() - began,
        counts=tally.counts(),
    )


# -- a round -----------------------------------------------------------------------------------


@frozen
class World:
    """What stands while the rounds go by."""

    runtime: Runtime
    database: Path
    upstream: Upstream
    places: Mapping[str, str]


async def _rounds(numbers: Sequence[int], seed: int, tally: Tally) -> None:
    async with _world() as world, trio.open_nursery() as nursery:
        nursery.start_soon(_watch_the_loop, tally)
        for number in numbers:
            found = [
                f"python -m tests.campaign.upstream --seed {seed} --only {number}: {wrong}"
                async for wrong in _round(world, number, random.Random(f"{seed}/{number}"), tally)
            ]
            tally.violations += found
        nursery.cancel_scope.cancel()


async def _watch_the_loop(tally: Tally) -> None:
    while True:
        began = trio.current_time()
        await trio.sleep(0.02)
        tally.late_loop(trio.current_time() - began - 0.02)


@asynccontextmanager
async def _world() -> AsyncGenerator[World]:
    bad: tuple[TLS, ...] = ("expired", "wrong_host", "unknown_ca", "hang", "eof")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {tls: await stack.enter_async_context(open_upstream(tls)) for tls in bad}
        trusted = [servers[tls].authority.read_text() for tls in bad[:2]]
        (folder / "trusted.pem").write_text("".join(trusted))
        ours = {"SSL_CERT_FILE": str(folder / "trusted.pem"), "STAGERUN_LOG_LEVEL": "CRITICAL"}
        for name, value in ours.items():
            stack.callback(_set_variable, name, os.environ.get(name))
            _set_variable(name, value)
        stack.enter_context(black_holed_names("example"))
        yield World(
            await stack.enter_async_context(open_runtime(folder / "runs.db")),
            folder / "runs.db",
            await stack.enter_async_context(open_upstream()),
            {
                **{tls: server.url() for tls, server in servers.items()},
                "refused": stack.enter_context(refused()),
                "black hole": stack.enter_context(black_hole()),
                "no name server": "http://host.example/",
            },
        )


def _set_variable(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


async def _round(
    world: World, number: int, chance: random.Random, tally: Tally
) -> AsyncGenerator[str]:
    upstream = world.upstream
    upstream.calls.clear()
    tries = [_item(world, f"/{number}/tries/{n}", chance, n) for n in range(16)]
    hangs = [_item(world, f"/{number}/hangs/{n}", chance, n) for n in range(8)]
    lost = tally.lost
    seen: dict[str, list[Seen]] = {item.path: [] for item in (*tries, *hangs)}
    retry = Retry(attempts=ATTEMPTS, base=0.02, on=worth_another_try)
    once = Retry(attempts=1)
    async with _client(TOTAL) as quick, _client(math.inf) as patient:
        one = await world.runtime.start(*_asking(quick, tries, seen, deadline=8, retry=retry))
        two = await world.runtime.start(
            *_asking(patient, hangs, seen, deadline=DEADLINE, retry=once)
        )
        with trio.fail_after(60):
            await one.wait()
            await two.wait()
    with trio.move_on_after(LATE):
        while any(_open(call) for call in upstream.calls):  # noqa: ASYNC110 - told by no event
            await trio.sleep(0.01)
    for call in upstream.calls:
        if _open(call):
            yield f"{call.path}: the connection is still open {LATE:g} s after all has ended"
    judge = Judge(upstream.calls, tally, lost=tally.lost - lost)
    for items, handle in ((tries, one), (hangs, two)):
        for item, told in zip(items, told_of(world.database, handle.id), strict=True):
            for wrong in judge.item(item, told, seen[item.path], bounded=handle is one):
                yield f"{item.path}: {wrong}"


def _client(total: float) -> AbstractAsyncContextManager[Client]:
    return open_client(total=total, max_bytes=2**20)


def _open(call: Call) -> bool:
    return call.ended is None and not isinstance(call.reply, Unread)


def _item(world: World, path: str, chance: random.Random, number: int) -> Item:
    if number % 6 == 5:
        place = chance.choice([*PLACES])
        return Item(path, world.places[place], (), place)
    script = chance.sample(FAULTS, chance.choice((0, 1, 1, 2, 3)))
    if chance.random() < 0.6 or not script:
        script.append(chance.choice(GOOD))
    if sum(isinstance(fault.reply, Bomb | Endless) for fault in script) and number % 2:
        script = [fault for fault in script if fault.error != "HttpTooLarge"] or [GOOD[0]]
    world.upstream.on(path, *(filled(fault.reply, path) for fault in script))
    return Item(path, world.upstream.url(path), tuple(script))


def _asking(
    client: Client, items: Sequence[Item], seen: dict[str, list[Seen]], **options: Any
) -> tuple[Pipeline, list[Any]]:
    @stage(workers=len(items), **options)
    async def ask(asked: dict[str, Any], ctx: Context) -> list[Any]:
        url, began = f"{asked['url']}?{ctx.attempt}", time.monotonic()
        error: str | None = CUT
        try:
            answer = await (client.post(url, content=LARGE) if asked["posts"] else client.get(url))
        except HttpError as raised:
            error = type(raised).__name__
            raise
        else:
            error = None
        finally:
            seen[asked["path"]].append(Seen(began, time.monotonic(), error))
        return [answer.status, answer.content.decode("latin-1")]

    asked = [{"path": each.path, "url": each.url, "posts": each.posts} for each in items]
    return Pipeline("upstream", [ask]), asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="play just the round with this number")
    part = run(**vars(parser.parse_args()))
    print(f"{part.trials} items in {part.seconds:.0f} s, {len(part.violations)} violations")
    for name, value in part.counts.items():
        print(f"  {name}: {value}")
    print(*filter(None, [part.skipped, *part.violations]), sep="\n")
    sys.exit(bool(part.violations))


if __name__ == "__main__":
    main()
