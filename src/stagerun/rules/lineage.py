"""Where items get their numbers: at the source, and wherever a stage makes new ones."""

from collections.abc import Sequence

from stagerun.model.stage import Kind, Stage

__all__ = ["origin"]


def origin(stages: Sequence[Stage], index: int) -> int:
    """Return the stage at whose door the items of stage *index* got their numbers.

    ``len(stages)`` as index means the results of the last stage. From its origin on, an item keeps
    its number until another stage makes new ones of it.
    """
    for stage in range(min(index, len(stages) - 1), 0, -1):
        if stages[stage].kind is Kind.COLLECT:
            return stage
        if stages[stage - 1].kind is Kind.MANY:
            return stage
    return 0
