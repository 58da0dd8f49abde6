"""A laptop in virtual time: the kit's machine, and the network that it loses when it is shut."""

import trio
from attrs import define, field

from stagerun.testing.machine import Machine

__all__ = ["Laptop", "Network"]


class Network:
    """A connection that is lost is a socket that says nothing any more, as after a sleep."""

    def __init__(self) -> None:
        self.up = True
        self._lost = trio.Event()

    async def call(self, seconds: float) -> None:
        """Have a call answered after so many seconds; when the network goes meanwhile, never."""
        if self.up:
            with trio.move_on_after(seconds) as answered:
                await self._lost.wait()
            if answered.cancelled_caught:
                return
        await trio.sleep_forever()

    def drop(self) -> None:
        """Lose all connections."""
        self._lost.set()
        self._lost = trio.Event()


@define(eq=False)
class Laptop(Machine):
    """A machine that is carried around."""

    network: Network = field(factory=Network)

    def shut(self, seconds: float) -> None:
        """Be shut, and opened again: to whoever runs on it no time has passed."""
        self.network.drop()
        self.set_clock(seconds)
