"""Whose code it is, by its file: the user's own, stagerun's, or what is installed."""

import os
import site
import sysconfig
from functools import cache
from pathlib import Path

__all__ = ["OURS", "is_user_code", "libraries"]

OURS = str(Path(__file__).parent.parent) + os.sep
"""The folder of this package, with its separator."""


@cache
def is_user_code(file: str) -> bool:
    """Whether a file is neither Python's own, nor installed, nor stagerun's."""
    if file.startswith(("<frozen", "<attrs")):
        return False
    return not file.startswith((OURS, *libraries()))


@cache
def libraries() -> tuple[str, ...]:
    """Return the folders of Python and of what is installed, each with its separator."""
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), os.path.dirname(os.__file__)}  # noqa: PTH120 - a prefix
    longest_first = sorted(folders, key=len, reverse=True)
    return tuple(folder.rstrip(os.sep) + os.sep for folder in longest_first)
