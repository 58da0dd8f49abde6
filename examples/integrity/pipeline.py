"""Are the files still what their records say? A pipeline over a site that misbehaves.

    stagerun run examples/integrity/pipeline.py:pipeline
    stagerun run examples/integrity/pipeline.py:pipeline --param hang=8

README.md beside this file tells what to see, and how to check the records of a real site.
"""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec
from attrs import frozen

from examples.integrity.files import Row, State, state_of
from examples.integrity.service import PAGE_SIZE
from examples.integrity.site import Page, source
from stagerun import DROP, Context, Drop, Outcome, Pipeline, Retry, StageOutcome, collect, stage
from stagerun.http import HttpConnectionError, HttpStatusError, open_client


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
    state: State


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
async def pages(page: Page, ctx: Context) -> Answer:
    """Fetch a page; one that is not what was asked for fails, and is not tried again."""
    url = f"{page.address}/entities/{quote(page.entity, safe='')}/records"
    answer = await ctx.resource.get(url, {"page": page.number, "size": PAGE_SIZE})
    return answer_to(page, answer.json())


def answer_to(page: Page, content: Any) -> Answer:
    """Return what a site has answered.

    Raises:
        ValueError: It is not an answer to what it was asked for.
    """
    told = f"page {page.number} of {page.entity!r}"
    try:
        answer = msgspec.convert(content, Answer)
    except msgspec.ValidationError as error:
        raise ValueError(f"{told} is no page of records: {error}") from error
    if answer.entity != page.entity:
        raise ValueError(f"{told} was asked for, and the site gave one of {answer.entity!r}")
    if answer.total < 0:
        raise ValueError(f"{told} cannot be of {answer.total} records in all")
    return answer


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
