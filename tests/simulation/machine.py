"""A computer in virtual time: it sleeps, loses its network, and its processes are killed.

What runs on it is the real engine on a real database file. Virtual are the clock, which waits for
nobody, and what the world does: the network, the lock of a process's file, a kill.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio
from attrs import define, field
from trio._core import _run

from stagerun import Schedule, StoreError, open_runtime
from stagerun.engine.env import Env
from stagerun.store import invariants
from stagerun.store.driver import BEAT
from stagerun.store.inline import InlineStore
from stagerun.store.owner import Identity, Liveness
from stagerun.store.transaction import Receipt, Transaction

__all__ = ["PACE", "Machine", "Network", "Process", "deterministic", "unsound"]

PACE = 60.0
"""Signs of life come so many times less often than they do in production: days go by quicker."""


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Have trio choose the order of its tasks by a seed; otherwise it does so by chance.

    The two names are private to trio, and known here alone.
    """
    before, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc] # what it is there for
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc] # as above
        _run._r.setstate(state)


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
class Machine:
    """Its clocks and the processes on it."""

    path: Path
    begin: float
    """Wall time, in seconds since 1970, when its virtual clock stands at 0."""
    network: Network = field(factory=Network)
    alive: set[int] = field(factory=set)
    """The processes whose lock is held, by the file's number."""
    asleep: float = 0.0
    """Seconds that it has slept in all: its wall clock went on, nothing else did."""
    _files: int = 0

    def wall(self) -> float:
        """The clock on the wall."""
        return self.begin + trio.current_time() + self.asleep

    def sleep(self, seconds: float) -> None:
        """Be shut, and opened again: to whoever runs on it no time has passed."""
        self.network.drop()
        self.asleep += seconds

    def new_file(self) -> int:
        self._files += 1
        return self._files


@define(eq=False)
class Process:
    """A program that serves schedules, killed now and then, and started again by somebody."""

    machine: Machine
    schedules: Callable[[], Sequence[Schedule]]
    new_id: Callable[[], str]
    jitter: Callable[[], float]
    kills: int = 0
    _store: "_Store | None" = None
    _again: float = 0.0
    _died: trio.Event = field(factory=trio.Event)

    async def live(self) -> None:
        """Serve, die when told, and begin again after the downtime that was said."""
        async with trio.open_nursery() as nursery:
            while True:
                self._died, store = trio.Event(), _Store(self.machine)
                self._store = store
                nursery.start_soon(self._serve, store, self._died)
                await self._died.wait()
                await trio.sleep(self._again)

    def kill(self, downtime: float) -> None:
        """End at once: nothing is written any more, not even what was under way."""
        if self._store is not None and not self._died.is_set():
            self.kills += 1
            self._again = downtime
            self._store.kill()
            self._died.set()

    async def _serve(self, store: "_Store", died: trio.Event) -> None:
        env = Env(
            wall=self.machine.wall,
            monotonic=trio.current_time,
            cpu=trio.current_time,
            memory=lambda: (None, None),
            jitter=self.jitter,
            new_id=self.new_id,
            environ={"STAGERUN_LOG_LEVEL": "CRITICAL", "STAGERUN_KEEP_DAYS": "off"},
            threads=False,
            pace=PACE,
        )
        try:
            async with open_runtime(store=store, env=env, schedules=self.schedules()):
                await died.wait()
        except StoreError:
            if not died.is_set():
                raise


class _Store(InlineStore):
    """A store whose process can be killed; a lock tells others whether it lives."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(str(machine.path), beat=BEAT * PACE)
        self._machine = machine
        self._file: int | None = None
        self._killed = False
        self._quick = False

    def claim(self, identifier: str) -> Identity:
        self.release()
        self._file = self._machine.new_file()
        self._machine.alive.add(self._file)
        return Identity(1, self._file)

    def release(self) -> None:
        if self._file is not None:
            self._machine.alive.discard(self._file)

    def look(self, identifier: str, identity: Identity) -> Liveness:
        alive = identity.inode in self._machine.alive
        return Liveness.ALIVE if alive else Liveness.DEAD

    def kill(self) -> None:
        self._killed = True
        self.release()
        self.wake()

    async def _commit(self, connection: sqlite3.Connection, transaction: Transaction) -> Receipt:
        if self._killed:
            raise StoreError("the process was killed")
        if not self._quick:  # what is killed is a process, not the computer: all reaches the file
            connection.execute("PRAGMA synchronous = OFF")
            self._quick = True
        return await super()._commit(connection, transaction)


def unsound(connection: sqlite3.Connection) -> list[str]:
    """Return what contradicts the invariants that `stagerun doctor` looks for."""
    return [
        f"{check.name}: {what}"
        for check in invariants.CHECKS
        for _, what in connection.execute(check.sql).fetchall()
    ]
