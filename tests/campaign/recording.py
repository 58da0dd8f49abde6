"""The record of a load: a process with the shim writes down what it does to its files.

``python -m tests.campaign.recording NAME SEED DATABASE LOG [PLANT]``
"""

import random
import sqlite3
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from stagerun import Runtime
from stagerun.store import opening
from tests.campaign import shim
from tests.campaign.diskloads import LOADS
from tests.campaign.told import spoken

__all__ = ["PLANTS", "main"]


def _synchronous(mode: str) -> None:
    """Plant a weaker promise to the disk than stagerun asks for."""
    before = opening._set_up

    def set_up(connection: sqlite3.Connection) -> None:
        before(connection)
        connection.execute(f"PRAGMA synchronous = {mode}")

    opening._set_up = set_up


PLANTS: Final[Mapping[str, Callable[[], None]]] = {
    "synchronous=NORMAL": partial(_synchronous, "NORMAL"),
    "synchronous=OFF": partial(_synchronous, "OFF"),
}
"""Defects to be found, by name."""


def main(name: str, seed: str, database: str, log: str, plant: str = "") -> None:
    """Record one load."""
    load, dice, open_now = LOADS[name], random.Random(seed), trio.Event()
    load.prepare()
    if plant:
        PLANTS[plant]()

    def say(words: list[Any]) -> None:
        shim.mark(spoken(words))

    def opened(_runtime: Runtime) -> None:
        say(["opened"])
        open_now.set()

    async def refusing() -> None:
        await open_now.wait()  # at the opening an error of the disk is the caller's
        for _ in range(load.failed_fsyncs):
            await trio.sleep(dice.uniform(0.0, 0.05))
            shim.arm(dice.randint(1, 4), "fsync", shim.EIO, sticky=load.refuses_for > 0)
            if load.refuses_for:
                await trio.sleep(load.refuses_for)
                shim.disarm()

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refusing)
            await load.main(Path(database), say, opened)
            nursery.cancel_scope.cancel()

    with Path(log).open("wb", buffering=0) as file:
        shim.record(file.fileno())
        trio.run(both)
        shim.record(-1)


if __name__ == "__main__":
    main(*sys.argv[1:])
