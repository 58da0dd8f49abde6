"""From the address of a web site to a data set that answers questions, by seven agents in order.

    stagerun run examples/provisioning/pipeline.py:pipeline
    stagerun run examples/provisioning/pipeline.py:pipeline --param address=https://example.org

README.md beside this file tells what to see; service.py offers it over HTTP.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from attrs import field, fields_dict, frozen

from examples.models.client import open_models, worth_another_try
from examples.provisioning.asking import Answer, ask, checks
from examples.provisioning.crawl import CrawlError, Limits, Site, read_site
from examples.provisioning.dataset import DataSet, Row, faults, write
from examples.provisioning.designs import Customer, Design, Table, rows_type, tables_of
from examples.provisioning.site import running_site
from stagerun import Context, Pipeline, Retry, stage

PROMPT_LENGTH: Final = 12_000
"""Characters of the site that the model reads at once."""


@frozen
class Options:
    """What `--param` may say."""

    address: str = ""
    """The site to read; without one a small site of our own is served for it."""
    bad_certificate: bool = False
    """Whether our own site shows a certificate that nobody has signed."""
    pages: int = 8
    seconds: float = 60
    """For reading the site."""
    folder: str = "datasets"
    """Where data sets are written."""
    least: float = 0.5
    """The share of the checking questions that must be answered right."""
    block: float = 0
    """Seconds for which the second agent blocks the event loop: the fault of the report."""


@frozen
class Understood:
    """A site, and whose it is."""

    site: Site
    customer: Customer


@frozen
class Designed:
    """A site, and the tables that its data go into."""

    site: Site
    customer: Customer
    tables: list[Table]


@frozen
class Loaded:
    """A data set on disk."""

    customer: Customer
    path: str
    rows: dict[str, int]


@frozen
class Report:
    """The result: a data set, and how well it answers."""

    customer: str
    data_set: str
    rows: dict[str, int]
    right: int
    asked: int
    answers: list[Answer] = field(factory=list)


def options_of(params: Mapping[str, Any] | None) -> Options:
    """Read the params of a run.

    Raises:
        ValueError: One is unknown, or has a value that cannot be.
    """
    given = params or {}
    known = fields_dict(Options)
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ValueError(f"unknown params {unknown}: there are {', '.join(known)}")
    return msgspec.convert(given, Options, strict=False)


@asynccontextmanager
async def source(params: Mapping[str, Any] | None) -> AsyncGenerator[list[str]]:
    """Give the address to read; without one, serve our own site until the run is through."""
    options = options_of(params)
    if options.address:
        yield [options.address]
        return
    async with running_site(bad_certificate=options.bad_certificate) as address:
        yield [address]


def passing(error: Exception) -> bool:
    """Whether a site that did not answer may do so the next time."""
    return not isinstance(error, CrawlError) and worth_another_try(error)


@stage(deadline=100, retry=Retry(attempts=2, on=passing))
async def crawl(address: str, ctx: Context) -> Site:
    """Read the site."""
    options = options_of(ctx.params)
    limits = Limits(pages=options.pages, seconds=options.seconds)
    ctx.log.info("reading %s", address)
    site = await read_site(
        address, limits, lambda page: ctx.report("crawl", f"read {page.address}")
    )
    ctx.log.info("read %d pages, left out %d", len(site.pages), len(site.left_out))
    for left_out, why in site.left_out.items():
        ctx.log.info("left out %s: %s", left_out, why)
    return site


MODEL: Final = Retry(attempts=3, attempt_deadline=60, on=worth_another_try)


@stage(deadline=200, resource=open_models, retry=MODEL)
async def understand(site: Site, ctx: Context) -> Understood:
    """Find out whose site it is."""
    block(options_of(ctx.params).block)
    texts = "\n\n".join(f"{page.title}\n{page.text}" for page in site.pages)
    customer: Customer = await ctx.resource.chat(
        texts[:PROMPT_LENGTH],
        system="This is the text of a web site. Whose is it, what do they do, what is it about?",
        schema=Customer,
    )
    ctx.log.info("%s: %s", customer.name, ", ".join(customer.topics))
    return Understood(site, customer)


def block(seconds: float) -> None:
    """Do what a synchronous client does in an async function: stop everything."""
    if seconds > 0:
        time.sleep(seconds)


@stage(deadline=200, resource=open_models, retry=MODEL)
async def design(understood: Understood, ctx: Context) -> Designed:
    """Have tables designed for what the site tells of."""
    customer = understood.customer
    titles = ", ".join(page.title for page in understood.site.pages)
    wanted: Design = await ctx.resource.chat(
        f"{customer.summary}\n{', '.join(customer.topics)}\n{titles}",
        system="Design up to four tables for the data that such a web site has.",
        schema=Design,
    )
    tables = tables_of(wanted)
    for table in tables:
        ctx.log.info("table %s: %s", table.name, ", ".join(c.name for c in table.columns))
    return Designed(understood.site, customer, tables)


@stage(deadline=600, heartbeat_timeout=60, resource=open_models, retry=Retry(on=worth_another_try))
async def generate(designed: Designed, ctx: Context) -> DataSet:
    """Make the rows, page by page."""
    site, tables = designed.site, designed.tables
    rows: dict[str, list[Row]] = {table.name: [] for table in tables}
    for number, page in enumerate(site.pages, 1):
        made = await ctx.resource.chat(
            f"{page.title}\n{page.text}"[:PROMPT_LENGTH],
            system="Which rows does this page give for each of the tables? "
            + "; ".join(f"{table.name}: {table.about}" for table in tables),
            schema=rows_type(tables),
        )
        for name, values in msgspec.to_builtins(made).items():
            rows[name] += [Row(number, each) for each in values]
        ctx.report("generate", f"rows of {page.address}", done=number, total=len(site.pages))
    ctx.log.info("made %d rows", sum(map(len, rows.values())))
    return DataSet(designed.customer, site.pages, tables, rows)


@stage(deadline=60)
def load(data_set: DataSet, ctx: Context) -> Loaded:
    """Write the file: a plain function, so it runs in a thread."""
    path = Path(options_of(ctx.params).folder, f"{ctx.run}-{ctx.item}.db").absolute()
    rows = write(data_set, path)
    ctx.log.info("wrote %d rows to %s", sum(rows.values()), path)
    return Loaded(data_set.customer, str(path), rows)


@stage(deadline=60)
def validate(loaded: Loaded, ctx: Context) -> Loaded:
    """Read the file anew: is all there, and nothing else?"""
    found = faults(Path(loaded.path), loaded.rows)
    if found:
        raise ValueError("; ".join(found))
    ctx.log.info("%d tables are as they should be", len(loaded.rows))
    return loaded


@stage(deadline=600, heartbeat_timeout=60, resource=open_models, retry=Retry(on=worth_another_try))
async def check(loaded: Loaded, ctx: Context) -> Report:
    """Ask for a row of each table: does the answer cite it?"""
    path, least = Path(loaded.path), options_of(ctx.params).least
    asked = await trio.to_thread.run_sync(checks, path)
    right, answers = 0, []
    for each in asked:
        answer = await ask(ctx.resource, path, each.question)
        answers.append(answer)
        right += each.is_right(answer)
        ctx.log.info("%s: %s", "right" if each.is_right(answer) else "wrong", each.question)
        ctx.heartbeat()
    if right < least * len(asked):
        raise ValueError(f"only {right} of {len(asked)} questions were answered right")
    return Report(loaded.customer.name, loaded.path, loaded.rows, right, len(asked), answers)


pipeline = Pipeline(
    "provisioning",
    [crawl, understand, design, generate, load, validate, check],
    source=source,
    source_deadline=60,
    deadline=1800,
    on_interrupt="resume",
)
