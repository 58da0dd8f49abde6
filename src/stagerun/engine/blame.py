"""SIGTERM is somebody's will, not the deed of an item: a program that dies of it blames nobody."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stagerun.store.page import Page

__all__ = ["blameless"]


class _Witness:
    """Takes SIGTERM's default action, after the pages of this process have been cleared."""

    def __init__(self) -> None:
        self.pages: list[Page] = []

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        for page in self.pages:
            page.blame_nobody()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextmanager
def blameless(page: Page) -> Iterator[None]:
    """Until the block is left, let a death by SIGTERM leave no suspects on *page*.

    Only where SIGTERM has its default action, which it keeps: whoever handles it by himself leaves
    the runtime, and that says the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    while handler is not None and not isinstance(handler, _Witness) and hasattr(handler, "then"):
        handler = handler.then  # somebody of ours stands before it, and passes the signal on
    witness = handler if isinstance(handler, _Witness) else _Witness()
    if handler is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, witness)
    witness.pages.append(page)
    try:
        yield
    finally:
        witness.pages.remove(page)
        if not witness.pages and signal.getsignal(signal.SIGTERM) is witness:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
