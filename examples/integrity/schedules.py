"""The checks on schedules, several side by side.

    stagerun serve examples/integrity/schedules.py:schedules

INTEGRITY_ADDRESS    the site; without one each run serves itself, as `stagerun run` does
INTEGRITY_EVERY      seconds between two runs of a schedule (30)
"""

import os
from typing import Any, Final

from examples.integrity.pipeline import pipeline
from examples.integrity.synchronous import sync_process, sync_thread
from stagerun import Schedule

EVERY: Final = float(os.environ.get("INTEGRITY_EVERY", "30"))


def site(**params: Any) -> dict[str, Any]:
    address = os.environ.get("INTEGRITY_ADDRESS")
    return {"address": address, **params} if address else params


schedules = [
    # Two halves of the entities. While a run still waits for a page, the next one may begin.
    Schedule("first-half", pipeline, every=EVERY, active=2, params=site(part="1/2")),
    Schedule("second-half", pipeline, every=EVERY, active=2, params=site(part="2/2")),
    # One entity through the client without a timeout, one run at a time.
    Schedule("threads", sync_thread, every=EVERY, params=site(part="1/4")),
    Schedule("processes", sync_process, every=EVERY, params=site(part="1/4")),
    # Everything, while nobody works.
    Schedule("nightly", pipeline, cron="30 2 * * *", zone="Europe/Berlin", params=site()),
]
