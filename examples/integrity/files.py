"""What a record says of a file, and whether the file is still like that."""

import hashlib
import os
import stat
from typing import Literal

from attrs import frozen

State = Literal["intact", "changed", "missing"]


@frozen
class Row:
    """A record as the site gives it."""

    path: str
    size: int | None
    sha256: str | None


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever would write to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def state_of(row: Row) -> State:
    """Compare; what is there but is no regular file, as a device or a pipe, is not read."""
    try:
        with open(row.path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return "missing"
            if row.size not in (None, status.st_size):
                return "changed"
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return "missing"
    return "intact" if found == row.sha256 else "changed"
