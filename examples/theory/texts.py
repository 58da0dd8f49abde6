"""The texts: which there are in a folder, what stands in one, and how it falls into fragments."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["Interview", "fragments_of", "interviews_in", "text_of"]

SUFFIXES: Final = {".txt", ".md"}
LARGEST: Final = 4 * 2**20
LONGEST_FRAGMENT: Final = 800
"""Characters; a paragraph that is longer is cut between sentences."""


@frozen
class Interview:
    """One text of the folder."""

    path: bytes
    """As the system has it: a name on disk need not be UTF-8, and only bytes keep such a one."""
    name: str
    """Its path within the folder, printable: bytes that are not UTF-8 stand there as `\\xe9`."""


def interviews_in(folder: Path) -> list[Interview]:
    """Return the texts of a folder and of those in it, by name; links that lead out are left out.

    Raises:
        ValueError: There are none.
    """
    root = folder.expanduser().resolve()
    files = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in SUFFIXES]
    found = [
        Interview(os.fsencode(file), _printable(file.relative_to(root).as_posix()))
        for file in files
        if file.is_file() and file.resolve().is_relative_to(root)
    ]
    if not found:
        kinds = " or ".join(sorted(SUFFIXES))
        raise ValueError(
            f"{_printable(str(root))} has no texts: give a folder with files that end in {kinds}"
        )
    return found


def text_of(interview: Interview) -> str:
    """Return what stands in a text; what is not UTF-8 is replaced.

    Raises:
        ValueError: It is empty, or too large to be an interview.
        OSError: It cannot be read.
    """
    with Path(os.fsdecode(interview.path)).open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{interview.name} is larger than {LARGEST} bytes: split it")
    text = content.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise ValueError(f"{interview.name} is empty")
    return text


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def fragments_of(text: str) -> list[str]:
    """Return the paragraphs of a text, long ones in several parts."""
    paragraphs = (" ".join(each.split()) for each in re.split(r"\n\s*\n", text))
    return [part for paragraph in paragraphs if paragraph for part in _parts(paragraph)]


def _parts(paragraph: str) -> Iterator[str]:
    part = ""
    for sentence in re.split(r"(?<=[.!?]) ", paragraph):
        if part and len(part) + len(sentence) >= LONGEST_FRAGMENT:
            yield part
            part = ""
        part = f"{part} {sentence}".lstrip()
        while len(part) > LONGEST_FRAGMENT:  # one sentence without an end
            yield part[:LONGEST_FRAGMENT]
            part = part[LONGEST_FRAGMENT:]
    if part:
        yield part
