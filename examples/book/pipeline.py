"""Books, written chapter by chapter by a language model: four jobs.

    stagerun run examples/book/pipeline.py:pipeline
    stagerun run examples/book/pipeline.py:pipeline --param outline=my-book.md
    stagerun run examples/book/pipeline.py:series
    stagerun run examples/book/pipeline.py:artifacts --param book=books/FOLDER
    stagerun run examples/book/pipeline.py:rewrite --param book=books/FOLDER \
        --param chapter=3 --param instructions="more rain"

README.md beside this file tells what to see, and how to break it.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec
import trio
from attrs import evolve, frozen

from examples.book import outlines, prompts
from examples.book.orders import changes, place, wishes
from examples.book.outlines import Outline, Synopsis
from examples.book.shelf import Book, Document, Remark, Shelf
from examples.models.client import open_models, worth_another_try
from stagerun import Context, Pipeline, Retry, StageOutcome, collect, stage

HERE: Final = Path(__file__).parent
PAUSES: Final = (1.0, 5.0)
"""Seconds before a chapter is asked for the second and the third time."""

in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)


@frozen
class Planned:
    """A book that is planned, and where it will stand."""

    folder: str
    book: Book


@frozen
class Task:
    """A chapter to write."""

    folder: str
    number: int


@frozen
class Chapter:
    """A chapter that stands in its folder."""

    folder: str
    number: int
    words: int


@frozen
class Needs:
    """What the model adds to an outline."""

    setting: str
    cast: list[str]


ASKING: Final = Retry(attempts=3, attempt_deadline=240, on=worth_another_try)


@stage(name="outlines", deadline=60)
async def read(file: str, ctx: Context) -> AsyncGenerator[Outline]:
    """Read an outline's file: one book or several."""
    path = Path(wishes(ctx.params).outline or file)
    for book in await in_thread(outlines.read, path):
        yield book


# Answers cost money and minutes: with `commit_first` one is on disk before the next is asked for.
@stage(deadline=900, retry=ASKING, resource=open_models, commit_first=True)
async def outline(book: Outline, ctx: Context) -> Planned:
    """Add to the outline what the writing needs to know; decide where the book will stand."""
    ctx.report("outline", book.title)
    needs = await ctx.resource.chat(prompts.outline(book), schema=Needs)
    whole = Book(book.title, book.premise, needs.setting, needs.cast, book.chapters)
    return Planned(place(wishes(ctx.params).out, f"{ctx.run[:8]}-{ctx.item:02}", book.title), whole)


@stage(deadline=900, retry=ASKING, resource=open_models, commit_first=True)
async def plan(planned: Planned, ctx: Context) -> Planned:
    """Plan what happens in each chapter."""
    book = planned.book
    ctx.report("plan", book.title)
    count = len(book.chapters)
    one_for_each = Annotated[list[str], msgspec.Meta(min_length=count, max_length=count)]
    events = await ctx.resource.chat(prompts.plan(book), schema=one_for_each)
    chapters = [
        Synopsis(each.title, f"{each.events}\n{more}".strip())
        for each, more in zip(book.chapters, events, strict=True)
    ]
    return evolve(planned, book=evolve(book, chapters=chapters))


@stage(deadline=60)
async def chapters(planned: Planned) -> AsyncGenerator[Task]:
    """Make the book's folder, and a task of each chapter."""
    await in_thread(Shelf(Path(planned.folder)).begin, planned.book)
    for number in range(1, len(planned.book.chapters) + 1):
        yield Task(planned.folder, number)


@stage(
    workers=1,
    deadline=900,
    http_total=240,
    buffer=1000,  # roomy: `chapters` hands out all of a book at once
    weight=10,
    least_ok=1,
    resource=open_models,
)
async def write(task: Task, ctx: Context) -> Chapter:
    """Write a chapter after all that came before it. One that this run has put there stays."""
    shelf, number = Shelf(Path(task.folder)), task.number
    book = await in_thread(shelf.book)
    count, title = len(book.chapters), book.chapters[number - 1].title
    which = f"chapter {number} of {count}"
    ctx.report("write", f"{which}: {title}", number - 1, count)
    writer = f"run {ctx.run} by plan {book.fingerprint}"
    text = await in_thread(partial(shelf.chapter, number, by=writer))
    if text is None:
        ctx.log.info("%s of %s is begun", which, book.title)
        before = await in_thread(shelf.chapter, number - 1)
        words = wishes(ctx.params).words
        text = await patiently(ctx, prompts.writing(book, number, before, words), words)
        await in_thread(partial(shelf.put_chapter, number, text, by=writer))
    ctx.report("write", f"{which} is written", number, count)
    ctx.log.info("%s of %s is written", which, book.title)
    return Chapter(task.folder, number, len(text.split()))


