"""What the model is asked, for each phase. The first line always says what for."""

from typing import Final

from examples.book.outlines import Outline
from examples.book.shelf import Book

__all__ = ["check", "outline", "plan", "revision", "writing"]

LAST_WORDS: Final = 200
"""Of the chapter before, which the next one goes on from."""


def outline(book: Outline) -> str:
    """Ask who and what the book needs."""
    return f"""Outline the book {book.title}: its setting in one sentence, and its cast.

{book.premise}

Its chapters:
{_listed(book)}
"""


def plan(book: Book) -> str:
    """Ask what happens in each chapter."""
    return f"""Plan the book {book.title}: what happens in each chapter.

There are {len(book.chapters)} of them.

{_known(book)}

Its chapters:
{_listed(book)}
"""


def writing(book: Book, number: int, before: str | None, words: int) -> str:
    """Ask for a chapter; *before* is the text of the one before it."""
    chapter = book.chapters[number - 1]
    return f"""Write chapter {number} of {len(book.chapters)} of {book.title}: {chapter.title}

About {words} words, the text of the chapter only.

{_known(book)}

What came before:
{_listed(book, until=number - 1) or "nothing, this is where it begins"}

{_ending_of(before)}

What happens in this chapter:
{chapter.events}
"""


def revision(book: Book, number: int, text: str, instructions: str, words: int) -> str:
    """Ask for a chapter anew."""
    chapter = book.chapters[number - 1]
    return f"""Rewrite chapter {number} of {len(book.chapters)} of {book.title}: {chapter.title}

{instructions}

Keep what the other chapters build upon. About {words} words, the text of the chapter only.

{_known(book)}

All chapters:
{_listed(book)}

The chapter as it is:
{text}
"""


def check(book: Book, texts: list[str]) -> str:
    """Ask where chapters contradict the plan or each other."""
    ends = "\n".join(f"{number}. {_ending(text)}" for number, text in enumerate(texts, 1))
    return f"""Check the book {book.title}: where do chapters contradict the plan or each other?

{_known(book)}

The plan:
{_listed(book)}

How each chapter ends:
{ends}
"""


def _known(book: Book) -> str:
    return f"{book.premise}\n\nSetting: {book.setting}\nCast: {', '.join(book.cast)}"


def _listed(book: Outline | Book, until: int | None = None) -> str:
    chapters = enumerate(book.chapters[:until], 1)
    return "\n".join(f"{number}. {each.title}: {each.events}" for number, each in chapters)


def _ending_of(before: str | None) -> str:
    return "" if before is None else f"The chapter before ends so:\n{_ending(before)}"


def _ending(text: str) -> str:
    return " ".join(text.split()[-LAST_WORDS:])
