"""What stages do in earnest: wait, return much, fail, fail once, make many of one."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import trio
from attrs import frozen

from benchmarks.baselines import WORKERS

__all__ = ["CASES", "NAMES", "NOTHING", "SIZE", "Case", "Function", "Stored"]

NAMES = ("one", "two", "three")
"""Of the stages of every case."""
SIZE = 10_000
"""Bytes of a large result."""
_CHILDREN = 10
_SECONDS = 0.001

Function = Callable[[Any], Any]


@frozen
class Stored:
    """What there is on disk, in all stages together."""

    ok: int
    failed: int = 0
    attempts: int = 0
    large: int = 0
    """Results of `SIZE` bytes at least."""
    errors: int = 0
    """Outcomes with an error's type, its message and its traceback."""
    children: int = 0


@frozen
class Case:
    title: str
    functions: Callable[[], list[Function]]
    """Made anew for each run, for some remember what they have seen."""
    stored: Callable[[int], Stored]
    """What so many items leave behind."""
    workers: int = WORKERS
    attempts: int = 1
    """At an item in a stage, at most, with no pause between them."""


async def _pass_on(item: int) -> int:
    return item


async def _wait(item: int) -> int:
    await trio.sleep(_SECONDS)
    return item


async def _return_much(_item: Any) -> bytes:
    return bytes(SIZE)


async def _refuse_odd(item: int) -> int:
    if item % 2:
        raise ValueError(f"record {item} was refused")
    return item


def _fail_once() -> Function:
    seen = set[int]()

    async def fail_once(item: int) -> int:
        if item not in seen:
            seen.add(item)
            raise ConnectionError(f"no answer for record {item}")
        return item

    return fail_once


async def _spread(item: int) -> AsyncIterator[int]:
    for number in range(_CHILDREN):
        yield item * _CHILDREN + number


NOTHING = Case(
    "stages that do nothing",
    lambda: [_pass_on] * 3,
    lambda items: Stored(ok=3 * items, attempts=3 * items),
)
CASES = {
    "waits": Case(
        "stages that wait for 1 ms, 16 workers",
        lambda: [_wait] * 3,
        lambda items: Stored(ok=3 * items, attempts=3 * items),
        workers=16,
    ),
    "large": Case(
        "results of 10 kB",
        lambda: [_return_much] * 3,
        lambda items: Stored(ok=3 * items, attempts=3 * items, large=3 * items),
    ),
    "failing": Case(
        "half of the items raise",
        lambda: [_pass_on, _refuse_odd, _pass_on],
        lambda items: Stored(
            ok=items + 2 * (items - items // 2),
            failed=items // 2,
            attempts=3 * items - items // 2,
            errors=items // 2,
        ),
    ),
    "retries": Case(
        "every item fails once, then succeeds",
        lambda: [_pass_on, _fail_once(), _pass_on],
        lambda items: Stored(ok=3 * items, attempts=4 * items),
        attempts=2,
    ),
    "children": Case(
        "ten children of each item",
        lambda: [_spread, _pass_on, _pass_on],
        lambda items: Stored(
            ok=items + 2 * _CHILDREN * items,
            attempts=items + 2 * _CHILDREN * items,
            children=_CHILDREN * items,
        ),
    ),
}
