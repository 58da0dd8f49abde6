"""What may be said by `--param NAME=VALUE`, or in `params` over HTTP."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from attrs import fields, frozen

__all__ = ["Changes", "Wishes", "changes", "place", "wishes"]

Length = Annotated[int, msgspec.Meta(ge=1, le=20_000)]
"""Of a chapter, in words."""


@frozen
class Wishes:
    """What `--param` may say of a book that is to be written."""

    outline: str | None = None
    out: str = "books"
    words: Length = 300


@frozen
class Changes:
    """What `--param` may say of a book that is there."""

    book: str = ""
    chapter: int = 0
    instructions: str = ""
    words: Length = 300


def wishes(params: Mapping[str, Any] | None) -> Wishes:
    """Read the params of a book to be."""
    return msgspec.convert(known(params, Wishes), Wishes, strict=False)


def changes(params: Mapping[str, Any] | None) -> Changes:
    """Read the params of a job on a book that is there."""
    return msgspec.convert(known(params, Changes), Changes, strict=False)


def place(out: str, number: str, title: str) -> str:
    """Return where a book is to stand, whatever folder its run is resumed in later."""
    slug = re.sub(r"\W+", "-", title.lower())[:60].strip("-")
    return str(Path(out, f"{number}-{slug}").absolute())


def known(params: Mapping[str, Any] | None, kind: type[Any]) -> Mapping[str, Any]:
    """Return params whose names are all known."""
    names = [each.name for each in fields(kind)]
    unknown = sorted((params or {}).keys() - names)
    if unknown:
        raise ValueError(f"unknown params {unknown}: there are {', '.join(names)}")
    return params or {}
