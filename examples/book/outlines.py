"""Outlines of books, as people write them: Markdown with a heading for each book and chapter.

What stands before the first book belongs to all of them.

# The Tide Clock
What the book is about.

## The harbour at noon
What happens in this chapter.
"""

from pathlib import Path
from typing import Final

from attrs import field, frozen

__all__ = ["Outline", "OutlineError", "Synopsis", "parse", "read"]

LARGEST: Final = 1_000_000
"""Bytes of an outline's file."""
MOST_CHAPTERS: Final = 60
"""Of a book: so many are handed to `write` in one piece, which no kill can bring out of order."""


class OutlineError(ValueError):
    """The outline cannot be used; the text says where, and what to write instead."""


@frozen
class Synopsis:
    """A chapter to be: its title, and what happens in it."""

    title: str
    events: str = ""


@frozen
class Outline:
    """A book to be."""

    title: str
    premise: str
    chapters: list[Synopsis]


def read(path: Path) -> list[Outline]:
    """Return the books of an outline's file; an error names the file.

    Raises:
        OutlineError: It cannot be read, or is no outline.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise OutlineError(f"the outline {path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST:
        raise OutlineError(f"the outline {path} is larger than {LARGEST} bytes")
    try:
        return parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise OutlineError(f"the outline {path} is not UTF-8: {error}") from error
    except OutlineError as error:
        raise OutlineError(f"the outline {path}: {error}") from error


def parse(text: str) -> list[Outline]:
    """Return the books of an outline, in order.

    Raises:
        OutlineError: There is no book, a book has no chapter, or a heading has no title.
    """
    common, books = _Part("", 0), list[_Book]()
    part = common
    for number, line in enumerate(text.splitlines(), 1):
        match _heading(line):
            case "#", title:
                part = _titled(title, number)
                books.append(_Book(part))
            case "##", title:
                if not books:
                    raise OutlineError(f"line {number}: a line '# Title' for the book comes first")
                part = _titled(title, number)
                books[-1].chapters.append(part)
            case _:
                part.lines.append(line)
    if not books:
        raise OutlineError("there is no book in it: a line '# Title' begins one")
    return [_outline(book, common.text) for book in books]


@frozen
class _Part:
    title: str
    number: int
    """Of the line that has the title."""
    lines: list[str] = field(factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines).strip()


@frozen
class _Book:
    head: _Part
    chapters: list[_Part] = field(factory=list)


def _heading(line: str) -> tuple[str, str] | None:
    marks, _, title = line.strip().partition(" ")
    return (marks, title.strip()) if marks in {"#", "##"} else None


def _titled(title: str, number: int) -> _Part:
    if not title:
        raise OutlineError(f"line {number}: a heading without a title")
    return _Part(title, number)


def _outline(book: _Book, common: str) -> Outline:
    title, count = book.head.title, len(book.chapters)
    if not 1 <= count <= MOST_CHAPTERS:
        raise OutlineError(
            f"line {book.head.number}: {title!r} has {count} chapters, and may have 1 to"
            f" {MOST_CHAPTERS}: a line '## Title' begins one"
        )
    premise = "\n\n".join(text for text in (common, book.head.text) if text)
    return Outline(title, premise, [Synopsis(part.title, part.text) for part in book.chapters])
