"""What a one-to-many stage gives: children with numbers of their own, stored as they come."""

from typing import TYPE_CHECKING, Any

from attrs import define, field

from stagerun.engine.desk import Item
from stagerun.engine.ledger import Post
from stagerun.model.outcome import DROP
from stagerun.store import codec, frontier, writes

if TYPE_CHECKING:
    from stagerun.engine.stage import StageActor

__all__ = ["Emitter"]


@define
class Emitter:
    """The children of one attempt at one parent.

    A child is known by its parent and its ordinal, or its key where the next stage declares one.
    When the parent is repeated, a child with the same value as before is kept and not given again;
    one with another value supersedes the earlier one.
    """

    actor: "StageActor"
    parent: Item
    earlier: dict[Any, tuple[int, bytes]] = field(factory=dict)
    """Ident to number and fingerprint of what earlier attempts gave."""
    count: int = 0
    _seen: set[bytes] = field(factory=set)

    @classmethod
    async def reopen(cls, actor: "StageActor", parent: Item) -> "Emitter":
        """Begin with a repeated parent: its earlier children are stored, and then read back.

        That waits for the database, which is not the attempt's doing.
        """
        hub = actor.hub
        await hub.recorder.flush(hub.ledger)
        question = frontier.children(hub.places[actor.index + 1], parent.number)
        return cls(actor, parent, await hub.store.ask(question))

    def emit(self, value: Any) -> None:
        """Store one child and hand it on. Raises what the codec raises for what it cannot store."""
        self.count += 1
        if value is DROP:
            return
        encoded = codec.encode(value)
        limit = self.actor.stage.result_limit
        if len(encoded) > limit:
            raise ValueError(
                f"child {self.count} has {len(encoded)} bytes, result_limit is {limit}"
            )
        follower = self.actor.follower
        onward = None if follower is None else follower.welcome(value, encoded)
        ident = self._ident(value)
        known = self.earlier.pop(ident, None)
        mark = codec.fingerprint(encoded)
        if known is not None and known[1] == mark:
            return
        number = self.actor.next_child()
        if known is not None:
            self._supersede(known[0])
        hub, stage = self.actor.hub, self.actor.index + 1
        run, generation = hub.ledger.run, hub.ledger.generation
        row = (run, stage, number, generation, self.parent.number, ident, mark, encoded)
        hub.post(Post.EMISSION, row, len(encoded))
        if follower is not None:
            self.actor.hand_over(Item(number, onward))

    def close(self) -> None:
        """End a whole attempt: what it did not give again is superseded."""
        for number, _ in self.earlier.values():
            self._supersede(number)

    def _ident(self, value: Any) -> int | bytes:
        follower = self.actor.follower
        if follower is None or follower.stage.key is None:
            return self.count
        key = codec.encode(follower.stage.key(value))
        if key in self._seen:
            return self.count  # a duplicate: the next stage will skip it
        self._seen.add(key)
        return key

    def _supersede(self, number: int) -> None:
        hub, stage = self.actor.hub, self.actor.index + 1
        hub.post(Post.STATEMENT, writes.supersede(hub.ledger.run, stage, number))
        if self.actor.follower is not None:
            self.actor.let_on_early(number)
            self.actor.follower.void(number)
