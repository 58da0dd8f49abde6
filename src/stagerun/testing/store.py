"""The database as a simulated process has it: a disk that refuses, and a death at any commit."""

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import trio

from stagerun.errors import StoreError
from stagerun.store.driver import BEAT, Question
from stagerun.store.inline import InlineStore
from stagerun.store.owner import Identity, Liveness
from stagerun.store.transaction import Receipt, Transaction

if TYPE_CHECKING:
    from stagerun.testing.machine import Machine, Process

__all__ = ["SimulatedStore"]

T = TypeVar("T")


class SimulatedStore(InlineStore):
    """The driver for virtual time, on a machine that misbehaves."""

    _again = 0.25

    def __init__(self, machine: "Machine", process: "Process") -> None:
        super().__init__(str(machine.path), beat=BEAT * machine.pace)
        self._machine = machine
        self._process = process
        self._owner = ""
        self._file: int | None = None
        self._killed = False
        self._stirred = trio.Event()
        """It was killed, or goes on before its time."""
        self._quick = False
        self.frozen_until = 0.0
        """Until when its process stands still."""
        self.unheard = False
        """Whether its process could not write its last words."""

    def kill(self) -> None:
        """Die: what is under way is not written, and nothing after it."""
        self._killed = True
        self._stirred.set()
        if self._file is not None:
            self._machine.hands[self._owner] = self.page.suspects()
        self.release()
        self.wake()

    def thaw(self) -> None:
        """Stand still no longer."""
        self.frozen_until = 0.0
        self._stirred.set()
        self._stirred = trio.Event()

    def lose_file(self) -> bool:
        """Have the owner's file deleted, if there is one."""
        if self._file is None or self._file in self._machine.lost:
            return False
        self._machine.lost.add(self._file)
        return True

    async def thawed(self) -> None:
        """Wait while the process stands still, or until it dies."""
        while trio.current_time() < self.frozen_until and not self._killed:
            with trio.move_on_at(self.frozen_until):
                await self._stirred.wait()

    # -- ownership ------------------------------------------------------------------------------

    def claim(self, identifier: str) -> Identity:
        self.release()
        self._owner, self._file = identifier, self._machine.new_file(self._process)
        self._machine.places[identifier] = self._file
        return Identity(1, self._file)

    def heal(self) -> Identity | None:
        if self._file is None or self._file not in self._machine.lost or self._process.frozen:
            return None
        return self.claim(self._owner)

    def release(self) -> None:
        if self._file is not None:
            self._machine.files.pop(self._file, None)
        self._file = None

    def look(self, identifier: str, identity: Identity) -> Liveness:
        there = self._machine.places[identifier]
        if there in self._machine.lost:
            return Liveness.UNKNOWN
        if there in self._machine.files:  # perhaps a new one, of which the database knows nothing
            return Liveness.ALIVE
        return Liveness.DEAD if there == identity.inode else Liveness.UNKNOWN

    def in_hand(self, identifier: str) -> Sequence[tuple[int, int, int, int]]:
        return self._machine.hands.get(identifier, ())

    # -- commits --------------------------------------------------------------------------------

    async def ask(self, question: Question[T]) -> T:
        self._check()
        answer = await super().ask(question)
        self._check()
        return answer

    async def _commit(self, connection: sqlite3.Connection, transaction: Transaction) -> Receipt:
        if not self._quick:  # what is killed is a process, not the computer: all reaches the file
            connection.execute("PRAGMA synchronous = OFF")
            self._quick = True
        for observer in self._machine.observers:
            observer.composed(self._process)
        await self._pass()
        receipt = await super()._commit(connection, transaction)
        self._machine.traced(self._process, transaction, receipt)
        for observer in self._machine.observers:
            observer.committed(self._process, connection)
        await self._pass()
        return receipt

    def _execute(self, connection: sqlite3.Connection, transaction: Transaction) -> Receipt:
        self._check()
        if self._machine.refusals:
            self.unheard = self._given_up
            error = sqlite3.OperationalError("a simulated refusal")
            error.sqlite_errorname = self._machine.refusals[-1]
            raise error
        return super()._execute(connection, transaction)

    async def _pass(self) -> None:
        """Take the time that a disk takes; die if it came to that meanwhile."""
        self._check()
        machine = self._machine
        pause = machine.slowness / 2
        if machine.latency:
            pause += machine.chance.expovariate(2 / machine.latency)
        if pause > 0:
            await trio.sleep(pause)
        await self.thawed()
        self._check()

    def _check(self) -> None:
        if self._killed:
            raise StoreError("the process was killed")
