"""What a process says of its own runs that do not get on: one line for each change."""

from collections.abc import Iterable

from attrs import frozen

from stagerun.engine.env import Env
from stagerun.engine.hub import Hub
from stagerun.rules.liveness import Signs, Thresholds, judge
from stagerun.store.driver import Store
from stagerun.store.verdicts import usual_seconds

__all__ = ["Verdicts"]


@frozen
class _Stand:
    """How a run stood when it was looked at."""

    verdict: str
    began: float
    moves: int
    moved_at: float
    usual: float | None


class Verdicts:
    """Looks at the runs of this process now and then. Nothing is ended by it."""

    def __init__(self, store: Store, env: Env) -> None:
        self._store = store
        self._env = env
        self._limits = Thresholds.of(env.environ)
        self._stands: dict[Hub, _Stand] = {}

    async def look(self, hubs: Iterable[Hub]) -> None:
        """Say which runs are stalled, or slow, and were not; and which get on again."""
        stands = {}
        for hub in [*hubs]:
            if hub.ledger.deadline is not None and hub.ledger.published.ending is None:
                stands[hub] = await self._stand(hub, self._stands.get(hub))
        self._stands = stands

    async def _stand(self, hub: Hub, before: _Stand | None) -> _Stand:
        now, moves = self._env.monotonic(), hub.ledger.moves
        if before is None:
            usual = await self._store.ask(usual_seconds(hub.pipeline.name))
            return _Stand("alive", now, moves, now, usual)
        moved_at = before.moved_at if moves == before.moves else now
        signs = Signs(
            status="running",
            owner="alive",
            age=now - before.began,
            unmoved=now - moved_at,
            median=before.usual,
        )
        verdict = judge(signs, self._limits)
        if verdict != before.verdict:
            words = _WORDS[verdict]
            hub.log.warning(words, signs.unmoved if verdict == "stalled" else signs.age)
        return _Stand(verdict, before.began, moves, moved_at, before.usual)


_WORDS = {
    "stalled": "the run is stalled: no outcome, report or heartbeat for %.0f s;"
    " `stagerun why` says what it waits for. Only its deadlines end it",
    "slow": "the run is slow: under way for %.0f s. It gets on, and is left alone",
    "alive": "the run gets on again, after %.0f s",
}
