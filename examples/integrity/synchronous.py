"""The same checks of a site that can only be read by a client without any timeout.

    stagerun run examples/integrity/synchronous.py:sync_thread
    stagerun run examples/integrity/synchronous.py:sync_process

In both a hung call ends at its deadline. A thread cannot be stopped: it is left behind, named as a
survivor, and its worker goes on with the next page. A process is killed, and another one takes its
place.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from http.client import HTTPException
from typing import Any, Final

from attrs import evolve

from examples.integrity.pipeline import Answer, answer_to, check, pipeline, records, report
from examples.integrity.site import Page, source
from examples.integrity.vendor import BusyError, read_page
from stagerun import Retry, stage

ONE: Final = {"entities_count": 1, "records": 5000, "hang": 1, "drip": 1, "busy": 1, "reset": 1}
"""The service of our own, unless params say otherwise: 20 pages, and 4 of them misbehave."""


def one_entity(params: Mapping[str, Any] | None) -> AbstractAsyncContextManager[list[Page]]:
    """Give the pages of the site in `params`, or of the one entity of a service of our own."""
    params = params or {}
    return source(params if "address" in params else {**ONE, **params})


@stage(
    mode="process",
    workers=4,
    deadline=8,
    retry=Retry(
        attempts=3,
        attempt_deadline=2,
        base=0.2,
        cap=1,
        on=(OSError, HTTPException, BusyError),
    ),
    least_ok=0.85,
)
def pages(page: Page) -> Answer:
    """Fetch a page, and wait for it for as long as it takes."""
    return answer_to(page, read_page(page.address, page.entity, page.number))


in_thread = pages.with_options(
    mode="thread",
    retry=evolve(
        pages.retry, timeouts=False
    ),  # each attempt that hangs would leave a thread behind
)

sync_process = pipeline.with_options(
    name="sync_process", source=one_entity, stages=[pages, records, check, report]
)
sync_thread = pipeline.with_options(
    name="sync_thread", source=one_entity, stages=[in_thread, records, check, report]
)
