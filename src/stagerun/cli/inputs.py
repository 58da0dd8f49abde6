"""Items from a file or from standard input: one JSON value a line, blank lines skipped.

A regular file is read through before anything starts: a broken line is refused while nothing has
happened yet, and the number of items is known. Nothing of it is kept in memory; it is read again
when its items are stored. Standard input and pipes cannot be read twice. Their lines are checked
as they come, and a broken one ends the run as ``failed`` after what came before it is done.
"""

import codecs
import os
import stat
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, overload

import msgspec
import trio

from stagerun.errors import InputError
from stagerun.store import codec

__all__ = ["InputFile", "InputStream", "open_input"]

_PART: Final = 65_536
"""Bytes that one read of a pipe takes at most."""


def open_input(name: str) -> "InputFile | InputStream":
    """Open the file *name*, or standard input for ``-``.

    Raises:
        InputError: It cannot be read, or (a regular file) holds a line that is not one JSON value.
    """
    if name == "-":
        return InputStream(0, "standard input")
    path = Path(name)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return InputFile(path)
        if stat.S_ISDIR(mode):
            raise InputError(f"the input {name} is a folder: give a file or - for standard input")
        return InputStream(os.open(path, os.O_RDONLY), name)
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


class InputStream(AsyncIterator[Any]):
    """The items of a pipe, each given as soon as its line is there and the run has room for it.

    The descriptor is read as it is: a buffered reader would keep a line back until it has many,
    and its lock, held by a thread that waits for input, would hinder the program's end.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.error: InputError | None = None
        """What ended the input too early, for the exit status."""
        self.from_person = os.isatty(descriptor)
        self._descriptor = descriptor
        self._name = name
        self._lines = deque[bytes]()
        self._rest = bytearray()
        self._number = 0
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            while self._lines:
                self._number += 1
                if text := _bare(self._lines.popleft(), self._number):
                    return self._value(text)
            if self._ended:
                raise StopAsyncIteration
            await self._fill()

    def _value(self, text: bytes) -> Any:
        try:
            return _value(text, self._number, self._name)
        except InputError as error:
            self.error = error
            raise

    async def _fill(self) -> None:
        try:
            # Abandoned, the thread waits on for a line that nobody takes any more: it is a daemon.
            part = await trio.to_thread.run_sync(
                os.read, self._descriptor, _PART, abandon_on_cancel=True
            )
        except OSError as error:
            self.error = InputError(f"{self._name} cannot be read: {error.strerror}")
            raise self.error from error
        self._ended = not part
        self._rest += part
        if self._ended or b"\n" in part:
            *whole, rest = self._rest.split(b"\n")
            self._lines.extend(map(bytes, whole))
            self._rest = rest
        if self._ended:
            self._lines.append(bytes(self._rest))


def _bare(line: bytes, number: int) -> bytes:
    return (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()


def _values(lines: Iterable[bytes], name: str) -> Iterator[Any]:
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if text := _bare(line, number):
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
