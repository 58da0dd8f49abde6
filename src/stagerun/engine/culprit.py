"""Who keeps a thread busy: the stage and the item, and the line of user code, by its stack."""

import sys
from types import FrameType
from typing import TYPE_CHECKING

from attrs import frozen

from stagerun.engine import source, worker
from stagerun.engine.env import Env
from stagerun.engine.hub import Hub
from stagerun.engine.usercode import is_user_code
from stagerun.logs import RunLog

if TYPE_CHECKING:
    from stagerun.engine.desk import Desk

__all__ = ["Culprit", "culprit", "suspect"]


@frozen(eq=False)
class Culprit:
    """What runs in the event loop's thread, as well as its stack tells."""

    place: str
    """File and line of the innermost user code, else of what is innermost."""
    function: str
    hub: Hub | None = None
    """The run, where it is the code of one."""
    stage: str | None = None
    item: int | None = None
    desk: "Desk | None" = None

    def __str__(self) -> str:
        if self.stage is None:
            return "the source" if self.hub is not None else "code outside of any run"
        return f"stage {self.stage}" + (f", item {self.item}," if self.item is not None else "")

    def log(self, env: Env) -> RunLog:
        """Return the log that its lines belong to: the run's, if it is of one."""
        if self.hub is None:
            return RunLog(now=env.now_us)
        return self.hub.log if self.stage is None else self.hub.log.for_stage(self.stage)

    def facts(self) -> dict[str, object]:
        """Return where it is, for the event that is kept with the run."""
        return {"place": self.place, "function": self.function}


def culprit(thread: int) -> Culprit:
    """Look at what *thread* does at this moment. From another thread only."""
    innermost = sys._current_frames().get(thread)  # noqa: SLF001 - documented for just this
    frame, user = innermost, None
    while frame is not None:
        code = frame.f_code
        if user is None and is_user_code(code.co_filename):
            user = frame
        if code is _LAP:
            desk: Desk = frame.f_locals["desk"]
            item = desk.items[0].number if desk.items else None
            place, function = _where(user or innermost)
            actor = desk.actor
            return Culprit(place, function, actor.hub, actor.stage.name, item, desk)
        if code is _RESOURCE:
            actor = frame.f_locals["actor"]
            return Culprit(*_where(user or innermost), actor.hub, actor.stage.name)
        if code.co_filename == source.__file__ and isinstance(
            reader := frame.f_locals.get("self"), source.SourceActor
        ):
            return Culprit(*_where(user or innermost), reader._hub)  # noqa: SLF001 - it has no reader but this
        frame = frame.f_back
    return Culprit(*_where(user or innermost))


def suspect(desk: "Desk") -> Culprit:
    """Return what is known of an attempt that was not caught in the act: its stage's function."""
    actor, code = desk.actor, getattr(desk.actor.stage.function, "__code__", None)
    place = "an unknown place" if code is None else f"{code.co_filename}:{code.co_firstlineno}"
    function = "?" if code is None else code.co_qualname
    item = desk.items[0].number if desk.items else None
    return Culprit(place, function, actor.hub, actor.stage.name, item, desk)


def _where(frame: FrameType | None) -> tuple[str, str]:
    if frame is None:
        return "an unknown place", "?"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}", frame.f_code.co_qualname


_LAP = worker._lap.__code__  # noqa: SLF001 - the one frame below which user code runs
_RESOURCE = worker._carry_with_resource.__code__  # noqa: SLF001 - and the other one
