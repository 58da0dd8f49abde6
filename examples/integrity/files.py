"""What a record says of a file, and whether the file is still like that."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from attrs import frozen

State = Literal["intact", "changed", "missing"]


@frozen
class Row:
    """A record as the site gives it."""

    path: str
    size: int | None
    sha256: str | None


def state_of(row: Row) -> State:
    try:
        with Path(row.path).open("rb") as file:
            if row.size not in (None, os.fstat(file.fileno()).st_size):
                return "changed"
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"
    return "intact" if found == row.sha256 else "changed"
