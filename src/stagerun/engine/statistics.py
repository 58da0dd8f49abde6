"""What a runtime has under way at a moment: its figures, and its tasks as a tree."""

import trio
from attrs import field, frozen

__all__ = ["RuntimeStatistics", "drawn"]


@frozen
class RuntimeStatistics:
    """What a runtime has under way at this moment."""

    runs: int
    in_flight: int
    """Items that a stage works on."""
    survivors: int
    """Cut attempts that have not stopped, also of runs that have ended."""
    survivor_names: tuple[str, ...] = ()
    """What they are, the oldest first."""
    loop_lag: float = field(default=0.0, eq=False, repr=False)
    """Seconds by which the event loop is late now, or was at most in the last half minute."""


def drawn(root: str, nursery: trio.Nursery) -> str:
    """Draw the tasks below a nursery as they stand now, one a line."""
    return "\n".join([root, *_branches(nursery)])


def _branches(nursery: trio.Nursery, indent: str = "") -> list[str]:
    lines = []
    for task in sorted(nursery.child_tasks, key=lambda task: task.name):
        lines.append(f"{indent}├── {task.name}")
        for child in task.child_nurseries:
            lines += _branches(child, indent + "│   ")
    return lines
