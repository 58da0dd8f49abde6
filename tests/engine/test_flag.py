"""A flag does what an event does, and costs less while nobody waits."""

import sys

import trio
import trio.testing

from stagerun.engine.flag import Flag


async def test_all_who_wait_are_woken_and_later_ones_do_not_wait() -> None:
    flag, woken = Flag(), list[int]()

    async def waiter(number: int) -> None:
        await flag.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(waiter, number)
        await trio.testing.wait_all_tasks_blocked()
        assert (woken, flag.is_set()) == ([], False)
        flag.set()
        flag.set()
        assert flag.is_set()
    assert sorted(woken) == [0, 1, 2]
    with trio.testing.assert_checkpoints():
        await flag.wait()


async def test_a_wait_can_be_cancelled_and_the_next_one_is_woken() -> None:
    flag = Flag()
    with trio.move_on_after(0) as scope:
        await flag.wait()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flag.wait)
        await trio.testing.wait_all_tasks_blocked()
        flag.set()


def test_it_is_small_until_somebody_waits() -> None:
    event = trio.Event()
    assert sys.getsizeof(Flag()) * 4 < sys.getsizeof(event) + sys.getsizeof(event._tasks)