async def patiently(ctx: Context, prompt: str, words: int) -> str:
    """Ask, and ask again where that may help; the stage's deadline bounds it all.

    Not by `Retry`: while one chapter paused there, the next one would be begun without it.
    """
    for pause in PAUSES:
        try:
            return str(await ctx.resource.chat(prompt, max_tokens=2 * words))
        except Exception as error:
            if not worth_another_try(error):
                raise
            seconds = max(pause, getattr(error, "retry_after", None) or 0)
            ctx.log.warning("asked again in %g s: %s", seconds, error)
        await trio.sleep(seconds)
    return str(await ctx.resource.chat(prompt, max_tokens=2 * words))


@collect(by=lambda each: each.folder, least_ok=1, deadline=900, retry=ASKING, resource=open_models)
async def check(_outcomes: AsyncIterator[StageOutcome], ctx: Context) -> str:
    """Look for contradictions in a book whose chapters are all there."""
    shelf = Shelf(Path(ctx.key))
    book = await in_thread(shelf.book)
    ctx.report("check", book.title)
    numbers = range(1, len(book.chapters) + 1)
    texts = await in_thread(lambda: [shelf.chapter(number) or "" for number in numbers])
    found = await ctx.resource.chat(prompts.check(book, texts), schema=list[Remark])
    remarks = [remark for remark in found if remark.chapter in numbers]
    await in_thread(shelf.put_remarks, remarks)
    ctx.log.info("%d remarks on %s", len(remarks), book.title)
    return str(ctx.key)


@stage(deadline=120)
def document(folder: str, ctx: Context) -> Document:
    """Make the document and its index of what stands in the folder; a plain function: a thread."""
    made = Shelf(Path(folder)).compile()
    ctx.log.info("%s: %d chapters, %d words", made.file, made.chapters, made.words)
    return made


@stage(deadline=60)
def find(folder: str, ctx: Context) -> str:
    """Find a book that is there."""
    book = changes(ctx.params).book or folder
    if not book:
        raise ValueError("which book? --param book=FOLDER")
    return str(Shelf.of(book).folder)


@stage(deadline=900, retry=ASKING, resource=open_models)
async def revise(folder: str, ctx: Context) -> Chapter:
    """Write one chapter anew. What this run has put there stays."""
    shelf, wanted = Shelf(Path(folder)), changes(ctx.params)
    book, number = await in_thread(shelf.book), wanted.chapter
    old = await in_thread(shelf.chapter, number)
    if old is None or number > len(book.chapters):
        raise ValueError(f"{folder} has no chapter {number}: --param chapter=NUMBER")
    text = await in_thread(partial(shelf.chapter, number, by=f"run {ctx.run}"))
    if text is None:
        ctx.report("revise", f"chapter {number}: {book.chapters[number - 1].title}")
        prompt = prompts.revision(book, number, old, wanted.instructions, wanted.words)
        text = str(await ctx.resource.chat(prompt, max_tokens=2 * wanted.words))
        await in_thread(partial(shelf.put_chapter, number, text, by=f"run {ctx.run}"))
    ctx.log.info("chapter %d of %s is written anew", number, book.title)
    return Chapter(folder, number, len(text.split()))


pipeline = Pipeline(
    "book",
    [read, outline, plan, chapters, write, check, document],
    source=[str(HERE / "outline.md")],
    least_ok=1,
    deadline=24 * 3600,
    on_interrupt="resume",
    resumes=20,
)
series = pipeline.with_options(name="series", source=[str(HERE / "series.md")])
artifacts = Pipeline("artifacts", [find, document], source=[""], least_ok=1)
rewrite = Pipeline(
    "rewrite",
    [find, revise, check, document],
    source=[""],
    least_ok=1,
    deadline=3600,
    on_interrupt="resume",
)
