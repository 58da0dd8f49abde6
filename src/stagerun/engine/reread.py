"""Reading a function source again: which of its items need nothing more, and what number they have.

Without a key an item is known by its position, and the positions are merged with those that have a
final outcome, both in order. With a key on the first stage it is known by its key, wherever it
stands now.
"""

from collections import deque
from typing import Any

from stagerun.engine.hub import Hub
from stagerun.engine.stage import StageActor
from stagerun.model.outcome import ItemCause
from stagerun.store import codec, frontier

__all__ = ["Reread"]


class Reread:
    """What a source that is read again has given before."""

    def __init__(self, hub: Hub, first: StageActor) -> None:
        self._hub = hub
        self._key = first.stage.key
        self._place = hub.places[0]
        self._settled: deque[int] = deque()
        self._after = 0
        self._more = True
        self._unfinished: set[int] = set()
        """Items found by their key: a second one with the same key is another item, a duplicate.
        As many as had no final outcome; those that have one are not kept here."""
        self._spent: dict[ItemCause, int] = {}
        """How many items without a key of their own have a final outcome of that cause, and have
        not come again yet. Which is which makes no difference: they ended alike."""
        self._last: int | None = None
        """The greatest number given so far; None: not asked yet."""

    async def number(self, position: int, value: Any) -> int | None:
        """Return the item's number; None when it has a final outcome."""
        if self._key is None:
            return None if await self._is_settled(position) else position
        return await self._number_by_key(value)

    async def _is_settled(self, position: int) -> bool:
        while self._more and (not self._settled or self._settled[-1] < position):
            page = await self._hub.store.ask(frontier.settled(self._place, self._after))
            self._more = bool(page)
            if page:
                self._after = page[-1]
                self._settled.extend(page)
        while self._settled and self._settled[0] < position:
            self._settled.popleft()
        return bool(self._settled) and self._settled[0] == position

    async def _number_by_key(self, value: Any) -> int | None:
        try:
            assert self._key is not None  # noqa: S101 - asked by number()
            encoded = codec.encode(self._key(value))
        except BaseException:  # noqa: BLE001 - the user's function: the stage will say so
            return await self._again_or_new(ItemCause.KEY)
        standing = await self._hub.store.ask(frontier.claimed_before(self._place, encoded))
        if standing is None:
            return await self._new()
        item, settled = standing
        if item in self._unfinished:
            return await self._again_or_new(ItemCause.DUPLICATE)
        if settled:
            return None
        self._unfinished.add(item)
        return item

    async def _again_or_new(self, cause: ItemCause) -> int | None:
        """Match an item that no key names with one that ended so before; None: it did."""
        if cause not in self._spent:
            self._spent[cause] = len(
                await self._hub.store.ask(frontier.spent(self._place, cause.value))
            )
        if self._spent[cause]:
            self._spent[cause] -= 1
            return None
        return await self._new()

    async def _new(self) -> int:
        if self._last is None:
            self._last = await self._hub.store.ask(frontier.last_accepted(self._place))
        self._last += 1
        return self._last
