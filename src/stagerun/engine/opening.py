"""Opening a runtime: the ground for the persistence actor, and the floor where all work stands."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from stagerun import logs, redaction
from stagerun.engine.blame import blameless
from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.engine.runtime import Runtime
from stagerun.engine.unwrap import unwrapped
from stagerun.errors import StoreError, UsageError
from stagerun.model.pipeline import Pipeline
from stagerun.store import codec
from stagerun.store.driver import Store

if TYPE_CHECKING:
    from stagerun.model.alert import Alerts
    from stagerun.model.schedule import Schedule

__all__ = ["default_store", "open_runtime"]


@asynccontextmanager
async def open_runtime(
    database: str | Path = "stagerun.db",
    *,
    pipelines: Iterable[Pipeline] = (),
    schedules: "Iterable[Schedule]" = (),
    alerts: "Alerts | Iterable[Alerts] | None" = None,
    env: Env | None = None,
    store: Store | None = None,
) -> AsyncIterator[Runtime]:
    """Open a database and run pipelines on it, in any trio program.

    Leaving the block is a graceful shutdown: runs get their grace, and what has not ended by then
    becomes ``interrupted``. Cancelling the block is the same.

    Args:
        database: A file; it is created when there is none. Its folder must exist.
        pipelines: What this program takes over when its process has gone: runs of theirs that were
            interrupted and say ``on_interrupt="resume"``, and runs that were waiting their turn.
        schedules: What this program runs by itself, at the times of a clock on the wall.
        alerts: Who is told when runs end badly or stand still, see ``stagerun.alerts``; several
            have different names.
        env: The world as the engine sees it; for simulations.
        store: Another driver than aiosqlite; for simulations.

    Raises:
        StoreError: The database cannot be opened, or was lost on the way.
        SettingError: An environment variable of stagerun's holds a bad value.
        UsageError: This is no program on trio.
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise UsageError(
            "stagerun.open_runtime() is for programs on trio: under asyncio it is"
            " stagerun.asyncio.open_runtime()"
        ) from None
    env = env or Env()
    redaction.check(env.environ)
    store = store or default_store(database)
    recorder = Recorder(store, env)
    with logs.install(env.environ), unwrapped(), blameless(store.page):
        async with trio.open_nursery() as ground:
            # Not nursery.start(): shielded, its child would never end if this were cancelled now.
            opened = _Opened()
            ground.start_soon(_persist, store, recorder, opened, name="persistence actor")
            try:
                await opened.event.wait()
                with unwrapped():
                    async with trio.open_nursery() as floor:
                        runtime = Runtime(
                            store,
                            recorder,
                            env,
                            floor,
                            pipelines=pipelines,
                            schedules=schedules,
                            alerts=alerts,
                        )
                        try:
                            await runtime._open()  # noqa: SLF001 - the async half of its making
                            yield runtime
                        finally:
                            with trio.CancelScope(shield=True):
                                await runtime._shut_down()  # noqa: SLF001 - as above
            finally:
                store.stop()  # only now: what was left behind may still have a word to say


def default_store(database: str | Path) -> Store:
    """Return the store that a program gets which asks for no other."""
    from stagerun.store.aio import AioStore  # noqa: PLC0415 - asyncio is loaded when first needed

    return AioStore(database)


class _Opened:
    """Told by a task that it is ready; a ``trio.TaskStatus`` that survives a cancelled wait."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def started(self, _value: None = None) -> None:
        """Let the one who waits go on."""
        self.event.set()


@trio.lowlevel.enable_ki_protection
async def _persist(store: Store, recorder: Recorder, opened: _Opened) -> None:
    """Run the persistence actor. Its failure is the runtime's, and nobody waits for it in vain."""
    with trio.CancelScope(shield=True):
        try:
            await store.run(recorder, task_status=opened)
        except StoreError as error:
            recorder.fail(error)
            raise
        except Exception as error:
            broken = StoreError(f"the persistence actor failed: {codec.words(error)}")
            recorder.fail(broken)
            raise broken from error
