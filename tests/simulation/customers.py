"""Those who want something of simulated processes: they insist, and remember what they are told."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio
from attrs import define, field

from stagerun import Pipeline, UsageError
from stagerun.engine.runtime import Runtime
from stagerun.testing.inspector import Inspector
from stagerun.testing.machine import Process
from stagerun.testing.mortal import ProcessDied
from tests.simulation.ground import Truth

__all__ = ["ANSWER", "Customers"]

ANSWER: Final = 60.0
"""Seconds within which whoever asks has an answer, while nothing is wrong with the machine."""


@define(eq=False)
class Customers:
    """Start runs, cancel them, resume them, wait for them, and look at them."""

    truth: Truth
    inspector: Inspector
    processes: Sequence[Process]
    known: Mapping[str, Pipeline]
    """The pipelines, by their names."""
    size: int
    """How many items a run has."""
    counts: Counter[str] = field(factory=Counter)
    keys: dict[str, str] = field(factory=dict)
    """Of each key that a customer used, the pipeline."""
    unwanted: set[str] = field(factory=set)
    """Runs that somebody has asked to cancel."""

    async def want(self, dice: random.Random, until: float) -> None:
        """Want runs, one after the other, insist on each, and do with it what customers do."""
        await trio.sleep(dice.uniform(0, 0.6 * until))
        while trio.current_time() < until:
            key = f"{dice.getrandbits(32):08x}"
            name = dice.choice(sorted(self.known))
            self.keys[key] = name
            run = await self.insist(dice, partial(self.start, key, name, dice.random() < 0.3))
            self.counts["started"] += 1
            for _ in range(dice.choice([0, 1, 2])):
                await trio.sleep(dice.choice([dice.uniform(0, 5), dice.uniform(0, 60)]))
                what = dice.choice([self.cancel, self.resume, self.wait, self.look])
                await self.insist(dice, partial(what, run), at_once=what != self.wait)
            await trio.sleep(dice.uniform(0, 60))

    async def insist(self, dice: random.Random, ask: Any, *, at_once: bool = True) -> Any:
        """Ask one process after the other until one has answered.

        *at_once*: no answer for a minute is a violation, if all was well in that time.
        """
        while True:
            process = dice.choice(self.processes)
            with trio.move_on_after(ANSWER) as patience:
                try:
                    return await process.call(partial(ask, process))
                except ProcessDied:
                    self.counts["unknown"] += 1
            if at_once and patience.cancelled_caught and self.truth.well_for >= ANSWER:
                what = f"{ask.func.__name__}{ask.args}"
                self.inspector.violate(f"process {process.number} does not answer to {what}")
            await trio.sleep(1)

    # -- what they ask --------------------------------------------------------------------------

    async def start(
        self, key: str, name: str, in_line: bool, process: Process, runtime: Runtime
    ) -> str:
        """Start a run of that pipeline; *in_line*: one at a time with others."""
        own = process.own(name)
        items = None
        if own.source is None:
            items = [{"n": n} for n in range(1, self.size + 1)]
        line = "line" if in_line else None
        run = await runtime.start(own, items, key=key, concurrency_key=line)
        if not self.truth.ask("SELECT 1 FROM runs WHERE id = ?", run.id):
            self.inspector.violate(f"run {run.id} was started, and is not on disk")
        return run.id

    async def cancel(self, run: str, _process: Process, runtime: Runtime) -> None:
        """Cancel the run."""
        self.unwanted.add(run)
        answer = await runtime.cancel(run)
        self.counts["cancelled"] += 1
        ((generation,),) = self.truth.ask("SELECT generation FROM runs WHERE id = ?", run)
        if answer["became"] == "cancelling":
            self.truth.cancelled[run] = (generation, trio.current_time())

    async def resume(self, run: str, process: Process, runtime: Runtime) -> None:
        """Resume the run, if it has ended and is not done."""
        ((name,),) = self.truth.ask("SELECT pipeline FROM runs WHERE id = ?", run)
        with suppress(UsageError):  # it has not ended, or has succeeded
            await runtime.resume(run, process.own(name))
            self.counts["resumed"] += 1

    async def wait(self, run: str, _process: Process, runtime: Runtime) -> None:
        """Wait for the run's end."""
        result = await (await runtime.find(run)).wait()
        self.truth.told[run, result.generation] = result.status
        self.truth.compare_told(run, result.generation, result.status, result.stages)

    async def look(self, run: str, _process: Process, runtime: Runtime) -> None:
        """Look at the run for ten seconds."""
        handle = await runtime.find(run)
        for _ in range(20):
            told = (handle.generation, handle.status, handle.counts)
            self.truth.compare_told(run, *told)
            await trio.sleep(0.5)
