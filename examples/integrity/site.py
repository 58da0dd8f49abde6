"""Where the pages come from: a site of the user's, or the service of this example.

Params of a run that say which pages:

    address     a site that is there; without one the run serves itself by service.py
    entities    some of its entities, as a list or as text with commas; all without it
    part        1/3: the first, fourth, seventh... of these; so schedules share them
    entities_count, records, hang, drip, busy, reset    of the service, see LOCAL
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import ceil
from typing import Any, Final

import msgspec
from attrs import frozen

from examples.integrity.service import PAGE_SIZE, running_service
from stagerun.http import open_client

LOCAL: Final = {
    "entities_count": 4,
    "records": 2500,
    "hang": 3,
    "drip": 1,
    "busy": 2,
    "reset": 1,
}
"""The service of our own, unless params say otherwise: 40 pages, and 7 of them misbehave."""


@frozen
class Page:
    """A page to fetch."""

    address: str
    entity: str
    number: int


@frozen
class Entity:
    name: str
    records: int


@frozen
class Entities:
    """What a site answers to GET /entities; what else it says is not read."""

    entities: list[Entity]


@asynccontextmanager
async def source(params: Mapping[str, Any] | None) -> AsyncIterator[list[Page]]:
    """Give the pages of the site in `params`, or those of a service of our own.

    A source that is a context manager is left when the run is through: so long our service is up.
    """
    rest = dict(params or {})
    chosen = {name: rest.pop(name) for name in ("entities", "part") if name in rest}
    async with site(**rest) as address:
        yield await listed(address, **chosen)


@asynccontextmanager
async def site(address: str | None = None, **params: Any) -> AsyncIterator[str]:
    known = {} if address else LOCAL
    unknown = sorted(params.keys() - known.keys())
    if unknown:
        there = ", ".join(["address", "entities", "part", *known])
        raise ValueError(f"unknown params {unknown}: there are {there}")
    if address:
        yield address.rstrip("/")
        return
    options = LOCAL | params
    options["entities"] = options.pop("entities_count")
    async with running_service(**options) as ours:
        yield ours


async def listed(
    address: str, entities: str | list[str] | None = None, part: str = "1/1"
) -> list[Page]:
    """Ask the site how many records each entity has, and return all their pages."""
    async with open_client(address, total=10) as client:
        answer = (await client.get("/entities")).json()
    try:
        counts = {each.name: each.records for each in msgspec.convert(answer, Entities).entities}
    except msgspec.ValidationError as error:
        raise ValueError(f"{address}/entities does not list entities: {error}") from error
    wanted = entities.split(",") if isinstance(entities, str) else entities or [*counts]
    strangers = [name for name in wanted if name not in counts]
    if strangers:
        raise ValueError(f"{address} has no entities {strangers}: it has {sorted(counts)}")
    return [
        Page(address, name, number)
        for name in share_of(wanted, part)
        for number in range(ceil(counts[name] / PAGE_SIZE))
    ]


def share_of(names: list[str], part: str) -> list[str]:
    """Return each third one from the second on for `2/3`."""
    number, _, parts = str(part).partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"part must be as 1/3, 2/3 or 3/3, not {part!r}")
    return names[int(number) - 1 :: int(parts)]
