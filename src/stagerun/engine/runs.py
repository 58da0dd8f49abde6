"""The runs of a runtime, from their being asked for to the last of what they left behind."""

from collections.abc import Awaitable, Callable, Iterator

import trio
from attrs import define, field

from stagerun import logs
from stagerun.engine.desk import Desk
from stagerun.engine.elsewhere import Elsewhere
from stagerun.engine.hub import Hub
from stagerun.engine.run import RunActor
from stagerun.errors import RuntimeClosedError
from stagerun.model.status import Cause, Ending, Status

__all__ = ["Make", "Runs"]

_SHUT_DOWN = Ending(
    Status.INTERRUPTED, Cause.SHUTDOWN, "the program shut down before the run was done"
)
_NAME_EVERY = 5.0
"""Seconds between two lines that name what keeps the runtime from being left."""

Make = Callable[[], Awaitable[RunActor | Elsewhere]]
"""Stores a run and returns its actor, or finds it elsewhere."""


@define(eq=False)
class _Birth:
    """How an asked-for run comes to be: an actor, or an error."""

    key: str | None
    over: trio.Event = field(factory=trio.Event)
    actor: RunActor | Elsewhere | None = None
    error: BaseException | None = None


class Runs:
    """Every run is a task on the floor: whoever asked for it may be cancelled, it is not."""

    def __init__(self, floor: trio.Nursery) -> None:
        self.actors: dict[str, RunActor] = {}
        """Runs under way."""
        self.closing = False
        self._floor = floor
        self._haunted: list[RunActor] = []
        """Runs that have ended while work of theirs had not."""
        self._births: dict[_Birth, None] = {}
        """Runs from their being asked for to their end."""
        self._keyed: dict[str, _Birth] = {}
        """Those of them that were asked for with a key: a second asking waits for the first."""
        self._quiet = trio.lowlevel.ParkingLot()
        self._followed: dict[tuple[str, int], Elsewhere] = {}

    async def born(self, make: Make, key: str | None = None) -> RunActor | Elsewhere:
        """Have a run made and conducted; return its actor, or raise what kept it from being made.

        While one is being made with *key*, a second asking gets the same.
        """
        if self.closing:
            raise RuntimeClosedError("the runtime is being left and takes no new runs")
        birth = self._keyed.get(key) if key is not None else None
        if birth is None:
            birth = _Birth(key)
            self._births[birth] = None
            if key is not None:
                self._keyed[key] = birth
            self._floor.start_soon(self._live, make, birth, name="a run is accepted")
        await birth.over.wait()
        if birth.error is not None:
            raise birth.error
        assert birth.actor is not None  # noqa: S101 - a birth is over with an actor or an error
        return birth.actor

    @trio.lowlevel.enable_ki_protection
    async def _live(self, make: Make, birth: _Birth) -> None:
        """Accept a run and conduct it. Whoever asked for it may be gone: it is accepted or not."""
        with trio.CancelScope(shield=True):
            try:
                actor = await make()
                known = self._followed.get((actor.id, actor.generation))
                if known is not None and isinstance(actor, Elsewhere):
                    birth.actor = known  # followed already: many handles, one look at the database
                    return
                birth.actor = actor
                birth.over.set()
                if isinstance(actor, Elsewhere):
                    await self._follow(actor)
                elif not actor.begun:
                    trio.lowlevel.current_task().name = f"run {actor.hub.id}"
                    if self.closing:
                        actor.stop(_SHUT_DOWN)
                    await self._conduct(actor)
            except Exception as error:
                if birth.over.is_set():
                    raise  # a defect: it concerns the runtime, not whoever asked for the run
                birth.error = error
            finally:
                birth.over.set()
                del self._births[birth]
                if birth.key is not None:
                    self._keyed.pop(birth.key, None)
                self._quiet.unpark_all()

    async def _follow(self, actor: Elsewhere) -> None:
        """Keep what is known of a run of another process up to date, as long as that runs."""
        if self.closing:
            actor.let_go()
        self._followed[actor.id, actor.generation] = actor
        try:
            await actor.follow()
        finally:
            del self._followed[actor.id, actor.generation]

    async def _conduct(self, actor: RunActor) -> None:
        try:
            await actor.conduct()
        finally:
            if self.actors.get(actor.hub.id) is actor:
                del self.actors[actor.hub.id]
            self._haunted = [ended for ended in [*self._haunted, actor] if ended.hub.survivors]

    def ended_by_others(self, message: str) -> None:
        """Hear that another process has settled the runs of this one."""
        for actor in self.actors.values():
            actor.stop(Ending(Status.INTERRUPTED, Cause.OWNER_DIED, message))

    def hubs(self) -> list[Hub]:
        """Return what the runs under way share with their stages."""
        return [actor.hub for actor in self.actors.values()]

    def desks(self) -> Iterator[Desk]:
        """Return the workers of all runs, as they stand now."""
        for actor in [*self.actors.values()]:
            for stage in () if actor.crew is None else actor.crew.stages:
                yield from stage.desks

    # -- leaving --------------------------------------------------------------------------------

    @property
    def unborn_or_alive(self) -> bool:
        """Whether a run is still to be made, or to end."""
        return bool(self._births)

    @property
    def longest_grace(self) -> float:
        """Seconds that the work of the runs under way gets to stop. Any thread."""
        return max((a.hub.pipeline.grace for a in [*self.actors.values()]), default=0.0)

    def close(self) -> None:
        """Interrupt all runs."""
        self.closing = True
        for actor in [*self.actors.values()]:
            actor.stop(_SHUT_DOWN)
        for other in [*self._followed.values()]:
            other.let_go()

    async def all_ended(self) -> None:
        """Wait until none is to be made or to end."""
        while self._births:
            await self._quiet.park()

    async def name_survivors(self) -> None:
        """Say every few seconds what keeps the program; ends when nothing does."""
        with trio.CancelScope(shield=True):
            while haunted := [a for a in self._haunted if _has_task(a)]:
                with trio.move_on_after(_NAME_EVERY) as patience:
                    await haunted[0].hub.calm.wait()
                if patience.cancelled_caught:
                    left = "; ".join(str(s) for a in haunted for s in a.hub.survivors)
                    logs.RunLog().error("the runtime cannot be left: %s", left)


def _has_task(actor: RunActor) -> bool:
    """Whether a run has left a task behind: a thread does not hold the program."""
    return any(not survivor.thread for survivor in actor.hub.survivors)
