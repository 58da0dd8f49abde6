"""The driver for virtual time: the same transactions, run in the event loop itself.

A thread would break a virtual clock (python-trio/trio#456), so tests and simulations use this one.
"""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import trio

from stagerun.errors import StoreError
from stagerun.store.demand import Demand
from stagerun.store.driver import BEAT, Composer, Question, is_passing
from stagerun.store.opening import connect
from stagerun.store.owner import Identity, Liveness
from stagerun.store.page import Page
from stagerun.store.transaction import (
    BROKEN_RULES,
    Receipt,
    Transaction,
    execute,
    execute_apart,
)

__all__ = ["InlineStore"]

T = TypeVar("T")


class InlineStore:
    """A store without threads. Not for production: every commit stops the event loop."""

    _again = 0.05
    """Seconds after which a refused commit is tried again."""

    def __init__(self, path: str = ":memory:", *, beat: float = BEAT) -> None:
        self.path = path
        self._beat = beat
        self.awake = False
        self.asking = 0  # each is answered at once
        self.demand = Demand()  # there is no thread that could want anything
        self.page = Page()
        self._something = trio.Event()
        self._stopping = False
        self._given_up = False
        self._connection: sqlite3.Connection | None = None
        self._polls: list[Callable[[sqlite3.Connection], None]] = []

    async def run(
        self, composer: Composer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See ``Store.run``."""
        self._connection = connection = connect(self.path)
        try:
            task_status.started()
            while not self._stopping:
                with trio.move_on_after(self._beat):
                    await self._something.wait()
                self._something = trio.Event()
                self.awake = False
                while transaction := composer.compose():
                    await trio.lowlevel.checkpoint()
                    composer.committed(await self._commit(connection, transaction))
                for poll in self._polls:
                    poll(connection)
        finally:
            self._connection = None
            connection.close()

    async def _commit(self, connection: sqlite3.Connection, transaction: Transaction) -> Receipt:
        while True:
            try:
                return self._execute(connection, transaction)
            except BROKEN_RULES:
                return execute_apart(connection, transaction)
            except sqlite3.Error as error:
                if not is_passing(error) or self._given_up:
                    raise
                await trio.sleep(self._again)

    def _execute(self, connection: sqlite3.Connection, transaction: Transaction) -> Receipt:
        """Try a transaction once. A simulation raises here what a disk may say."""
        return execute(connection, transaction)

    def claim(self, identifier: str) -> Identity | None:  # noqa: ARG002 - nobody else can open it
        """See ``Store.claim``."""
        return None

    def heal(self) -> Identity | None:
        """See ``Store.heal``."""
        return None

    def release(self) -> None:
        """See ``Store.release``."""

    def in_hand(self, identifier: str) -> Sequence[tuple[int, int, int, int]]:  # noqa: ARG002 - as above
        """See ``Store.in_hand``."""
        return ()

    def look(self, identifier: str, identity: Identity) -> Liveness:  # noqa: ARG002 - as above
        """See ``Store.look``."""
        return Liveness.UNKNOWN

    def tidy(self, open_owners: Collection[str]) -> None:
        """See ``Store.tidy``."""

    def watch(self, look: Callable[[], None], every: float) -> None:
        """See ``Store.watch``: there is no thread that could."""

    def poll(self, question: Question[T], hear: Callable[[T], None], every: float) -> None:  # noqa: ARG002 - each beat will do
        """See ``Store.poll``: asked with each commit and each beat."""
        self._polls.append(lambda connection: hear(question(connection)))

    def wake(self) -> None:
        """See ``Store.wake``."""
        self.awake = True
        self._something.set()

    def hurry(self) -> None:
        """See ``Store.hurry``: this one never lingers."""
        self.wake()

    async def ask(self, question: Question[T]) -> T:
        """See ``Store.ask``."""
        await trio.lowlevel.checkpoint()
        if self._connection is None:
            raise StoreError(f"database {self.path} is not open any more")
        return question(self._connection)

    def give_up(self) -> None:
        """See ``Store.give_up``."""
        self._given_up = True

    def stop(self) -> None:
        """See ``Store.stop``."""
        self._stopping = True
        self._something.set()
