"""The outlines, folders and prompts of examples/book."""

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.book import outlines, prompts
from examples.book.outlines import Outline, OutlineError, Synopsis
from examples.book.shelf import Book, Shelf, ShelfError

pytestmark = pytest.mark.real


def test_an_outline_has_books_with_chapters_and_what_all_books_share() -> None:
    text = "\ufeffShared.\r\n# One\r\nAbout.\r\n## A\r\n### not a chapter\r\n# Two\r\n## B"
    assert outlines.parse(text.removeprefix("\ufeff")) == [
        Outline("One", "Shared.\n\nAbout.", [Synopsis("A", "### not a chapter")]),
        Outline("Two", "Shared.", [Synopsis("B")]),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no book in it: a line '# Title' begins one"),
        ("## A chapter", "line 1: a line '# Title' for the book comes first"),
        ("# A book\n\n# Another\n## C", "line 1: 'A book' has 0 chapters"),
        ("# A book\n##\n", "line 2: a heading without a title"),
    ],
)
def test_an_outline_that_cannot_be_used_says_where(text: str, said: str) -> None:
    with pytest.raises(OutlineError, match=re.escape(said)):
        outlines.parse(text)


@given(st.text())
def test_any_text_is_an_outline_or_says_why_not(text: str) -> None:
    with suppress(OutlineError):
        assert all(each.title and each.chapters for each in outlines.parse(text))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 1_000_001])
def test_a_file_that_is_no_outline_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "outline.md"
    file.write_bytes(content)
    with pytest.raises(OutlineError, match=re.escape(str(file))):
        outlines.read(file)
    with pytest.raises(OutlineError, match="Is a directory"):
        outlines.read(tmp_path)


def test_a_chapter_is_known_by_who_wrote_it(tmp_path: Path) -> None:
    shelf = stored(tmp_path)
    assert shelf.chapter(1, by="a run") == "The hat floats."
    assert shelf.chapter(1, by="another run") is None
    (tmp_path / "chapters/01.md").write_text("By hand.\nIn two lines.\n")
    assert shelf.chapter(1) == "By hand.\nIn two lines."
    assert shelf.chapter(1, by="a run") is None


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = stored(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        shelf.put_chapter(1, "Half of it.", by="a run")
    assert {file.name for file in (tmp_path / "chapters").iterdir()} == {"01.md", "02.md"}
    assert shelf.chapter(1) == "The hat floats."


def test_a_book_that_lacks_a_chapter_has_no_document(tmp_path: Path) -> None:
    shelf = stored(tmp_path)
    (tmp_path / "chapters/02.md").unlink()
    with pytest.raises(ShelfError, match=re.escape("lacks the chapters [2]")):
        shelf.compile()
    assert not (tmp_path / "book.md").exists()


def test_the_prompt_of_a_chapter_has_the_plan_so_far_and_the_end_of_the_one_before() -> None:
    chapters = [Synopsis(f"Title {n}", f"Events {n}.") for n in (1, 2, 3)]
    before = " ".join(["early"] * 900 + ["late"] * 100)
    asked = prompts.writing(Book("B", "P", "S", ["C"], chapters), 2, before, 300)
    assert asked.startswith("Write chapter 2 of 3 of B: Title 2\n")
    assert "Events 1." in asked
    assert "Events 2." in asked
    assert "Events 3." not in asked
    assert (asked.count("early"), asked.count("late")) == (100, 100)


def stored(folder: Path) -> Shelf:
    """A book of two chapters that stands in a folder."""
    shelf = Shelf(folder)
    shelf.begin(Book("Rain", "It rains.", "A town.", ["Hat"], [Synopsis("One"), Synopsis("Two")]))
    shelf.put_chapter(1, "The hat floats.", by="a run")
    shelf.put_chapter(2, "It sinks.", by="a run")
    return shelf


def full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
