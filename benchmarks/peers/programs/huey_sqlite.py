"""Huey on SQLite as it comes: a chain of three tasks an item, a consumer with four threads."""

import logging
import time

from huey import SqliteHuey
from probe import PLACES, Call, Window, called, tell

_WORKERS = 4
_LOOK = 0.005  # seconds between two looks whether all is done


def main(call: Call) -> None:
    logging.disable(logging.WARNING)
    huey = SqliteHuey("peers", filename=str(call.directory / "huey.db"))
    first, second, third = call.bodies()

    @huey.task()
    def one(item: int) -> int:
        first(item)
        return item

    @huey.task()
    def two(item: int) -> int:
        second(item)
        return item

    @huey.task()
    def three(item: int) -> int:
        third(item)
        return item

    consumer = huey.create_consumer(workers=_WORKERS if call.measures else PLACES)
    consumer.start()
    if call.resumes:
        consumer.scheduler.join()  # what was enqueued before is all that there is to do
    with Window(call) as window:
        for item in range(call.items):
            huey.enqueue(one.s(item).then(two).then(three))
        while call.finished < call.items or huey.result_count() < 3 * call.items:
            time.sleep(_LOOK)
    consumer.stop(graceful=True)
    tell(call, window, huey.result_count() // 3)


if __name__ == "__main__":
    main(called())
