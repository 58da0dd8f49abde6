"""The watch over other owners: whose process is gone, its runs are settled, with the reason.

At start and for ever while a runtime lives, each time in one fenced statement, so that any number
of processes may do it at once and an error costs nothing but the next round.
"""

from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.logs import RunLog
from stagerun.store import owners, questions
from stagerun.store.driver import Store
from stagerun.store.owner import Identity, Liveness

__all__ = ["recover"]


async def recover(owner: int, store: Store, recorder: Recorder, env: Env) -> int:
    """Settle what dead owners have left; return how many owners that were."""
    settled = 0
    for number, identifier, device, inode in await store.ask(questions.open_owners(owner)):
        identity = Identity(device, inode)
        if store.look(identifier, identity) is not Liveness.DEAD:
            continue
        unit = owners.settle_owner(number, identity, owner, env.now_us())
        if await recorder.write(unit) is not None:
            settled += 1
            RunLog(now=env.now_us).warning("settled the runs of dead owner %s", identifier)
    return settled
