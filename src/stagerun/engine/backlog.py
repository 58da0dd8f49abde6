"""What waits in the database when a generation begins, and how it gets into the mailboxes.

A generation reads, stage by stage, what waits there from earlier ones, page by page while it works;
whatever comes later is handed on in memory, so that nothing is given twice. Items that were under
way when a process died go before everything else: alone, where that can tell which one is to blame.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import define, field

from stagerun.engine.desk import Item
from stagerun.engine.hub import Hub
from stagerun.engine.stage import StageActor
from stagerun.errors import StoreError
from stagerun.model.outcome import ItemCause, Outcome
from stagerun.model.stage import Kind
from stagerun.rules.frontier import condemned
from stagerun.rules.verdict import Ended
from stagerun.store import codec, frontier
from stagerun.store.reopening import Suspect, suspects

__all__ = ["Backlog", "Suspects", "backlogs_of"]

_FEW = 16
"""Items under way at a death that are all retried alone. Of more, any one is hardly to blame: they
are retried together, until they were seen at so many deaths:"""
_MANY_DEATHS = 3


@define(eq=False)
class Backlog:
    """The stored items that wait for one stage."""

    hub: Hub
    actor: StageActor
    _over: trio.Event = field(init=False, factory=trio.Event)
    _lost: StoreError | None = field(init=False, default=None)

    async def feed(self) -> None:
        """Put them into the mailbox, in item order, as there is room."""
        try:
            await feed_waiting(self.hub, self.actor, below=self.hub.ledger.generation)
        except StoreError as error:
            self._lost = error  # raised in finished(), where the run's own task hears it
        self.actor.backlog_read()
        self._over.set()

    async def finished(self) -> None:
        """Wait until all of them are in the mailbox, or the run stops.

        Raises:
            StoreError: The database was lost before that.
        """
        await self._over.wait()
        if self._lost is not None:
            raise self._lost


async def feed_waiting(hub: Hub, actor: StageActor, *, below: int) -> None:
    """Put what waits for a stage from generations before *below* into its mailbox."""
    place, after = hub.places[actor.index], 0
    while page := await hub.store.ask(frontier.waiting(place, below, after)):
        for number, encoded, superseded in page:
            if hub.stop is not None:
                return
            after = number
            actor.put_stored(number, encoded, superseded=superseded)
            if actor.mailbox.full:
                await actor.mailbox.room()
        await hub.recorder.room(hub.ledger)


def backlogs_of(hub: Hub, actors: Sequence[StageActor], source: str) -> dict[int, Backlog]:
    """Return the backlogs of the stages that have one; a collect stage's groups are made later."""
    found = {}
    for actor, counts in zip(actors, hub.ledger.published.counts, strict=True):
        read_again = actor.index == 0 and source == "function"
        if counts.waiting and not read_again and actor.stage.kind is not Kind.COLLECT:
            found[actor.index] = Backlog(hub, actor)
            actor.expect_backlog()
    return found


@define(eq=False)
class Suspects:
    """Items that were under way when a process died: one of them may be what killed it."""

    hub: Hub
    actors: Sequence[StageActor]
    quiet: Callable[[], Awaitable[None]]
    """Waits until nothing of the run is under way."""
    postpone: Callable[[float], None]
    """Moves the run's deadline by seconds that were waited for other runs."""
    waits: bool = field(init=False, default=False)
    """Whether it waits just now, for one of another run."""
    from_source: dict[int, Suspect] = field(init=False, factory=dict)
    """Those that only the source can give again, by position."""

    async def go_first(self, *, read_again: bool) -> None:
        """Run the suspects of all stages before everything else.

        *read_again*: the values of the first stage's items are with the source, not in the store.
        """
        found = []
        for actor in self.actors:
            place = self.hub.places[actor.index]
            for suspect in await self.hub.store.ask(suspects(place)):
                alone = suspect.company <= _FEW or suspect.deaths >= _MANY_DEATHS
                if actor.index == 0 and read_again:
                    if alone:
                        self.from_source[suspect.item] = suspect
                elif alone or condemned(suspect.deaths, suspect.alone):
                    # Looked up before any of them runs: one that the stage before has not handed
                    # on yet, as far as the disk knows, comes by itself when that has repeated it.
                    encoded = await self.hub.store.ask(frontier.entered(place, suspect.item))
                    if encoded is not None:
                        found.append((actor, suspect, encoded))
        for actor, suspect, encoded in found:
            await self._try_alone(actor, suspect, encoded)
        await self.hub.recorder.flush(self.hub.ledger)

    async def _try_alone(self, actor: StageActor, suspect: Suspect, encoded: bytes) -> None:
        if self.hub.stop is not None:
            return
        if condemned(suspect.deaths, suspect.alone):
            condemn(actor, Item(suspect.item, codec.decode(encoded)), suspect)
            return
        self.hub.log.info(
            "item %d of stage %s runs alone: it was under way when a process died (deaths: %d)",
            suspect.item,
            actor.stage.name,
            suspect.deaths,
        )
        async with self._quarantine():
            actor.put_stored(suspect.item, encoded, superseded=False)
            await self.quiet()

    async def from_source_alone(self, item: Item, give: Callable[[Item], None]) -> bool:
        """Run an item that the source gave again alone, if it is a suspect; False: it is none.

        *give*: puts it into the first stage's mailbox.
        """
        suspect = self.from_source.get(item.number)
        if suspect is None:
            return False
        first = self.actors[0]
        if condemned(suspect.deaths, suspect.alone):
            condemn(first, item, suspect)
            return True
        await self.quiet()
        async with self._quarantine():
            give(item)
            await self.quiet()
        return True

    @asynccontextmanager
    async def _quarantine(self) -> AsyncIterator[None]:
        """Have no other suspect of this process under way; the wait for it is not this run's."""
        began, self.waits = trio.current_time(), True
        try:
            await self.hub.quarantine.acquire()
        finally:
            self.waits = False
        try:
            self.postpone(trio.current_time() - began)
            yield
        finally:
            self.hub.quarantine.release()


def condemn(actor: StageActor, item: Item, suspect: Suspect) -> None:
    """End an item that takes its process down again and again; the run goes on without it."""
    actor.watch()
    message = (
        f"{suspect.deaths} processes died while it was under way,"
        f" {suspect.alone} of them with nothing else under way"
    )
    actor.fail(item, Ended(Outcome.CRASHED, ItemCause.CRASHED, message), None)
