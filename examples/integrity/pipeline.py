"""Are the files still what their records say? A pipeline over a site that misbehaves.

    stagerun run examples/integrity/pipeline.py:pipeline
    stagerun run examples/integrity/pipeline.py:pipeline --param hang=8

README.md beside this file tells what to see, and how to check the records of a real site.
"""

import hashlib
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from attrs import frozen

from stagerun import DROP, Context, Drop, Outcome, Pipeline, Retry, StageOutcome, collect, stage
from stagerun.http import HttpConnectionError, HttpStatusError, open_client

from examples.integrity.service import running_service

PAGE_SIZE: Final = 250
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
class Row:
    """A record as the site gives it."""

    path: str
    size: int | None
    sha256: str | None


@frozen
class Answer:
    """A page as the site gives it; what else it says is not read."""

    entity: str
    total: int
    records: list[Row]


@frozen
class Record:
    """One file to check; `expected` is how many records its entity has in all."""

    entity: str
    expected: int
    row: Row


@frozen
class Check:
    """What the file was found to be."""

    entity: str
    expected: int
    path: str
    state: Literal["intact", "changed", "missing"]


@frozen
class Report:
    """An entity's records: `expected` = `intact` + `changed` + `missing` + the last three."""

    entity: str
    expected: int | None
    """None when not one record could be checked."""
    intact: int
    changed: int
    missing: int
    without_hash: int
    unchecked: int
    """The check failed or timed out."""
    unseen: int | None
    """On pages that could not be fetched."""


@asynccontextmanager
async def source(params: Mapping[str, Any] | None) -> AsyncIterator[list[Page]]:
    """Give the pages of the site in `params`, or those of a service of our own.

    A source that is a context manager is left when the run is through: so long our service is up.
    """
    params = params or {}
    if "address" in params:
        yield await listed(**params)
        return
    async with running_service(**local_options(**params)) as address:
        yield await listed(address)


def local_options(**params: Any) -> dict[str, Any]:
    """Return the options of the service; those that are not given come from LOCAL."""
    unknown = sorted(params.keys() - LOCAL.keys())
    if unknown:
        known = ", ".join(LOCAL)
        raise ValueError(f"unknown params {unknown}: there are address, entities, {known}")
    options = LOCAL | params
    options["entities"] = options.pop("entities_count")
    return options


async def listed(address: str, entities: str | list[str] | None = None) -> list[Page]:
    """Ask the site how many records each entity has, and return all their pages."""
    async with open_client(address, total=10) as client:
        answer = (await client.get("/entities")).json()
    counts = {entity["name"]: entity["records"] for entity in answer["entities"]}
    wanted = entities.split(",") if isinstance(entities, str) else entities or [*counts]
    strangers = [name for name in wanted if name not in counts]
    if strangers:
        raise ValueError(f"{address} has no entities {strangers}: it has {sorted(counts)}")
    return [
        Page(address, name, number)
        for name in wanted
        for number in range(ceil(counts[name] / PAGE_SIZE))
    ]


def worth_another_try(error: Exception) -> bool:
    """Whether a broken connection or a busy site is all that went wrong."""
    busy = {429, 502, 503, 504}
    return isinstance(error, HttpConnectionError) or (
        isinstance(error, HttpStatusError) and error.status in busy
    )


@stage(
    workers=8,
    deadline=8,
    retry=Retry(attempts=3, attempt_deadline=2, base=0.2, cap=1, on=worth_another_try),
    resource=open_client,
    least_ok=0.85,
)
async def pages(page: Page, ctx: Context) -> Any:
    """Fetch a page; the next stage's annotation says what it must look like."""
    url = f"{page.address}/entities/{quote(page.entity, safe='')}/records"
    answer = await ctx.resource.get(url, {"page": page.number, "size": PAGE_SIZE})
    return answer.json()


@stage(workers=2, buffer=200)  # roomy: while pages wait here, no other page is tried again
async def records(answer: Answer) -> AsyncGenerator[Record]:
    """Unfold a page: one item in, up to 250 out."""
    for row in answer.records:
        yield Record(answer.entity, answer.total, row)


@stage(workers=4, deadline=30)
def check(record: Record) -> Check | Drop:
    """Compare a file with its record; a plain function, so it runs in a thread."""
    if record.row.sha256 is None:
        return DROP
    return Check(record.entity, record.expected, record.row.path, state_of(record.row))


def state_of(row: Row) -> Literal["intact", "changed", "missing"]:
    try:
        with Path(row.path).open("rb") as file:
            if row.size not in (None, os.fstat(file.fileno()).st_size):
                return "changed"
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"
    return "intact" if found == row.sha256 else "changed"


@collect(by=lambda each: each.entity)
async def report(outcomes: AsyncIterator[StageOutcome], ctx: Context) -> Report:
    """Sum up an entity: what was checked, and what could not be."""
    expected, sums = None, Counter[str]()
    async for each in outcomes:
        if each.ok:
            expected = each.value["expected"]
            sums[each.value["state"]] += 1
        else:
            sums["without_hash" if each.outcome is Outcome.SKIPPED else "unchecked"] += 1
    found = Report(
        entity=ctx.key,
        expected=expected,
        intact=sums["intact"],
        changed=sums["changed"],
        missing=sums["missing"],
        without_hash=sums["without_hash"],
        unchecked=sums["unchecked"],
        unseen=None if expected is None else expected - sums.total(),
    )
    ctx.log.info("%s", found)
    return found


pipeline = Pipeline(
    "integrity",
    [pages, records, check, report],
    source=source,
    source_deadline=60,
    deadline=300,
)
