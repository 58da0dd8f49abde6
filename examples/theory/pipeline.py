"""From a folder of interviews to the categories that they share.

    stagerun run examples/theory/pipeline.py:pipeline
    stagerun run examples/theory/pipeline.py:pipeline --param folder=texts --param least=10

README.md beside this file tells what to see, and how to break it.
"""

import json
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import trio
from attrs import asdict, frozen
from msgspec import Meta

from examples.models.client import open_models, worth_another_try
from examples.theory import stores
from examples.theory.categories import Tally, Theory, theory_of
from examples.theory.texts import Interview, fragments_of, interviews_in, text_of
from stagerun import Context, Pipeline, Retry, StageOutcome, batch, collect, stage

DEFAULTS: Final = {
    "folder": str(Path(__file__).parent / "interviews"),
    "store": "theory-store",
    "least": 5,
}
BEGINNING: Final = 2000
"""Characters of an interview that tell what it is about."""
RETRY: Final = Retry(attempts=4, attempt_deadline=12, base=2, cap=8, on=worth_another_try)


@frozen
class Fragment:
    """A part of an interview; `of` is how many parts that has."""

    interview: str
    number: int
    of: int
    about: str
    text: str


Codes = Annotated[list[Annotated[str, Meta(min_length=2, max_length=40)]], Meta(max_length=5)]


@frozen
class Coded:
    """A fragment with its codes."""

    interview: str
    number: int
    of: int
    text: str
    codes: list[str]


@frozen
class Embedded:
    """A coded fragment with its vector."""

    coded: Coded
    vector: list[float]

    @property
    def interview(self) -> str:
        return self.coded.interview


def settings(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the params, complete; raise ValueError where they cannot be used."""
    unknown = sorted((params or {}).keys() - DEFAULTS.keys())
    if unknown:
        raise ValueError(f"unknown params {unknown}: there are {', '.join(DEFAULTS)}")
    found = DEFAULTS | dict(params or {})
    if not isinstance(found["least"], int) or found["least"] < 0:
        raise ValueError(f"least is a number of categories from 0, not {found['least']!r}")
    for name in ("folder", "store"):
        text = str(found[name])  # a param that looks like a number is one
        if not text.strip():
            raise ValueError(f"{name} is empty: give a folder")
        found[name] = text
    return found


def source(params: Mapping[str, Any] | None) -> list[Interview]:
    return interviews_in(Path(settings(params)["folder"]))


@stage(
    workers=4, deadline=30, retry=RETRY, resource=open_models, key=lambda each: each.name, weight=3
)
async def interviews(interview: Interview, ctx: Context) -> AsyncGenerator[Fragment]:
    """Ask what an interview is about, and split it."""
    text = await trio.to_thread.run_sync(text_of, interview, abandon_on_cancel=True)
    about = await ctx.resource.chat(
        text[:BEGINNING], system="Say in one sentence what this interview is about.", max_tokens=40
    )
    parts = fragments_of(text)
    for number, part in enumerate(parts, 1):
        yield Fragment(interview.name, number, len(parts), about, part)


@stage(workers=8, deadline=30, retry=RETRY, resource=open_models, weight=3)
async def code(fragment: Fragment, ctx: Context) -> Coded:
    """Ask for the codes of a fragment."""
    codes = await ctx.resource.chat(
        fragment.text,
        system=(
            "Code this fragment of an interview: one to five short codes, in lower case."
            f" The interview is about this: {fragment.about}"
        ),
        schema=Codes,
    )
    distinct = dict.fromkeys(" ".join(each.lower().split()) for each in codes)
    return Coded(fragment.interview, fragment.number, fragment.of, fragment.text, [*distinct])


@batch(
    size=16,
    wait=0.2,
    workers=2,
    deadline=60,
    retry=Retry(attempts=3, attempt_deadline=15, on=worth_another_try),
    resource=open_models,
    weight=3,
)
async def embed(batch_of: list[Coded], ctx: Context) -> list[Embedded]:
    """Ask for the vectors of a batch of fragments."""
    vectors = await ctx.resource.embed([coded.text for coded in batch_of])
    return [Embedded(coded, vector) for coded, vector in zip(batch_of, vectors, strict=True)]


@stage(workers=2, deadline=10, weight=3)
def save_codes(each: Embedded, ctx: Context) -> Embedded:
    stores.save_codes(store(ctx), key(each, ctx), each.coded.text, each.coded.codes, ctx.token)
    return each


@stage(workers=2, deadline=10, weight=3)
def save_vectors(each: Embedded, ctx: Context) -> Coded:
    stores.save_vector(store(ctx), key(each, ctx), each.vector, ctx.token)
    return each.coded


@collect(by=lambda each: each.interview, weight=10)
async def tally(outcomes: AsyncIterator[StageOutcome], ctx: Context) -> Tally:
    """Sum up what of an interview is in both stores."""
    of, numbers, codes = 0, [], Counter[str]()
    async for each in outcomes:
        if each.ok:
            of = each.value["of"]
            numbers.append(each.value["number"])
            codes.update(each.value["codes"])
    return Tally(ctx.key, of, numbers, dict(codes))


@stage(deadline=10, weight=20)
def sync(interview: Tally, ctx: Context) -> Tally:
    """Note in the first store what the second one has, too."""
    stores.sync(store(ctx), ctx.run, interview.interview, interview.numbers, ctx.token)
    return interview


@collect(weight=20, deadline=60)
async def categories(outcomes: AsyncIterator[StageOutcome], ctx: Context) -> Theory:
    """Find what the interviews share, and demand enough of it."""
    names = [each.name for each in await trio.to_thread.run_sync(source, ctx.params)]
    tallies = [Tally(**each.value) async for each in outcomes if each.ok]
    return theory_of(tallies, names, settings(ctx.params)["least"])


@stage(deadline=30, weight=10)
def publish(found: Theory, ctx: Context) -> str:
    """Write the theory beside the stores: the whole file, or none."""
    file = store(ctx) / f"theory-{ctx.run}.json"
    draft = file.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as written:
        json.dump(asdict(found), written, indent=1, ensure_ascii=False)
        written.flush()
        os.fsync(written.fileno())
    ctx.token.raise_if_cancelled()
    draft.replace(file)
    ctx.log.info("%d categories in %s", len(found.categories), file)
    return str(file)


def store(ctx: Context) -> Path:
    return Path(settings(ctx.params)["store"]).expanduser()


def key(each: Embedded, ctx: Context) -> stores.Key:
    return ctx.run, each.coded.interview, each.coded.number


pipeline = Pipeline(
    "theory",
    [interviews, code, embed, save_codes, save_vectors, tally, sync, categories, publish],
    source=source,
    on_interrupt="resume",
)
