"""Alerts: what is seen is raised, once among all processes, and carried to people.

It looks at committed data, in a thread and an event loop of its own, by a connection of its own: so
it can neither hold up a run nor be held up by one, and goes on while a stage blocks the program's
event loop. What is to be raised is pure (``rules/alerting.py``). That it is, and that the endings
it came from have been looked at, stands in one transaction (``store/alerts.py``); deliveries wait
in an outbox there (``store/outbox.py``) until they are settled.

Only while the database takes no commits are alerts carried from memory, and stored afterwards.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from stagerun.engine.announcing import announced
from stagerun.engine.delivery import Courier
from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.engine.sighting import Eyes
from stagerun.engine.watch import Watch
from stagerun.errors import StoreError, UsageError
from stagerun.logs import RunLog
from stagerun.model.alert import Alerts
from stagerun.model.sights import Book, Sights, Window
from stagerun.rules.alerting import fingerprint, look
from stagerun.rules.liveness import Thresholds
from stagerun.rules.notices import Notice
from stagerun.store import alerts as stored
from stagerun.store import outbox
from stagerun.store.beside import Access, Beside, Within
from stagerun.store.codec import error_name, words
from stagerun.store.driver import Store
from stagerun.store.outbox import Parcel
from stagerun.store.transaction import Unit

__all__ = ["LAST_LOOK", "Alerting"]

LAST_LOOK: Final = 3.0
"""Seconds for which deliveries may hold up the leaving of a runtime."""
_EVERY: Final = 1.0
"""Seconds between two looks."""
_DOUBT: Final = 0.5
"""The same while something has been seen once that may not last."""
_AGAIN: Final = 5.0
"""Seconds after a defect that has ended its loop until it is begun again."""
_SIGN: Final = 3600.0
"""Seconds between two signs that a name is served: retention forgets those that nobody serves."""
_BAD_TRY: Final = 60.0
"""Seconds until the next try after a defect in a delivery."""
_PATIENCE: Final = 0.25
"""Seconds for which a look waits for the write lock."""
_SAID_AFTER: Final = 5.0
"""Seconds of trouble after which the log is told: a lock that others hold for a moment is none."""


class Alerting:
    """Watches one runtime's database for one ``Alerts``.

    Args:
        alerts: Who is told what.
        store: The runtime's store: where the database is; in virtual time also the way to it.
        recorder: What knows how the database does.
        env: The world.
        watch: What knows who blocks the event loop.
        owner: Which owner this runtime is.
    """

    def __init__(
        self,
        alerts: Alerts,
        store: Store,
        recorder: Recorder,
        env: Env,
        watch: Watch,
        *,
        owner: Callable[[], int],
    ) -> None:
        self._alerts = alerts
        self._recorder = recorder
        self._env = env
        self._owner = owner
        self._limits = Thresholds.of(env.environ)
        kinds = {rule.kind for rule in alerts.rules}
        self._looks_at_runs = bool(kinds & {"stalled", "running", "older"})
        self._access: Access = (
            Beside(Path(store.path), patience=_PATIENCE)
            if env.threads
            else Within(store.ask, recorder.write)
        )
        # Written by: the program's event loop.
        self._scope = trio.CancelScope(shield=True)
        self._over = trio.Event()
        self._opened = self._leaving = False
        self._signed = (0, 0.0)
        """As which owner it last said that it serves its name, and when; on ``Env.monotonic``. From
        then on it belongs to the event loop of the alerts."""
        # Written by: the event loop of the alerts.
        self._host: trio.lowlevel.TrioToken | None = None
        self._eyes = Eyes(watch, recorder, env, owner=owner, limits=self._limits)
        self._courier = Courier(alerts, env)
        self._last = trio.CancelScope()
        self._wake = trio.Event()
        self._book = Book()
        """As of the last look."""
        self._told: dict[str, int] = {}
        """What lasts and was told from memory: the stored book does not have it yet."""
        self._unstored: dict[tuple[str, str], Parcel] = {}
        """Deliveries whose state is not in the database yet."""
        self._in_hand: dict[str, Parcel] = {}
        """By their sinks: each gets one at a time."""
        self._since: float | None = None
        """When the trouble began that keeps it from looking; on ``Env.monotonic``."""
        self._said = False

    # -- the program's event loop -----------------------------------------------------------------

    async def open(self, floor: trio.Nursery) -> None:
        """Listen from now on; what has ended before is not told."""
        if await self._recorder.write(self._sign()) is None:
            name = self._alerts.name
            raise UsageError(
                f"another process tells alerts named {name!r} from this database, by other rules or"
                " to other sinks, and they would take each other's: give the second one a name of"
                " its own: Alerts(..., name=...)"
            )
        self._opened = True
        floor.start_soon(self._run, name=f"alerts {self._alerts.name}")

    async def close(self) -> None:
        """Tell what is still to be told, for a few seconds; what is left waits for the next one."""
        if not self._opened:
            return
        self._leaving = True
        if self._host is not None:
            with suppress(trio.RunFinishedError):  # it has stopped already, and said so
                self._host.run_sync_soon(self._hear_leaving)
        with trio.move_on_after(LAST_LOOK):
            await self._over.wait()
        self._scope.cancel(reason="the runtime is left")

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        try:
            with self._scope:
                while not await self._served():  # noqa: ASYNC110 - a pause, not a wait for something
                    await trio.sleep(_AGAIN)
        finally:
            self._over.set()

    async def _served(self) -> bool:
        """Serve until it is left; return whether it was, and not ended by a defect before."""
        try:
            if self._env.threads:
                await trio.to_thread.run_sync(
                    trio.run,
                    self._serve,
                    abandon_on_cancel=True,
                    limiter=trio.CapacityLimiter(1),
                    thread_name="stagerun-alerts",
                )
            else:
                await self._serve()
        except Exception as error:  # noqa: BLE001 - a defect: no run shall end for it
            what = "alerts have stopped by a defect, and are begun again in %g s: %s"
            self._log.error(what, _AGAIN, _told(error), exc_info=error)
            return self._leaving
        return True

    def _sign(self) -> Unit:
        """Return the unit that says that this owner serves the name."""
        self._signed = self._owner(), self._env.monotonic()
        now, what = self._env.now_us(), fingerprint(self._alerts)
        return stored.begin(self._alerts.name, what, owner=self._signed[0], now=now)

    # -- the event loop of the alerts -------------------------------------------------------------

    async def _serve(self) -> None:
        """Look, each second and whenever something has been carried, until it is left."""
        self._last, self._wake = trio.CancelScope(), trio.Event()
        self._courier = Courier(self._alerts, self._env)
        self._host = trio.lowlevel.current_trio_token()
        if self._leaving:
            self._hear_leaving()
        try:
            async with trio.open_nursery() as lanes:
                with self._last:
                    while await self._look_safely(lanes) or self._goes_on():
                        with trio.move_on_after(_DOUBT if self._eyes.in_doubt else _EVERY):
                            await self._wake.wait()
                        self._wake = trio.Event()
                lanes.cancel_scope.cancel(reason="the runtime is left")
        finally:
            with trio.move_on_after(_DOUBT, shield=True):
                await self._put_away_at_last()

    def _goes_on(self) -> bool:
        return not self._leaving or bool(self._in_hand) or self._eyes.in_doubt

    def _hear_leaving(self) -> None:
        self._last.deadline = trio.current_time() + LAST_LOOK - _DOUBT
        self._wake.set()

    async def _look_safely(self, lanes: trio.Nursery) -> bool:
        """Look; return whether there may be more. Trouble costs nothing but the next look."""
        try:
            more = await self._look(lanes)
        except StoreError as error:
            self._raise_from_memory()
            self._note(str(error))
            more = False
        except Exception as error:  # noqa: BLE001 - a defect: the next look may do
            self._note(_told(error), error)
            more = False
        else:
            self._note(None)
        now = self._env.now_us()
        for parcel in [*self._unstored.values()]:
            if not parcel.settled and parcel.next_try_at <= now and parcel.sink in self._idle():
                self._hand_over(parcel, lanes)
        if more:
            self._wake.set()
        return more

    async def _look(self, lanes: trio.Nursery) -> bool:
        await self._put_away()
        await self._show()
        more = await self._raise()
        now = self._env.now_us()
        for parcel in await self._access.ask(outbox.due(self._alerts.name, self._idle(), now)):
            more = True
            if await self._access.write(outbox.claim(parcel, self._owner(), now)) is not None:
                self._hand_over(parcel, lanes)
        return await self._give_up(now) or more

    async def _show(self) -> None:
        """Say that the name is served: now and then, and at once when this is another owner."""
        owner, at = self._signed
        if self._owner() in (0, owner) and self._env.monotonic() - at < _SIGN:
            return
        before = self._signed
        try:
            if await self._access.write(self._sign()) is None:
                self._log.error("alerts named %r are told by another process, too, by other rules"
                                " or to other sinks: give one a name of its own",
                                self._alerts.name)  # fmt: skip
        except BaseException:
            self._signed = before
            raise

    async def _give_up(self, now: int) -> bool:
        """Give up what is too old, whoever has it; return whether there may be more."""
        name, before = self._alerts.name, self._oldest(now)
        old = await self._access.ask(outbox.overdue(name, before, now))
        if not old or await self._access.write(outbox.give_up(name, before, now)) is None:
            return False
        self._log.error(
            "%d alerts named %s are given up, not delivered within %g s: %s",
            sum(old.values()),
            name,
            self._alerts.give_up_after,
            ", ".join(f"{count} by {sink}" for sink, count in sorted(old.items())),
        )
        return True

    def _oldest(self, now: int) -> int:
        """Return since when there is news: what is older is told to nobody any more."""
        return now - int(self._alerts.give_up_after * 1e6)

    async def _raise(self) -> bool:
        """Raise what is to be raised; return whether there may be more."""
        now = self._env.now_us()
        book, sights = await self._access.ask(
            stored.news(
                self._alerts.name,
                now,
                self._limits,
                since=self._oldest(now),
                but=self._owner(),
                under_way=self._looks_at_runs,
            )
        )
        sights = self._eyes.corrected(sights)
        known = evolve(book, episodes={**book.episodes, **self._told})
        found = look(known, sights, self._alerts)
        self._book = known  # what is raised now is not, before it is stored
        if found.book == book:
            return False
        parcels = [parcel for notice in found.raised for parcel in self._parcels(notice, now)]
        turned = await self._access.write(stored.turn(self._alerts.name, book, found.book, parcels))
        if turned is not None:  # else another process has looked at the same moment
            self._book, self._told = found.book, {}
        return turned is None or sights.ending is not None

    def _raise_from_memory(self) -> None:
        """Raise what can be seen without the database: that it, or the event loop, is stuck."""
        now = self._env.now_us()
        sights = self._eyes.corrected(Sights(now=now))
        # What was held back stays with the stored book: it is told from there.
        found = look(evolve(self._book, window=Window()), sights, self._alerts)
        self._told |= dict(found.book.episodes.items() - self._book.episodes.items())
        self._book = evolve(found.book, window=self._book.window)
        for notice in found.raised:
            self._unstored |= {parcel.key: parcel for parcel in self._parcels(notice, now)}

    def _parcels(self, notice: Notice, now: int) -> list[Parcel]:
        alert = announced(notice, self._alerts.name, self._env.new_id(), now)
        return [Parcel(alert=alert, sink=sink.name, next_try_at=now) for sink in self._alerts.sinks]

    # -- deliveries -------------------------------------------------------------------------------

    def _idle(self) -> list[str]:
        """Return the sinks that could take something."""
        return [
            sink.name
            for sink in self._alerts.sinks
            if sink.name not in self._in_hand and self._courier.has_room(sink.name)
        ]

    def _hand_over(self, parcel: Parcel, lanes: trio.Nursery) -> None:
        self._in_hand[parcel.sink] = parcel
        lanes.start_soon(self._carry, parcel, name=f"carries alerts to {parcel.sink}")

    async def _carry(self, parcel: Parcel) -> None:
        try:
            carried = await self._courier.carry(parcel)
        except Exception as error:  # noqa: BLE001 - a defect: it counts as a try that has failed
            what, at = _told(error), self._env.now_us() + int(_BAD_TRY * 1e6)
            self._log.error("an alert did not go by %s for a defect: %s", parcel.sink, what)
            carried = evolve(parcel, tries=parcel.tries + 1, next_try_at=at, error=what)
        self._unstored[carried.key] = carried
        del self._in_hand[parcel.sink]
        self._wake.set()

    async def _put_away(self) -> None:
        """Store what has become of deliveries; not of those that are under way."""
        under_way = [parcel.key for parcel in self._in_hand.values()]
        parcels = [each for each in self._unstored.values() if each.key not in under_way]
        if parcels:
            await self._access.write(Unit(None, [outbox.keep(parcel) for parcel in parcels]))
            for parcel in parcels:
                del self._unstored[parcel.key]

    async def _put_away_at_last(self) -> None:
        self._in_hand.clear()  # it was left behind: whoever comes next tries again
        try:
            await self._put_away()
        except StoreError as error:
            self._log.warning("what became of %d alerts is not stored: %s",
                              len(self._unstored), error)  # fmt: skip
        finally:
            self._access.close()

    @property
    def _log(self) -> RunLog:
        return RunLog(now=self._env.now_us)

    def _note(self, trouble: str | None, defect: Exception | None = None) -> None:
        """Say what keeps alerts from being looked at: once when it lasts, and once it is over."""
        now = self._env.monotonic()
        if trouble is None:
            if self._said:
                self._log.warning("alerts are looked at again")
            self._since, self._said = None, False
            return
        self._since = now if self._since is None else self._since
        if not self._said and (defect is not None or now - self._since >= _SAID_AFTER):
            self._said = True
            self._log.warning("alerts wait, and are looked at again: %s", trouble, exc_info=defect)


def _told(error: BaseException) -> str:
    """Return what an error says, whatever it is made of."""
    return f"{error_name(error)}: {words(error, 1_000)}"
