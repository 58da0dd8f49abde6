"""The cancellation token."""

import gc
import threading

import pytest
import trio

from stagerun import CancellationToken, CancelRequested


def test_a_token_is_cancelled_once_and_keeps_its_first_reason() -> None:
    token = CancellationToken()
    assert not token.cancelled
    token.raise_if_cancelled()
    assert token.cancel("first")
    assert not token.cancel("second")
    assert (token.cancelled, token.reason) == (True, "first")
    with pytest.raises(CancelRequested, match="first"):
        token.raise_if_cancelled()


def test_linked_tokens_follow_but_do_not_lead() -> None:
    one, two = CancellationToken(), CancellationToken()
    both = CancellationToken(one, two)
    child = CancellationToken(both)
    two.cancel("enough")
    assert (both.reason, child.reason) == ("enough", "enough")
    assert not one.cancelled


def test_a_token_linked_to_a_cancelled_one_is_cancelled_at_once() -> None:
    parent = CancellationToken()
    parent.cancel("over")
    assert CancellationToken(parent).reason == "over"


def test_a_long_lived_token_does_not_keep_its_followers_alive() -> None:
    parent = CancellationToken()
    for _ in range(100):
        CancellationToken(parent)
    gc.collect()
    assert not parent._callbacks


def test_callbacks_run_once_and_can_be_removed() -> None:
    heard: list[str] = []
    token = CancellationToken()
    token.add_callback(lambda: heard.append("a"))
    token.add_callback(lambda: heard.append("b"))()
    token.cancel()
    token.add_callback(lambda: heard.append("late"))
    assert heard == ["a", "late"]


def test_a_callback_that_raises_does_not_silence_the_others() -> None:
    heard: list[str] = []

    def fail() -> None:
        raise OSError("no")

    token = CancellationToken()
    token.add_callback(fail)
    token.add_callback(lambda: heard.append("b"))
    with pytest.raises(ExceptionGroup):
        token.cancel()
    assert token.cancelled
    assert heard == ["b"]


async def test_waiting_ends_with_the_reason(autojump_clock: trio.testing.MockClock) -> None:
    token = CancellationToken()
    async with trio.open_nursery() as nursery:

        async def cancel_later() -> None:
            await trio.sleep(7)
            token.cancel("seven")

        nursery.start_soon(cancel_later)
        assert await token.wait() == "seven"
    assert trio.current_time() >= 7
    assert await token.wait() == "seven"


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    token = CancellationToken()
    with trio.move_on_after(0) as scope:
        await token.wait()
    assert scope.cancelled_caught
    assert not token._callbacks


async def test_a_token_can_be_cancelled_from_any_thread() -> None:
    token = CancellationToken()
    threads = [threading.Thread(target=token.cancel, args=(str(n),)) for n in range(8)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(token.wait)
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert token.reason in {str(n) for n in range(8)}
