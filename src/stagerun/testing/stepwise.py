"""A program on trio that plain functions drive step by step, in their own thread.

For whoever is called by somebody who knows nothing of trio, as the rules of a state machine are by
hypothesis. It is guest mode without a host: trio hands out its turns one by one, and they are
taken only while a step is under way. In between nothing goes on, and the clock stands still. No
thread is needed, so what belongs to the caller's thread is at hand in the program, too.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any, TypeVar

import trio
import trio.testing

from stagerun.errors import UsageError
from stagerun.testing.determinism import deterministic

__all__ = ["Stepwise"]

T = TypeVar("T")


class Stepwise:
    """A nursery in virtual time whose tasks go on only as long as a step takes.

    Raises:
        UsageError: This is made within a program on trio, or beside another one of its kind.
    """

    nursery: trio.Nursery

    def __init__(self, *, seed: int = 0) -> None:
        if trio.lowlevel.in_trio_run():
            raise UsageError(
                "a simulation has a clock and an event loop of its own: use it from a plain"
                " function, one at a time, not from one that runs under trio"
            )
        self._turns = SimpleQueue[Callable[[], object]]()
        self._end: Any = None
        self._context = ExitStack()
        self._context.enter_context(deterministic(seed))
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._turns.put,
            done_callback=self._ended,
            host_uses_signal_set_wakeup_fd=True,  # signals are the business of who drives it
            clock=trio.testing.MockClock(autojump_threshold=0),
        )
        self._go_on(lambda: hasattr(self, "nursery"))

    def step(self, do: Callable[[], Awaitable[T]]) -> T:
        """Run *do* to its end as a task of the nursery, and the others meanwhile.

        What *do* raises is raised here; what another task raises ends the program, and is, too.
        """
        if self._end is not None:
            raise UsageError("the program has been closed")
        answers, errors = list[T](), list[Exception]()

        async def task() -> None:
            try:
                answers.append(await do())
            except Exception as error:  # noqa: BLE001 - it is the caller's
                errors.append(error)

        self.nursery.start_soon(task)
        self._go_on(lambda: bool(answers or errors))
        if errors:
            raise errors[0]
        return answers[0]

    def close(self) -> None:
        """Cancel all tasks and end. Safe to call again."""
        with self._context:
            if self._end is None:
                self.nursery.cancel_scope.cancel()
                self._go_on(lambda: self._end is not None)

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            await trio.sleep_forever()

    def _ended(self, outcome: Any) -> None:
        self._end = outcome

    def _go_on(self, is_done: Callable[[], bool]) -> None:
        """Take turns until it is done; right after that one nothing has begun yet."""
        while not is_done():
            if self._end is not None:
                break
            self._turns.get()()
        if self._end is not None:
            self._end.unwrap()
