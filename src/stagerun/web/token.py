"""The secret that whoever changes something has to show.

Without one of the operator's own it is drawn at random and kept in a file beside the database, for
its owner only: whoever may read the database may use it, and all processes of a service share it.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from stagerun.errors import SettingError, StoreError

__all__ = ["SETTING", "token_file", "token_of"]

SETTING: Final = "STAGERUN_TOKEN"

_MOST: Final = 1_000
"""Bytes of a token's file that are looked at."""
_LEAST: Final = 16
"""Characters of a token that is given: shorter ones can be guessed."""


def token_of(database: Path, given: str | None, environ: Mapping[str, str]) -> str:
    """Return the token that is given, or set, or kept beside the database; it may be made now.

    Raises:
        SettingError: The one that is set is too short.
        StoreError: The file cannot be made or read, or others may read it.
        ValueError: The one that is given is too short.
    """
    if given is not None:
        if not _is_fit(given):
            raise ValueError(f"token: at least {_LEAST} printable characters without spaces")
        return given
    if token := environ.get(SETTING):
        if not _is_fit(token):
            raise SettingError(SETTING, f"needs {_LEAST} printable characters without spaces")
        return token
    path = token_file(database)
    try:
        return _read(path) if path.exists() else _make(path)
    except OSError as error:
        raise StoreError(f"the token file {path}: {error.strerror or error}") from error


def token_file(database: Path) -> Path:
    """Return where the token of a database is kept."""
    return database.with_name(f"{database.name}.token")


def _is_fit(token: str) -> bool:
    return len(token) >= _LEAST and token.isascii() and token.isprintable() and " " not in token


def _make(path: Path) -> str:
    """Draw a token and keep it, unless another process is quicker."""
    token = secrets.token_urlsafe(32)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        with suppress(FileExistsError):
            os.link(draft, path)  # whole, or not at all
            return token
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # it may be a pipe
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor)
        if not stat.S_ISREG(mode.st_mode):
            raise StoreError(f"the token file {path} is no file: delete it, and a new one is made")
        if mode.st_uid != os.geteuid() or mode.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StoreError(
                f"the token file {path} must belong to you, and only you may read it: delete it,"
                " and a new one is made"
            )
        token = file.read(_MOST).decode("ascii", "replace").strip()
    if not _is_fit(token):
        raise StoreError(f"the token file {path} holds no token: delete it, and a new one is made")
    return token
