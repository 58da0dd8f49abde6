"""Keys: the second item with the same key in a stage is skipped."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stagerun.engine.ledger import Post
from stagerun.model.outcome import ItemCause, Outcome
from stagerun.rules.verdict import Ended
from stagerun.store import codec, frontier

if TYPE_CHECKING:
    from stagerun.engine.desk import Item
    from stagerun.engine.stage import StageActor

__all__ = ["Keys"]

_RECENT = 20_000
"""Claims kept in memory. More than can wait for a commit, so every other one is in the store."""


class Keys:
    """The claims of one stage: few in memory, all of them in the store."""

    def __init__(self, actor: "StageActor", key: Callable[[Any], Any]) -> None:
        self._actor = actor
        self._key = key
        self._place = actor.hub.places[actor.index]
        self.asked: set[int] = set()
        """Written by: the actor. Items whose key is being looked up."""
        self._void: set[int] = set()
        """Items that were superseded here; the store may not know it yet."""
        self._recent: OrderedDict[bytes, int] = OrderedDict()

    async def admit(self, item: "Item") -> bool:
        """Claim the item's key; False when the item has ended for it: a duplicate, or no key."""
        if item.attempts:
            return True  # it was admitted before its first attempt
        hub, index = self._actor.hub, self._actor.index
        try:
            item.key = self._key(item.value)
            encoded = codec.encode(item.key)
        except BaseException as error:  # noqa: BLE001 - the user's function, or any type of key
            name = self._actor.stage.name
            message = f"the key of the item in stage {name} cannot be told: {codec.words(error)}"
            self._actor.fail(item, Ended(Outcome.FAILED, ItemCause.KEY, message), error)
            return False
        holder = self._recent.get(encoded)
        if holder is None:
            self._recent[encoded] = item.number
            holder = await hub.store.ask(frontier.key_holder(self._place, encoded))
        if holder is not None and holder != item.number and holder not in self._void:
            message = f"key {codec.words(item.key, 200)} belongs to item {holder}"
            ended = Ended(Outcome.SKIPPED, ItemCause.DUPLICATE, message)
            self._actor.fail(item, ended, None)
            return False
        ledger = hub.ledger
        hub.post(Post.KEY, (ledger.run, index, encoded, ledger.generation, item.number))
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return True

    def forget(self, number: int) -> None:
        """Let go of what an item holds: it was superseded, in the store too."""
        self._void.add(number)
        for key in [key for key, holder in self._recent.items() if holder == number]:
            del self._recent[key]
