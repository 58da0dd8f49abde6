"""Items from a file or from standard input: one JSON value a line, blank lines skipped.

A regular file is read through before anything starts: a broken line is refused while nothing has
happened yet, and the number of items is known. Nothing of it is kept in memory; it is read again
when its items are stored. Standard input and pipes cannot be read twice. Their lines are checked
as they come, and a broken one ends the run as ``failed`` after what came before it is done.
"""

import codecs
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import msgspec

from stagerun.errors import InputError
from stagerun.store import codec

__all__ = ["InputFile", "InputStream", "open_input"]


def open_input(name: str) -> "InputFile | InputStream":
    """Open the file *name*, or standard input for ``-``.

    Raises:
        InputError: It cannot be read, or (a regular file) holds a line that is not one JSON value.
    """
    if name == "-":
        # Not sys.stdin: its lock, held by a thread that waits for a line, would hinder the exit.
        return InputStream(open(0, "rb", closefd=False), "standard input")
    path = Path(name)
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return InputFile(path)
        return InputStream(path.open("rb"), name)
    except OSError as error:
        raise InputError(f"the input {name} cannot be read: {error.strerror}") from error


class InputFile(Sequence[Any]):
    """The items of a regular file, read anew by every iteration."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._length = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        with self._path.open("rb") as lines:
            yield from _values(lines, str(self._path))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._length))]
        position = range(self._length)[index]
        return next(islice(self, position, None))


class InputStream(Iterator[Any]):
    """The items of a pipe, each read when the run has room for it."""

    def __init__(self, lines: BinaryIO, name: str) -> None:
        self.error: InputError | None = None
        """What ended the input too early, for the exit status."""
        self.from_person = lines.isatty()
        self._values = _values(lines, name)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._values)
        except InputError as error:
            self.error = error
            raise


def _values(lines: Iterable[bytes], name: str) -> Iterator[Any]:
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text := text.strip():
                yield _value(text, number, name)
    except OSError as error:
        raise InputError(f"{name} cannot be read after line {number}: {error.strerror}") from error


def _value(text: bytes, number: int, name: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        hint = ""
        if number == 1 and text in (b"[", b"{"):
            hint = "; a value may not go over several lines: `jq -c` puts each on one"
        raise InputError(
            f"line {number} of {name} is not one JSON value: {error}{hint}", number
        ) from error
    try:
        codec.encode(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"line {number} of {name} cannot be stored: {error}", number) from error
    return value
