"""What a runtime does beside its runs: it is an owner, shows life, and looks after the others."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import trio

from stagerun import logs
from stagerun.engine.desk import Desk
from stagerun.engine.env import Env
from stagerun.engine.hub import Hub
from stagerun.engine.overdue import Overdue
from stagerun.engine.recorder import Recorder
from stagerun.engine.recovery import recover
from stagerun.engine.retention import prune_for_ever
from stagerun.engine.unwrap import unwrapped
from stagerun.engine.verdicts import Verdicts
from stagerun.engine.watch import LOOK, Watch
from stagerun.errors import StoreError
from stagerun.rules.retention import keep_of
from stagerun.store import owners
from stagerun.store.driver import Store
from stagerun.store.transaction import Unit

__all__ = ["Household"]

_LOOK = 5.0
"""Seconds between two looks at the other owners."""
_REFUSED_LOOK = 0.2
"""Seconds between two looks whether a commit that lasts is refused, or only slow."""
_OPENS_WITHIN = 15.0
"""Seconds for which a database may refuse the commits of the opening."""


class Household:
    """The owner that this runtime is, from its registration to its orderly end.

    Args:
        store: Where owners are registered.
        recorder: What writes their life.
        env: The world.
        floor: Where its tasks stand.
        on_ended: Called when another process has taken this owner for dead; its runs must stop.
        on_look: Called after each look at the other owners, with nothing of theirs unsettled.
        desks: The workers of all its runs.
        hubs: Those runs.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        env: Env,
        floor: trio.Nursery,
        *,
        on_ended: Callable[[str], None],
        on_look: Callable[[], Awaitable[None]],
        desks: Callable[[], Iterable[Desk]],
        hubs: Callable[[], Iterable[Hub]],
    ) -> None:
        self.owner = 0
        """The owner's number; 0 while it is not registered."""
        self._store = store
        self._recorder = recorder
        self._env = env
        self._floor = floor
        self._on_ended = on_ended
        self._on_look = on_look
        self._overdue = Overdue(store, recorder, env)
        self._verdicts, self._hubs = Verdicts(store, env), hubs
        self._kept = keep_of(env.environ)
        self._leaving = False
        self.watch = Watch(env, recorder, store, desks)
        """Knows who blocks the event loop."""
        self._scope = trio.CancelScope(shield=True)

    async def open(self) -> None:
        """Register, settle what dead owners left, and go on doing so in the background.

        Raises:
            StoreError: The database takes no commits.
        """
        self.watch.begin()
        async with self._patience(_OPENS_WITHIN):
            await self._register()
            self._store.watch(self.watch.look, LOOK)
            tidy = trio.Event()
            self._floor.start_soon(self._keep, tidy, name="housekeeping")
            await tidy.wait()

    async def _register(self) -> None:
        """Become an owner: lock a file, then say so in the database; from then on show life."""
        identifier = self._env.new_id()
        unit = owners.owner(
            identifier,
            self._store.claim(identifier),
            now=self._env.now_us(),
            pid=os.getpid(),
            host=socket.gethostname(),
            revision=self._env.environ.get("STAGERUN_REVISION"),
        )
        returned = await self._recorder.write(unit)
        assert returned is not None  # noqa: S101 - an INSERT of a fresh identifier
        self.owner = int(returned[0])
        self._recorder.beat_for(self.owner, partial(self._ended_by_others, self.owner))

    @trio.lowlevel.enable_ki_protection
    async def _keep(self, tidy: trio.Event) -> None:
        """Settle what dead owners left, first now and then for ever; show that the loop lives."""
        with self._scope:
            await self.look()
            tidy.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.watch.tick, name="ticker")
                nursery.start_soon(self._look_for_ever, name="recovery")
                world = (self._store, self._recorder, self._env)
                nursery.start_soon(prune_for_ever, *world, self._kept, name="pruning")

    @trio.lowlevel.enable_ki_protection
    async def _look_for_ever(self) -> None:
        while True:
            await trio.sleep(_LOOK * self._env.pace)
            try:
                await self.look()
                await self._verdicts.look(self._hubs())
            except StoreError as error:
                logs.RunLog(now=self._env.now_us).warning("recovery is tried again: %s", error)

    async def look(self) -> None:
        """Settle what dead owners have left, now."""
        await recover(self.owner, self._store, self._recorder, self._env)
        await self._overdue.look(self.owner)
        await self._on_look()

    def _ended_by_others(self, owner: int) -> None:
        """Hear that another process took this one for dead: stop its runs, begin as a new owner.

        Several beats may be refused for the same reason; only the first is news.
        """
        if owner != self.owner:
            return
        self.owner = 0  # so that nothing is opened until the new one is there
        message = "another process has settled this owner's runs"
        logs.RunLog(now=self._env.now_us).error("%s: they stop here", message)
        self._recorder.stop_beating()  # every beat that is under way would be refused as well
        self._on_ended(message)
        if not self._leaving:
            self._floor.start_soon(self._register, name="registers anew")

    def leave(self) -> None:
        """Hear that the runtime is being left: no new owner is made of it any more."""
        self._leaving = True
        self._store.page.blame_nobody()

    async def close(self, within: float) -> None:
        """Note the orderly end; what the database refuses for *within* seconds stays undone.

        Raises:
            StoreError: It was lost before that, or refuses.
        """
        self._scope.cancel(reason="the runtime is left")
        self.watch.end()
        self._recorder.stop_beating()
        ending = owners.end_owner(self.owner, self._env.now_us())
        async with self._patience(within):
            # Cancelled while opening, it is none: what that began comes to its end all the same.
            await self._recorder.write(ending if self.owner else Unit(None))
        if self.owner:
            self._store.release()

    @asynccontextmanager
    async def _patience(self, within: float) -> AsyncIterator[None]:
        """Let a commit that is refused fail for good once the block has waited so long for it."""

        async def lose_it() -> None:
            await trio.sleep(within)
            while not self._recorder.refused:  # noqa: ASYNC110 - it is only slow, as yet
                await trio.sleep(_REFUSED_LOOK)
            self._store.give_up()

        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose_it, name="gives the database up")
                yield
                nursery.cancel_scope.cancel()
