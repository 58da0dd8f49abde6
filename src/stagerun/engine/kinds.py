"""How an attempt is made in each kind of stage; everything else is in ``stage.py``."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Any

import trio

from stagerun.engine.calling import call
from stagerun.engine.desk import Desk, How, Item
from stagerun.engine.emission import Emitter
from stagerun.engine.hub import Hub
from stagerun.engine.keys import Keys
from stagerun.engine.ledger import Post
from stagerun.engine.stage import StageActor
from stagerun.errors import CancelRequested
from stagerun.model.outcome import ItemCause, Outcome, StageOutcome
from stagerun.model.stage import Kind, Stage
from stagerun.rules.verdict import Ended
from stagerun.store import codec, frontier, groups

__all__ = ["CollectActor", "actor_for"]

_STREAK = 64
"""Children after which a worker lets the others run, however quickly they come."""


def actor_for(stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> StageActor:
    """Return the actor of *stage*, by its kind."""
    return _ACTORS[stage.kind](stage, index, hub, run_nursery)


class EachActor(StageActor):
    """One item in, one result out."""

    __slots__ = ("_keys",)

    def __init__(self, stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> None:
        super().__init__(stage, index, hub, run_nursery)
        self._keys = Keys(self, stage.key) if stage.key is not None else None
        # With keys each item goes through next_items().
        self.more_items = self.mailbox.next if self._keys is None else lambda: None
        if stage.kind is Kind.EACH and stage.mode == "async" and not stage.wants_ctx:
            self.direct = stage.function

    def perform(self, desk: Desk) -> Awaitable[Any]:
        """See ``StageActor.perform``."""
        return call(desk, desk.items[0].value)

    async def next_items(self, desk: Desk) -> tuple[Item, ...] | None:
        """See ``StageActor.next_items``; an item whose key is taken is not worked on."""
        items = await super().next_items(desk)
        if self._keys is not None:
            while items is not None and not await self._admit(items[0]):
                items = await super().next_items(desk)
            if self.hub.stop is not None:
                return None  # the run was stopped while the key was looked up: not begun
        return items

    async def _admit(self, item: Item) -> bool:
        if self._keys is None:
            return True
        self._keys.asked.add(item.number)
        admitted = False
        with trio.CancelScope(shield=True):
            admitted = await self._keys.admit(item)
        self._keys.asked.discard(item.number)
        return admitted

    @property
    def admitting(self) -> Collection[int]:
        """See ``StageActor.admitting``."""
        return () if self._keys is None else self._keys.asked

    def void(self, number: int) -> None:
        """See ``StageActor.void``; its key is free again."""
        if self._keys is not None:
            self._keys.forget(number)
        super().void(number)


class ManyActor(EachActor):
    """One item in, any number of results out, each handed on at once."""

    __slots__ = ()

    async def perform(self, desk: Desk) -> Any:
        """See ``StageActor.perform``. The clock stands still while there is no room behind."""
        parent = desk.items[0]
        if parent.attempts > 1 or parent.repeated:
            with desk.paused():
                emitter = await Emitter.reopen(self, parent)
        else:
            emitter = Emitter(self, parent)
        context = {"ctx": desk.context()} if self.stage.wants_ctx else {}
        async with aclosing(self.stage.function(parent.value, **context)) as children:
            async for child in children:
                if desk.was_cut or self.hub.stop is not None:
                    raise CancelRequested("this attempt is over")  # whatever it swallowed
                emitter.emit(child)
                desk.beat()
                if self.must_wait() or emitter.count % _STREAK == 0:
                    with desk.paused():
                        await self.room_behind()
        emitter.close()

    def succeed(self, item: Item, value: Any, now: float) -> None:  # noqa: ARG002 - they went on
        """Record that an item has given all its children; they went on by themselves."""
        self.register.outcome(item, Outcome.OK.value, None, now)


class BatchActor(StageActor):
    """A list of items in, as many results out."""

    __slots__ = ("_oldest", "_size", "_window")

    def __init__(self, stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> None:
        super().__init__(stage, index, hub, run_nursery)
        assert stage.batch is not None  # noqa: S101 - a batch stage has its policy
        self._size = stage.batch.size
        self._window = stage.batch.wait
        self._oldest = 0.0
        """When the oldest waiting item came. Invariant: meaningless while the mailbox is empty."""

    @staticmethod
    def room_needed(stage: Stage) -> int:
        """See ``StageActor.room_needed``: a whole batch must fit."""
        assert stage.batch is not None  # noqa: S101 - as above
        return max(stage.buffer, stage.batch.size)

    def put(self, item: Item) -> None:
        """See ``StageActor.put``: a worker begins when a batch is whole or its window closes."""
        if not len(self.mailbox):
            self._oldest = trio.current_time()
            self.watch()
            if self._oldest + self._window < self.due:
                self.nudge()
        self.mailbox.put(item)
        if self.ready:
            self.summon()

    @property
    def ready(self) -> bool:
        """See ``StageActor.ready``: a whole batch, or one whose window has closed."""
        whole = self._closed or len(self.mailbox) >= self._size
        return self.mailbox.ready and (whole or trio.current_time() >= self._oldest + self._window)

    def take(self) -> tuple[Item, ...] | None:
        """See ``StageActor.take``."""
        if not self.ready:
            return None
        count = min(self._size, len(self.mailbox))
        items = tuple(self.mailbox.take() for _ in range(count))
        if len(self.mailbox):
            self._oldest = trio.current_time()
            self.nudge()
        return items

    def tend(self, now: float) -> float:
        """See ``StageActor.tend``; an incomplete batch is taken when its window closes."""
        due = super().tend(now)
        if self.ready:
            self.summon()
        elif self.mailbox.ready:
            due = min(due, self._oldest + self._window)
        return due

    async def perform(self, desk: Desk) -> Any:
        """See ``StageActor.perform``."""
        results = await call(desk, [item.value for item in desk.items])
        if not isinstance(results, list | tuple) or len(results) != len(desk.items):
            got = len(results) if isinstance(results, list | tuple) else type(results).__name__
            raise TypeError(
                f"batch stage {self.stage.name} got {len(desk.items)} items and must return a list"
                f" of as many results, got {got}"
            )
        return results

    def settle_all(self, desk: Desk, now: float, how: How) -> None:
        """See ``StageActor.settle_all``: each item has a result, or an error, of its own."""
        returned, value, _ = how
        if not returned:
            super().settle_all(desk, now, how)
            return
        for item, result in zip(desk.items, value, strict=True):
            failed = result if isinstance(result, BaseException) else None
            self.settle(desk, item, now, (failed is None, result, failed))
        desk.end()


class CollectActor(EachActor):
    """All outcomes of a group in, one result out. Begins when the stage before is through."""

    __slots__ = ()

    def __init__(self, stage: Stage, index: int, hub: Hub, run_nursery: trio.Nursery) -> None:
        super().__init__(stage, index, hub, run_nursery)
        self.plain = frozenset()

    def welcome(self, value: Any, encoded: bytes) -> Any:  # noqa: ARG002 - the group is enough
        """See ``StageActor.welcome``: of a result, this stage takes the group alone."""
        return self._group_of(value)

    def put(self, item: Item) -> None:
        """See ``StageActor.put``; the items of this stage are its groups, their keys the values."""
        item.key = item.value
        super().put(item)

    @property
    def door(self) -> Callable[[Item], None]:
        """See ``StageActor.door``: what comes is enlisted; its value is its group by now."""
        return lambda item: self._enlist(item.number, item.value)

    def _group_of(self, value: Any) -> bytes:
        assert self.stage.collect is not None  # noqa: S101 - a collect stage has its policy
        by = self.stage.collect.by
        return codec.encode(None if by is None else by(value))

    def _enlist(self, number: int, group: bytes) -> None:
        ledger = self.hub.ledger
        self.hub.post(Post.MEMBER, (ledger.run, self.index, number, ledger.generation, group))

    def miss(self, item: Item, outcome: Outcome) -> None:
        """Enlist an item without a result by the value it went in with; skipped ones too.

        Behind a stage that makes many, the members are its children, and a parent is none.
        """
        if self.hub.pipeline.stages[self.index - 1].kind is Kind.MANY:
            return
        try:
            self._enlist(item.number, self._group_of(item.value))
        except BaseException as error:  # noqa: BLE001 - `by` is made for results, not for this
            self._tell_groupless(item.number, outcome, error)

    def _tell_groupless(self, item: int, outcome: Outcome, error: BaseException) -> None:
        words = codec.words(error)
        self.log.warning(
            "item %d (%s) is in no group: by raised %s", item, outcome.label, words, item=item
        )

    async def form_groups(self) -> None:
        """Make groups of what is enlisted; those that stand and have not changed are kept.

        Only when nothing waits before this stage and all of that is committed.
        """
        hub, place = self.hub, self.hub.places[self.index]
        if hub.ledger.generation > 1:
            await self._enlist_missing()
        gone, fresh = await hub.store.ask(groups.changes(place))
        if gone or fresh:
            statements = [groups.supersede(place, gone), groups.make(place, fresh)]
            hub.post(Post.GROUPS, (self.index, fresh, statements))
            await hub.recorder.flush(hub.ledger)

    async def _enlist_missing(self) -> None:
        """Enlist outcomes that are in no group: after a crash, or since this stage has changed."""
        hub, after = self.hub, 0
        place, before = hub.places[self.index], hub.places[self.index - 1]
        while page := await hub.store.ask(groups.unlisted(place, after)):
            for item, stamp, outcome, value in page:
                after = item
                given = value or await hub.store.ask(frontier.entered(before, item))
                self._enlist_stored(item, Outcome(outcome), given, stamp)
            await hub.recorder.flush(hub.ledger)

    def _enlist_stored(self, item: int, outcome: Outcome, given: bytes | None, stamp: int) -> None:
        """Enlist an outcome by its stored value, made into what the stage before says it is."""
        maker = self.hub.pipeline.stages[self.index - 1]
        kind = maker.result_type if outcome is Outcome.OK else maker.value_type
        try:
            group = self._group_of(None if given is None else codec.decoder(kind)(given))
        except BaseException as error:  # noqa: BLE001 - `by` is the user's
            self._tell_groupless(item, outcome, error)
            return
        self.hub.post(Post.MEMBER, (self.hub.ledger.run, self.index, item, stamp, group))

    async def perform(self, desk: Desk) -> Any:
        """See ``StageActor.perform``."""
        group = codec.encode(desk.items[0].value)
        sums = await self.hub.store.ask(groups.sums(self.hub.places[self.index], group))
        judged = sum(sums.values()) - sums.get(Outcome.SKIPPED, 0)
        if sums.get(Outcome.OK, 0) < self.stage.least_ok * judged:
            raise _TooFewError(
                f"{sums.get(Outcome.OK, 0)} of {judged} outcomes of the group are ok,"
                f" least_ok of stage {self.stage.name} asks for {self.stage.least_ok:.0%}"
            )
        async with aclosing(self._members(group)) as members:
            return await call(desk, members)

    async def _members(self, group: bytes) -> AsyncGenerator[StageOutcome, None]:
        place, after = self.hub.places[self.index], 0
        while page := await self.hub.store.ask(groups.members(place, group, after)):
            for member in page:
                yield member
            after = page[-1].item

    def settle(self, desk: Desk, item: Item, now: float, how: How) -> None:
        """See ``StageActor.settle``; a group that came up short is not tried again."""
        error = how[2]
        if isinstance(error, _TooFewError):
            self.fail(item, Ended(Outcome.FAILED, ItemCause.LEAST_OK, str(error)), None)
        else:
            super().settle(desk, item, now, how)


class _TooFewError(Exception):
    """A group has fewer successes than its stage asks for; trying again changes nothing."""


_ACTORS: dict[Kind, type[StageActor]] = {
    Kind.EACH: EachActor,
    Kind.MANY: ManyActor,
    Kind.BATCH: BatchActor,
    Kind.COLLECT: CollectActor,
}
