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
from stagerun.store.questions import SettledRun

__all__ = ["recover"]


async def recover(owner: int, store: Store, recorder: Recorder, env: Env) -> list[SettledRun]:
    """Settle what dead owners have left; return the runs that were ended by that."""
    settled = list[SettledRun]()
    for number, identifier, device, inode in await store.ask(questions.open_owners(owner)):
        identity = Identity(device, inode)
        if store.look(identifier, identity) is not Liveness.DEAD:
            continue
        now = env.now_us()
        unit = owners.settle_owner(number, identity, owner, now, store.in_hand(identifier))
        if await recorder.write(unit) is None:
            continue  # somebody else was quicker
        runs = await store.ask(questions.settled_runs(number, owner, now))
        RunLog(now=env.now_us).warning(
            "the process of owner %s is dead; runs settled: %d", identifier[:8], len(runs)
        )
        settled += runs
    for number in await store.ask(questions.left_open(owner)):
        now = env.now_us()
        if await recorder.write(owners.settle_left(number, owner, now)) is not None:
            settled += await store.ask(questions.settled_runs(number, owner, now))
    return settled
