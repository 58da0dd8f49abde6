"""Who waits at a mailbox is told, also when another one's wait was called off a moment before."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from stagerun.engine.desk import Item
from stagerun.engine.mailbox import Mailbox


class Waiting:
    """A task that waits for *what*; its wait can be called off."""

    def __init__(self, nursery: trio.Nursery, what: Callable[[], Awaitable[None]]) -> None:
        self.scope = trio.CancelScope()
        self.told = False
        nursery.start_soon(self._wait, what)

    async def _wait(self, what: Callable[[], Awaitable[None]]) -> None:
        with self.scope:
            await what()
            self.told = True


def _item() -> Item:
    return Item(0, "value")


@pytest.fixture
def full() -> Mailbox:
    mailbox = Mailbox(1)
    mailbox.put(_item())
    assert mailbox.full
    return mailbox


async def test_putters_are_told_of_room_after_others_were_called_off_as_it_was_made(
    full: Mailbox,
) -> None:
    async with trio.open_nursery() as nursery:
        first, called_off = Waiting(nursery, full.room), Waiting(nursery, full.room)
        await trio.testing.wait_all_tasks_blocked()
        called_off.scope.cancel()
        full.take()  # in the same round: who was called off has not run yet
        await trio.testing.wait_all_tasks_blocked()
        assert (first.told, called_off.told, full.putters) == (True, False, 0)

        full.put(_item())
        third = Waiting(nursery, full.room)
        await trio.testing.wait_all_tasks_blocked()
        assert not third.told
        full.take()
        await trio.testing.wait_all_tasks_blocked()
        assert third.told
        nursery.cancel_scope.cancel()


async def test_a_putter_called_off_leaves_the_others_counted(full: Mailbox) -> None:
    async with trio.open_nursery() as nursery:
        first, called_off = Waiting(nursery, full.room), Waiting(nursery, full.room)
        await trio.testing.wait_all_tasks_blocked()
        called_off.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert full.putters == 1
        full.take()
        await trio.testing.wait_all_tasks_blocked()
        assert first.told
        nursery.cancel_scope.cancel()


async def test_a_worker_called_off_a_moment_ago_takes_nobodys_call() -> None:
    mailbox = Mailbox(1)
    async with trio.open_nursery() as nursery:
        first, called_off = Waiting(nursery, mailbox.arrival), Waiting(nursery, mailbox.arrival)
        await trio.testing.wait_all_tasks_blocked()
        called_off.scope.cancel()
        assert mailbox.call()
        await trio.testing.wait_all_tasks_blocked()
        assert (first.told, called_off.told, mailbox.resting) == (True, False, 0)

        alone = Waiting(nursery, mailbox.arrival)
        await trio.testing.wait_all_tasks_blocked()
        alone.scope.cancel()
        assert not mailbox.call()  # nobody is there: whoever calls has a worker made

        again = Waiting(nursery, mailbox.arrival)
        await trio.testing.wait_all_tasks_blocked()
        assert mailbox.call()
        await trio.testing.wait_all_tasks_blocked()
        assert again.told
        nursery.cancel_scope.cancel()
