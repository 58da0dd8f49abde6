"""Bugs on purpose, by name: a harness that has never found one is not to be believed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

__all__ = ["PLANTS"]

_Plant = Callable[[], AbstractContextManager[Any]]

PLANTS: Final[dict[str, _Plant]] = {}
