"""Prefect as it comes: a flow of three mapped tasks, eight threads, a server of its own."""

import logging
import os

from probe import PLACES, Call, Window, called, tell


def main(call: Call) -> None:
    # Read when Prefect is imported, so set before.
    os.environ["PREFECT_HOME"] = str(call.directory)
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    logging.disable(logging.ERROR)
    from prefect import flow, task  # noqa: PLC0415
    from prefect.task_runners import ThreadPoolTaskRunner  # noqa: PLC0415

    first, second, third = call.bodies()

    @task
    def one(item: int) -> int:
        first(item)
        return item

    @task
    def two(item: int) -> int:
        second(item)
        return item

    @task
    def three(item: int) -> int:
        third(item)
        return item

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8 if call.measures else PLACES))
    def carry_all() -> tuple[Window, int]:
        with Window(call) as window:
            ends = three.map(two.map(one.map(range(call.items))))
            results = ends.result()
        return window, sum(result == item for item, result in enumerate(results))

    window, stored = carry_all()
    tell(call, window, stored)


if __name__ == "__main__":
    main(called())
