"""Out of the group that a nursery makes, the one error that somebody can catch."""

from collections.abc import Iterator

__all__ = ["sole"]


def sole(error: BaseException) -> BaseException | None:
    """Return the one error in *error*, however deep; None when there are several.

    The same object in several places counts once: a lost database reaches everybody who waits.
    """
    found = {id(leaf): leaf for leaf in _leaves(error)}
    return next(iter(found.values())) if len(found) == 1 else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
