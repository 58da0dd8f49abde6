"""Pruning: ended runs that need not be kept go, a few rows at a time and off the hot path."""

from collections.abc import Awaitable, Callable, Sequence

import trio

from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.errors import StoreError
from stagerun.logs import RunLog
from stagerun.rules.retention import Keep
from stagerun.store import retention
from stagerun.store.driver import Store
from stagerun.store.outdated import drop_outdated, outdated
from stagerun.store.retention import Prunable

__all__ = ["prune", "prune_for_ever"]

_EVERY = 60.0
"""Seconds between two looks at what is no longer to be kept."""
_IDLE_PAUSE, _BUSY_PAUSE = 0.02, 1.0
"""Seconds between two small transactions, while nothing waits for a commit and while much does."""


async def prune_for_ever(store: Store, recorder: Recorder, env: Env, keep: Keep) -> None:
    """Prune now and then, behind everything else. An error costs nothing but the next round."""

    async def pause() -> None:
        await trio.sleep(_IDLE_PAUSE)
        if not recorder.idle:
            await trio.sleep(_BUSY_PAUSE)

    log = RunLog(now=env.now_us)
    while True:
        await trio.sleep(_EVERY * env.pace)
        try:
            gone = await prune(store, recorder, env, keep, pause)
        except StoreError as error:
            log.warning("pruning is tried again: %s", error)
        else:
            if gone:
                log.info("pruned %d ended runs that need not be kept", len(gone))


async def prune(
    store: Store,
    recorder: Recorder,
    env: Env,
    keep: Keep,
    pause: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
) -> Sequence[Prunable]:
    """Let go of all that is not to be kept, pausing between small transactions; return the runs.

    Raises:
        StoreError: The database was lost on the way.
    """
    gone = list[Prunable]()
    before = keep.before(env.now_us())
    while page := await store.ask(retention.prunable(keep.runs, before)):
        for run in page:
            if await recorder.write(retention.forget(run.run)) is not None:
                gone.append(run)
            await pause()
    while (left := await store.ask(retention.remains())) is not None:
        run_number, table = left
        done = retention.swept(run_number)
        await recorder.write(done if table is None else retention.sweep(run_number, table))
        await pause()
    while await store.ask(outdated(before)):
        await recorder.write(drop_outdated(before))
        await pause()
    if before is not None:
        while owners := await store.ask(retention.old_owners(before)):
            await recorder.write(retention.drop_owners(owners))
            await pause()
    store.tidy(await store.ask(retention.open_identifiers()))
    return gone
