"""A book's folder: what is written stays there, whole or not at all.

    book.json         title, premise and the plan
    chapters/01.md    a chapter; its first line says who wrote it
    remarks.json      what the last check remarked
    index.json        chapters, with their words
    book.md           the document

A file is written under another name, brought to disk and renamed. So a reader, and whoever comes
after a kill, finds the old file or the new one. Writing the same again does no harm.
"""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from zlib import crc32

import msgspec
from attrs import asdict, frozen

from examples.book.outlines import Synopsis

__all__ = ["Book", "Document", "Remark", "Shelf", "ShelfError"]

PLAN: Final = "book.json"
REMARKS: Final = "remarks.json"
INDEX: Final = "index.json"
DOCUMENT: Final = "book.md"
SIGNED: Final = "<!-- written by"


class ShelfError(ValueError):
    """A folder is not a book's, or lacks something; the text says what."""


@frozen
class Book:
    """A book as it is planned."""

    title: str
    premise: str
    setting: str
    cast: list[str]
    chapters: list[Synopsis]
    """What happens in each, as the plan has it."""

    @property
    def fingerprint(self) -> str:
        """Another one for another plan."""
        return f"{crc32(repr(self).encode()):08x}"


@frozen
class Remark:
    """What the check says of a chapter."""

    chapter: int
    remark: str


@frozen
class Document:
    """A book that was put together."""

    file: str
    title: str
    chapters: int
    words: int
    remarks: int


@frozen
class Shelf:
    """The folder of one book."""

    folder: Path

    @classmethod
    def of(cls, folder: str) -> "Shelf":
        """Return the shelf of a book that is there.

        Raises:
            ShelfError: The folder is none of a book.
        """
        shelf = cls(Path(folder).absolute())
        shelf.book()
        return shelf

    def begin(self, book: Book) -> None:
        """Make the folder, with the book's plan."""
        (self.folder / "chapters").mkdir(parents=True, exist_ok=True)
        _write(self.folder / PLAN, _json(asdict(book)))

    def book(self) -> Book:
        """Return the book's plan."""
        book: Book = self._read(PLAN, Book)
        return book

    def chapter(self, number: int, *, by: str | None = None) -> str | None:
        """Return a chapter's text, or None: it is not there, or another than *by* wrote it."""
        try:
            text = self._chapter(number).read_text("utf-8")
        except FileNotFoundError:
            return None
        signature, _, content = text.partition("\n")
        if not signature.startswith(SIGNED):  # somebody has written it by hand
            signature, content = "", text
        return content.strip() if by is None or signature == _signature(by) else None

    def put_chapter(self, number: int, text: str, *, by: str) -> None:
        """Put a chapter in its place, or a new one in the place of an old one."""
        _write(self._chapter(number), f"{_signature(by)}\n{text.strip()}\n")

    def put_remarks(self, remarks: list[Remark]) -> None:
        """Put what a check has found in the place of what the one before had."""
        _write(self.folder / REMARKS, _json([asdict(remark) for remark in remarks]))

    def compile(self) -> Document:
        """Make the index and the document from what is there.

        Raises:
            ShelfError: A chapter is missing.
        """
        book = self.book()
        remarks = self._read(REMARKS, list[Remark]) if (self.folder / REMARKS).exists() else []
        texts = [self.chapter(number) or "" for number in range(1, len(book.chapters) + 1)]
        missing = [number for number, text in enumerate(texts, 1) if not text]
        if missing:
            raise ShelfError(f"{self.folder} lacks the chapters {missing}")
        lengths = [len(text.split()) for text in texts]
        titles = [f"{number}. {each.title}" for number, each in enumerate(book.chapters, 1)]
        index = {
            "title": book.title,
            "words": sum(lengths),
            "chapters": [
                {"title": title, "words": words}
                for title, words in zip(titles, lengths, strict=True)
            ],
            "remarks": [asdict(remark) for remark in remarks],
        }
        _write(self.folder / INDEX, _json(index))
        parts = [f"# {book.title}", book.premise, "## Contents"]
        parts.append("\n".join(titles))
        for title, text in zip(titles, texts, strict=True):
            parts += [f"## {title}", text]
        _write(self.folder / DOCUMENT, "\n\n".join(parts) + "\n")
        file = str(self.folder / DOCUMENT)
        return Document(file, book.title, len(texts), sum(lengths), len(remarks))

    def _chapter(self, number: int) -> Path:
        return self.folder / "chapters" / f"{number:02}.md"

    def _read(self, name: str, kind: Any) -> Any:
        path = self.folder / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except OSError as error:
            raise ShelfError(
                f"{self.folder} is no book's folder: {name} cannot be read: {error.strerror}"
            ) from error
        except msgspec.MsgspecError as error:
            raise ShelfError(f"{path} is damaged: {error}") from error


def _signature(by: str) -> str:
    return f"{SIGNED} {by} -->"


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _write(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, and stays through a power loss."""
    part = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
