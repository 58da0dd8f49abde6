"""What a bug on purpose is, and how it is put in and taken out again."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from attrs import frozen

__all__ = ["PLANTS", "Plant", "everywhere", "plant", "replaced"]


@frozen
class Plant:
    """A bug on purpose, and how it must come to light."""

    planted: Callable[[], AbstractContextManager[Any]]
    shows: str
    """A pattern: found is what violates this. Another violation might be there without the bug."""

    def is_found(self, violations: Sequence[str]) -> bool:
        """Whether one of the violations is what this bug does."""
        return any(re.search(self.shows, each) for each in violations)


PLANTS: Final[dict[str, Plant]] = {}
"""What is planted, by name. Each is found within a thousand seeds: the campaign sees to that."""


def plant(shows: str) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Know a plant by its function's name."""

    def decorate(make: Callable[[], Iterator[None]]) -> None:
        PLANTS[make.__name__.replace("_", "-")] = Plant(contextmanager(make), shows)

    return decorate


@contextmanager
def replaced(target: Any, name: str, by: Any) -> Iterator[None]:
    """Have something else stand in a place for a while."""
    with mock.patch.object(target, name, by):
        yield


@contextmanager
def everywhere(function: Callable[..., Any], by: Callable[..., Any]) -> Iterator[None]:
    """Have *by* stand wherever a module of the package has imported *function* to."""
    name = function.__name__
    with ExitStack() as stack:
        for path, module in [*sys.modules.items()]:
            if path.startswith("stagerun.") and getattr(module, name, None) is function:
                stack.enter_context(mock.patch.object(module, name, by))
        yield
