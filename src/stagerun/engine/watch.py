"""The watch over the event loop: it sees who blocks it, while it is blocked, and says so.

It looks from the store's thread. How long the loop has been busy without a pause it learns from two
hooks of trio's, one before and one after each wait for input and output; nothing is asked of the
tasks themselves. What others have taken from an item that way is not held against it.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from stagerun.engine.culprit import Culprit, culprit, suspect
from stagerun.engine.env import Env
from stagerun.engine.giving_way import MOMENT, SHORT_TURN, TURN, GivingWay
from stagerun.engine.health import Lateness
from stagerun.engine.line import Line
from stagerun.engine.recorder import Recorder
from stagerun.logs import RunLog
from stagerun.rules.liveness import seconds_setting
from stagerun.store.driver import Store

if TYPE_CHECKING:
    from stagerun.engine.desk import Desk

__all__ = ["LOOK", "Block", "Watch"]

LOOK = 0.05
"""Seconds between two looks."""
_TICK = 0.05
"""Seconds between two signs of life of the event loop while runs are under way."""
_IDLE_TICK = 0.25
"""The same while there are none."""
_UNWATCHED_TICK = 1.0
"""The same in virtual time, where nothing is late: for whoever reads the beats."""
_STALE = 0.5
"""Seconds without a sign of life after which the next one is told at once."""
_STILL = 1.0
"""Seconds that the process must have stood still to be worth a line."""
_BURNT = 0.1
"""The part of a gap for which the process must have had a processor: then C code held the
interpreter, on however busy a machine. A process that was stopped has had none."""
_REPORTS, _PER = 30, 60.0
"""Reports that are made in so many seconds at most."""


@frozen
class Block:
    """The event loop does not get on."""

    since: float
    """On ``Env.monotonic``."""
    culprit: Culprit
    seconds: float
    """How long it had been so when it was seen."""
    held: bool = False
    """Whether C code held the interpreter all the time, so that nobody could look."""


class Watch(trio.abc.Instrument):
    """Watches one event loop. Made and ended in its thread; ``look`` runs in the store's.

    Args:
        env: The world.
        recorder: What keeps reports with their run.
        store: Its page gets the loop's sign of life; the loop gives way to its thread.
        desks: The workers of all runs.
    """

    def __init__(
        self,
        env: Env,
        recorder: Recorder,
        store: Store,
        desks: Callable[[], "Iterable[Desk]"],
    ) -> None:
        self._env = env
        self._recorder = recorder
        self._page, self._store = store.page, store
        self._desks = desks
        self._threshold = seconds_setting(env.environ, "STAGERUN_BLOCKED_AFTER", 0.25)
        self._thread = threading.get_ident()
        self._clock = env.monotonic  # found faster: it is asked with every wait of the loop
        now = env.monotonic()
        self._gives_way = GivingWay(env, store.demand, self._turn)
        self._epoch = trio.current_time() - now
        # Written by: the event loop's thread.
        self._busy_since = now  # 0.0 while it waits for input and output
        self._waits_since = 0.0
        self._suspect: Culprit | None = None
        self._late, self._due = Lateness(), now
        # Written by: the store's thread.
        self._looked_at, self._cpu_at = now, env.cpu()
        self._reported: Block | None = None  # taken by the loop when it gets on
        self._told: deque[float] = deque(maxlen=_REPORTS)
        self._culprits: list[Desk] = []  # cleared by the loop when it gets on
        self.current: Block | None = None
        """Who blocks the event loop at this moment. Any thread reads it."""

    # -- the event loop's thread ----------------------------------------------------------------

    def _turn(self) -> float:
        """Return for how many seconds the loop may keep the interpreter to itself.

        For ever, while the store has nothing to do, and nothing is under way that will soon give it
        something: a program that is busy with its own affairs loses nothing to an idle runtime.
        """
        recorder, waits_for = self._recorder, self._clock() - self._store.demand.due
        if 0 <= waits_for < TURN and (recorder.awaited or recorder.inbox.crowded):
            return MOMENT
        if recorder.awaited or self._store.asking:
            return SHORT_TURN
        return TURN if recorder.live or not recorder.idle else math.inf

    def begin(self) -> None:
        """Watch from now on. In virtual time nothing can be late, and nothing is watched."""
        if self._env.threads:
            trio.lowlevel.add_instrument(self)
            trio.lowlevel.add_instrument(self._gives_way)
            self._recorder.lateness = self.lateness
            self._recorder.blocked = self.blocker
            self._recorder.long_attempt = self.settled

    def end(self) -> None:
        """Watch no more."""
        if self._env.threads:
            for instrument in (self, self._gives_way):
                with suppress(KeyError):  # trio has done so itself: a defect, which it has logged
                    trio.lowlevel.remove_instrument(instrument)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Hear that the loop has nothing more to do just now."""
        now = self._clock()
        since, self._busy_since, self._waits_since = self._busy_since, 0.0, now
        if now - since > self._threshold:
            self._note_end(since, now - since)
            innocent = [desk for desk in self._desks() if desk not in self._culprits]
            self._culprits, self._suspect = [], None
            self._owe(innocent, since, now)

    def after_io_wait(self, timeout: float) -> None:
        """Hear that it goes on. Had it to wait for longer than it wanted, the process stood."""
        self._busy_since = now = self._clock()
        if now - self._waits_since > timeout + self._threshold:
            self._owe(self._desks(), self._waits_since + timeout, now)

    def _owe(self, desks: "Iterable[Desk]", since: float, now: float) -> None:
        for desk in desks:
            desk.owe(now - max(since, desk.started - self._epoch))

    def settled(self, desk: "Desk") -> None:
        """Hear that an attempt has ended. The first one after a block is suspected of it.

        For C code that held the interpreter: the look that was to catch it may come too late.
        """
        since = self._busy_since
        late = since and self._env.monotonic() - since > self._threshold
        if late and not self._culprits and self._suspect is None:
            self._suspect = suspect(desk)

    def lateness(self, desk: "Desk") -> float:
        """Return the seconds for which others have blocked the loop up to this moment.

        An attempt that began since then has been running all the time: it waited for nobody.
        """
        since = self._busy_since
        late = self._env.monotonic() - since
        if not since or late < self._threshold or desk in self._culprits:
            return 0.0
        return late if desk.started - self._epoch < since else 0.0

    @trio.lowlevel.enable_ki_protection
    async def tick(self) -> None:
        """Show that the loop lives, for ever."""
        while True:
            self._page.synchronize(trio.current_time())
            stale = self._env.monotonic() - self._page.last_tick > _STALE
            self._page.tick()
            self._recorder.tick_at = self._env.now_us()
            if stale and self._env.threads:
                self._recorder.beat_soon()  # else it would look blocked until the next beat
            pause = self._pause() * self._env.pace
            self._due = self._env.monotonic() + pause
            await trio.sleep(pause)
            now = self._env.monotonic()
            self._late.note(now, now - self._due)

    def _pause(self) -> float:
        if not self._env.threads:
            return _UNWATCHED_TICK
        return _TICK if self._recorder.live else _IDLE_TICK

    @property
    def lag(self) -> float:
        """The most by which the loop was late of late, in seconds, or is by now. Any thread."""
        return max(0.0, self._env.monotonic() - self._due, self._late.worst)

    # -- the store's thread ---------------------------------------------------------------------

    def look(self) -> None:
        """Look whether the loop gets on, and report whoever keeps it from that."""
        now, cpu = self._env.monotonic(), self._env.cpu()
        gap, burnt = now - self._looked_at - LOOK, cpu - self._cpu_at
        self._looked_at, self._cpu_at = now, cpu
        for ledger in tuple(self._recorder.live):
            if ledger.overdue(now):
                self._recorder.beat_soon()  # it ends what the loop does not
        since = self._busy_since
        blocked = now - since if since else 0.0
        held = gap > self._threshold and burnt - LOOK > gap * _BURNT
        if gap > self._threshold and not held:
            blocked -= gap
            if gap > _STILL:
                self._say(RunLog.warning, RunLog(now=self._env.now_us), _STOOD, gap)
        if blocked <= self._threshold:
            self.current = None
            return
        found = culprit(self._thread)
        if self._busy_since != since:
            return  # it got on meanwhile: what was found is not what blocked
        if found.desk is not None and found.desk not in self._culprits:
            self._culprits.append(found.desk)
        known = self.current
        # A look that came late takes a busy loop for C code: the next one puts that right.
        if known is None or known.since != since or (known.held and not held):
            self.current = self._reported = Block(since, found, blocked, held)
            self._report(self._reported)

    def blocker(self) -> str | None:
        """Say who blocks the event loop at this moment. Any thread."""
        block = self.current
        if block is None:
            return None
        where = block.culprit
        return f"{where} blocks the event loop at {where.place} in {where.function}"

    def _note_end(self, since: float, seconds: float) -> None:
        """Say how long a block was that had been reported. The event loop's thread."""
        block, self._reported = self._reported, None
        if block is None or block.since != since:
            if self._suspect is not None and self._room():
                self._told.append(self._env.monotonic())
                who = self._suspect
                words = (_UNSEEN, who, seconds, who.function, who.place)
                self._say(RunLog.warning, who.log(self._env), *words, item=who.item)
                self._keep(who, {"ended": True, "held": False, "seconds": round(seconds, 3)})
            return
        if not self._room():
            return
        if block.held and seconds - block.seconds < self._threshold:
            return  # it was over when it was reported
        where = block.culprit
        self._say(RunLog.warning, where.log(self._env), _OVER, where, seconds, item=where.item)
        self._keep(where, {"ended": True, "seconds": round(seconds, 3)})

    def _report(self, block: Block) -> None:
        if not self._room():
            return
        self._told.append(self._env.monotonic())
        where, log = block.culprit, block.culprit.log(self._env)
        words, seconds = (_HELD if block.held else _BLOCKS), block.seconds
        # Kept before it is said: the loop may get on at any moment, and keep the end of it.
        self._keep(where, {"ended": False, "held": block.held, "seconds": round(seconds, 3)})
        self._say(RunLog.warning, log, words, where, seconds, where.place, where.function,
                  item=where.item)  # fmt: skip

    def _room(self) -> bool:
        """Whether another report may be made: who blocks all the time must not flood the log."""
        full = len(self._told) == _REPORTS
        return not full or self._env.monotonic() - self._told[0] > _PER

    def _keep(self, where: Culprit, facts: dict[str, object]) -> None:
        if where.hub is not None:
            body = where.facts() | facts
            ledger = where.hub.ledger
            ledger.lines.append(Line.block(self._env.now_us(), where.stage, where.item, body))
            self._recorder.nudge(ledger)

    def _say(
        self, speak: Callable[..., None], log: RunLog, *words: object, item: int | None = None
    ) -> None:
        # In a thread of its own: whoever takes the log's lines may be just what blocks.
        speaker = threading.Thread(
            target=lambda: speak(log, *words, item=item), name="stagerun-watch", daemon=True
        )
        with suppress(RuntimeError):  # no thread can be had: what was seen is kept with the run
            speaker.start()


_BLOCKS = "%s blocks the event loop, for %.2f s now, at %s in %s"
_HELD = "%s held the interpreter for %.2f s (C code), at %s in %s: nothing could run beside it"
_UNSEEN = (
    "%s seems to have blocked the event loop for %.3f s, somewhere in %s (%s): it was over before"
    " anybody could look"
)
_OVER = "%s blocked the event loop for %.3f s; it goes on"
_STOOD = "the process stood still for %.2f s: it was stopped, or got no processor"
