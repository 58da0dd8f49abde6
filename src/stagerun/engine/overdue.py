"""What can only be told by patience: owners whose lock cannot be looked at, and overdue runs.

The reader's own waking time counts, not anybody's wall clock: so neither a clock that jumps nor a
machine that sleeps ends the run of a healthy process.
"""

import math
import os

from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.logs import RunLog
from stagerun.rules.liveness import Patience
from stagerun.store import lateness
from stagerun.store.driver import Store
from stagerun.store.owner import Identity, Liveness

__all__ = ["Overdue"]

_TOGETHER = 12.0
"""Seconds that two looks may be apart to belong together; between them the machine has not slept.
"""


_STUCK = 2.5
"""Seconds for which a commit of one's own may be under way; longer, and the database is locked."""


class Overdue:
    """Looks after what others have left without being dead for certain."""

    def __init__(self, store: Store, recorder: Recorder, env: Env) -> None:
        self._store = store
        self._recorder = recorder
        self._env = env
        self._patience = Patience(gap=_TOGETHER * env.pace)

    async def look(self, owner: int) -> int:
        """Settle what has been left for long enough; return how many owners and runs that were."""
        now = self._env.monotonic()
        if self._recorder.health().commit_lag > _STUCK:
            # Nobody can write: whoever is silent, or has not put a deadline right, may want to.
            self._patience.forget_before(math.inf)
            return 0
        settled = await self._end_silent(owner, now) + await self._end_overdue(owner, now)
        self._patience.forget_before(now)
        return settled

    async def _end_silent(self, owner: int, now: float) -> int:
        """End owners whose file is gone, or another one, and who show no life."""
        ended = 0
        for silent in await self._store.ask(lateness.silent_owners(owner)):
            identity = Identity(silent.device, silent.inode)
            if self._store.look(silent.id, identity) is not Liveness.UNKNOWN:
                continue
            if self._patience.over(("owner", silent.owner), silent.alive_at, now):
                unit = lateness.end_silent(silent, owner, self._env.now_us())
                if await self._recorder.write(unit) is not None:
                    ended += 1
                    RunLog(now=self._env.now_us).warning(
                        "owner %s has shown no life, and its file is gone: its runs are settled",
                        silent.id,
                    )
        return ended

    async def _end_overdue(self, owner: int, now: float) -> int:
        """End runs long past their deadline whose process lives and does not end them."""
        ended = 0
        for run in await self._store.ask(lateness.overdue_runs(owner, self._env.now_us())):
            mark = ("run", run.run, run.generation)
            if not self._patience.over(mark, (run.owner, run.deadline_at), now):
                continue
            life = self._store.look(run.owner_id, Identity(run.device or 0, run.inode or 0))
            state = "lives" if life is Liveness.ALIVE else "cannot be looked at"
            message = (
                f"the run's deadline passed and its process (pid {run.pid} on {run.host}), which"
                f" {state}, did not end it; the process with pid {os.getpid()} did"
            )
            unit = lateness.end_overdue(run, owner, self._env.now_us(), message)
            if await self._recorder.write(unit) is not None:
                ended += 1
                RunLog(now=self._env.now_us).warning("run %s: %s", run.id, message)
        return ended
