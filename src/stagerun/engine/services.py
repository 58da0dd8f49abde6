"""What a runtime does beside its runs when a program asks for it: schedules, and alerts.

Loaded only then: a program without them begins sooner.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from stagerun.engine.admission import Admission
from stagerun.engine.alerting import LAST_LOOK, Alerting
from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.engine.runs import Runs
from stagerun.engine.timetable import Timetable
from stagerun.engine.watch import Watch
from stagerun.model.alert import Alerts, several
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.store.driver import Store

__all__ = ["Services"]


class Services:
    """Serves schedules and tells alerts, from the opening of a runtime to its end.

    Args:
        schedules: Those that are served; their names differ.
        alerts: Who is told what; their names differ.
        store: Where both stand.
        recorder: What writes for both.
        env: The world.
        watch: What knows who blocks the event loop.
        admission: Makes the runs of the schedules.
        runs: Conducts them.
        owner: The number of the owner that this runtime is.
        settled: Gives a pipeline what operators have set.
        look: Settles what dead processes left.

    Raises:
        UsageError: Something else was given in place of a schedule or of alerts, or one twice.
    """

    def __init__(
        self,
        schedules: Sequence[Schedule],
        alerts: Alerts | Iterable[Alerts] | None,
        store: Store,
        recorder: Recorder,
        env: Env,
        *,
        watch: Watch,
        admission: Admission,
        runs: Runs,
        owner: Callable[[], int],
        settled: Callable[[Pipeline], Pipeline],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._timetable = Timetable(
            schedules,
            store,
            recorder,
            env,
            admission=admission,
            runs=runs,
            owner=owner,
            settled=settled,
            look=look,
        )
        world = (store, recorder, env, watch)
        self._alerting = [Alerting(each, *world, owner=owner) for each in several(alerts)]
        self.pipelines = tuple(schedule.pipeline for schedule in schedules)
        """What the schedules run."""
        self.close_within = LAST_LOOK if self._alerting else 0.0
        """Seconds that closing may take at most."""

    async def open(self, floor: trio.Nursery) -> None:
        """Begin both.

        Raises:
            UsageError: A schedule could never be started, or alerts of one name differ from those
                of another process; says why.
        """
        for alerting in self._alerting:
            await alerting.open(floor)
        await self._timetable.open(floor)

    def nudge(self) -> None:
        """Hear that something was asked of the schedules: look at once."""
        self._timetable.nudge()

    def start_no_more(self) -> None:
        """Begin no run for a schedule from now on."""
        self._timetable.close()

    async def close(self) -> None:
        """Tell what is still to be told."""
        async with trio.open_nursery() as nursery:
            for alerting in self._alerting:
                nursery.start_soon(alerting.close)
