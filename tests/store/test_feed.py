"""The feed of a run's events: every kept one once, and from where on none is missing."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagerun import Pipeline, stage
from stagerun.errors import UsageError
from stagerun.store.feed import FeedEvent, feed, run_number
from stagerun.store.opening import connect
from tests.conftest import Bench


@stage
async def echo(n: int) -> int:
    return n


async def test_a_run_is_told_from_its_begin_to_its_terminal_event_in_pages(bench: Bench) -> None:
    result = await bench.finish(Pipeline("p", [echo]), range(20))
    connection = bench.store._connection
    assert connection is not None
    run, identifier = run_number(result.id[:10])(connection)
    assert identifier == result.id
    events: list[FeedEvent] = []
    after = 0
    while page := feed(run, after, limit=3)(connection).events:
        events += page
        after = page[-1].seq
    whole = feed(run, 0)(connection)
    assert tuple(events) == whole.events
    assert [event.seq for event in events] == [*range(1, whole.last + 1)]
    assert (events[-1].kind, events[-1].body) == ("run", "succeeded")
    assert (whole.first_kept, whole.generation, whole.ended) == (1, 1, True)
    beyond = feed(run, whole.last + 5)(connection)
    assert (beyond.events, beyond.last) == ((), whole.last)


@settings(deadline=None)
@given(pruned=st.sets(st.integers(1, 29)), after=st.integers(0, 35))
def test_it_is_told_from_where_on_no_event_is_missing(pruned: set[int], after: int) -> None:
    last = 30
    with closing(connect(":memory:")) as connection:
        store(connection, last, pruned)
        told = feed(1, after)(connection)
    assert [event.seq for event in told.events] == [
        seq for seq in range(after + 1, last + 1) if seq not in pruned
    ]
    behind = [seq for seq in pruned if seq > after]
    assert (told.first_kept > after + 1) == bool(behind)
    if behind:
        assert told.first_kept == max(pruned) + 1
    assert not told.ended


def test_a_run_that_is_not_kept_any_more_is_told_so() -> None:
    with closing(connect(":memory:")) as connection:
        with pytest.raises(UsageError, match="not kept any more"):
            feed(7, 0)(connection)
        with pytest.raises(UsageError, match="there is no run"):
            run_number("7")(connection)


def store(connection: sqlite3.Connection, last: int, pruned: set[int]) -> None:
    connection.execute(
        "INSERT INTO runs (run, id, pipeline, generation, created_at, params, source, events,"
        " events_pruned) VALUES (1, 'a', 'p', 1, 0, x'80', 'stored', ?, ?)",
        (last, len(pruned)),
    )
    connection.execute(
        "INSERT INTO generations (run, generation, status, created_at, updated_at)"
        " VALUES (1, 1, 'running', 0, 0)"
    )
    connection.executemany(
        "INSERT INTO events VALUES (1, ?, 1, 0, 'log', 'INFO', NULL, NULL, 'x')",
        [(seq,) for seq in range(1, last + 1) if seq not in pruned],
    )
