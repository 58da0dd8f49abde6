"""Out of the group that a nursery makes, the one error that somebody can catch."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["sole", "unwrapped"]


@contextmanager
def unwrapped() -> Iterator[None]:
    """Let the one error of the nursery inside come out as itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = sole(group)
        if error is None:
            raise
        raise error from error.__cause__


def sole(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return the one error in *group*; None when there are several.

    Only the nursery's own group is opened: a group that the user raised stays one. The same object
    in several places counts once: a lost database reaches everybody who waits.
    """
    found = {id(error): error for error in group.exceptions}
    return next(iter(found.values())) if len(found) == 1 else None
