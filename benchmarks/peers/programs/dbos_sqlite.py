"""DBOS: one workflow of three steps an item, in an SQLite file.

Without a variant its workflows are called one after the other, with `threads` eight at once; `wal`
gives it an engine of the caller's, with a write-ahead log and `synchronous=NORMAL`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy
from dbos import DBOS, DBOSConfig, SetWorkflowID
from probe import PLACES, Call, Window, called, tell

_THREADS = 8


def main(call: Call) -> None:
    first, second, third = call.bodies()
    DBOS(config=_config(call))

    @DBOS.step()
    def one(item: int) -> int:
        first(item)
        return item

    @DBOS.step()
    def two(item: int) -> int:
        second(item)
        return item

    @DBOS.step()
    def three(item: int) -> int:
        third(item)
        return item

    @DBOS.workflow()
    def carry(item: int) -> None:
        three(two(one(item)))

    DBOS.launch()
    try:
        if call.measures:
            with Window(call) as window:
                _call_all(call, carry)
            done = DBOS.list_workflows(status="SUCCESS", load_input=False, load_output=False)
            tell(call, window, len(done))
        else:
            _try(call, carry)
    finally:
        DBOS.destroy()


def _config(call: Call) -> DBOSConfig:
    url = f"sqlite:///{call.directory / 'dbos.sqlite'}"
    config: DBOSConfig = {"name": "peers", "system_database_url": url, "log_level": "ERROR"}
    if call.variant == "wal":
        engine = sqlalchemy.create_engine(url)
        sqlalchemy.event.listen(engine, "connect", _write_ahead)
        config["system_database_engine"] = engine
    return config


def _write_ahead(connection: sqlalchemy.engine.interfaces.DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _call_all(call: Call, carry: Callable[[int], None]) -> None:
    if call.variant != "threads":
        for item in range(call.items):
            carry(item)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(carry, range(call.items)):
            pass


def _try(call: Call, carry: Callable[[int], None]) -> None:
    """Start each item under an id of its own: one that is known is not started twice."""

    def identified(item: int) -> None:
        with SetWorkflowID(f"item-{item}"):
            DBOS.start_workflow(carry, item).get_result()

    with ThreadPoolExecutor(PLACES) as pool:
        for _ in pool.map(identified, range(call.items)):
            pass


if __name__ == "__main__":
    main(called())
