"""The channel to the store: two lanes that keep one order, and lose nothing between two threads."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from stagerun import Pipeline, stage
from stagerun.engine import inbox as inboxes
from stagerun.engine.inbox import Draft, Inbox, Ticket
from stagerun.engine.ledger import Ledger, Post
from stagerun.model.status import Counts
from stagerun.store.inline import InlineStore
from stagerun.store.packing import ATTEMPTS, WIDTH
from stagerun.store.transaction import Rows, Statement


@stage
async def one(n: int) -> int:
    return n


PIPELINE = Pipeline("one", [one])


@define
class Run:
    """One ledger, and how much was posted to it and taken from it, in order."""

    ledger: Ledger
    posted: int = 0
    taken: int = 0
    events: list[Any] = field(factory=list)

    def take(self) -> None:
        """Look at what its next unit holds: it must be just what comes next."""
        body = self.ledger.unit(0).body
        marks = [part.sql for part in body if isinstance(part, Statement) and part.sql.isdigit()]
        rows = [
            part.parameters for part in body if isinstance(part, Rows) and "items" in part.insert
        ]
        numbers = [int(mark) for mark in marks] + [n for flat in rows for n in flat[1::WIDTH]]
        assert sorted(numbers) == [*range(self.taken + 1, self.taken + len(numbers) + 1)]
        self.taken += len(numbers)
        assert self.ledger.snapshot().taken == self.taken


def new_run(number: int) -> Run:
    return Run(Ledger(number, 1, PIPELINE, [0]))


def new_inbox() -> Inbox:
    return Inbox(InlineStore())


def post_outcome(inbox: Inbox, run: Run) -> None:
    run.posted += 1
    inbox.outcome(run.ledger, (1 << ATTEMPTS, run.posted, 0.0, 0.0, b""))


def post_other(inbox: Inbox, run: Run) -> None:
    run.posted += 1
    inbox.post(run.ledger, Post.STATEMENT, Statement(str(run.posted)), 10)


def take(inbox: Inbox, runs: list[Run]) -> Draft:
    draft = inbox.draft()
    for run in runs:
        if run.ledger in draft.tickets:
            run.take()
    return draft


STEPS = st.lists(st.tuples(st.sampled_from(["outcome", "other", "take"]), st.integers(0, 2)))


@given(STEPS, st.integers(1, 8))
def test_what_is_taken_is_always_a_beginning_of_what_was_posted(
    steps: list[tuple[str, int]], batch: int
) -> None:
    inbox, runs = new_inbox(), [new_run(number) for number in range(1, 4)]
    drafts = list[Draft]()
    with bounded(batch):
        for step, which in [*steps, *[("take", 0)] * (len(steps) + 1)]:
            if step == "outcome":
                post_outcome(inbox, runs[which])
            elif step == "other":
                post_other(inbox, runs[which])
            else:
                drafts.append(take(inbox, runs))
    assert [run.taken for run in runs] == [run.posted for run in runs]
    assert inbox.empty
    assert inbox.waiting == sum(draft.posts for draft in drafts)
    for draft in drafts:
        inbox.committed(draft)
    assert inbox.waiting == 0


@contextmanager
def bounded(batch: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inboxes, "_BATCH", batch)
        yield


def test_a_ticket_comes_with_all_that_was_posted_before_it() -> None:
    inbox, run, ticket = new_inbox(), new_run(1), Ticket()
    for _ in range(5):
        post_outcome(inbox, run)
    inbox.wait(run.ledger, ticket, None)
    post_outcome(inbox, run)
    draft = take(inbox, [run])
    assert draft.tickets[run.ledger] == [ticket]
    assert run.taken >= 5


def test_sums_are_those_of_the_outcomes_taken() -> None:
    inbox, run = new_inbox(), new_run(1)
    run.ledger.accept_stored(3)
    for _ in range(3):
        post_outcome(inbox, run)
    take(inbox, [run])
    assert run.ledger.snapshot().counts == (Counts(name="one", accepted=3, ok=3),)


def test_it_is_full_with_many_posts_and_with_many_bytes_until_they_are_durable() -> None:
    inbox, run = new_inbox(), new_run(1)
    for _ in range(inboxes._POSTS):
        assert not inbox.full
        post_outcome(inbox, run)
    assert inbox.full
    drafts = [inbox.draft(), inbox.draft()]
    assert inbox.full, "taken is not durable"
    inbox.committed(drafts[0])
    assert not inbox.full
    inbox.committed(drafts[1])
    inbox.post(run.ledger, Post.STATEMENT, Statement("large"), inboxes._BYTES)
    assert inbox.full
    inbox.committed(inbox.draft())
    assert not inbox.full


def test_nothing_is_lost_between_a_thread_that_posts_and_one_that_takes() -> None:
    """Both without a lock, switched as often as can be."""
    inbox, runs, store = new_inbox(), [new_run(1), new_run(2)], InlineStore()
    inbox._store = store  # one whose wake() nobody hears: the taker looks all the time
    number, over = 20_000, threading.Event()

    def posts() -> None:
        for count in range(number):
            post_outcome(inbox, runs[count % 2])
            if count % 7 == 0:
                post_other(inbox, runs[count % 3 == 0])
        over.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    poster = threading.Thread(target=posts)
    try:
        poster.start()
        while not over.is_set():
            take(inbox, runs)
    finally:
        sys.setswitchinterval(interval)
        poster.join()
    while not inbox.empty:
        take(inbox, runs)
    assert [run.taken for run in runs] == [run.posted for run in runs]
    assert not any(run.ledger.outcomes for run in runs)


def test_a_small_run_need_not_wait_for_a_large_one_until_twice_as_much_waits() -> None:
    inbox, large, small = new_inbox(), new_run(1), new_run(2)
    for _ in range(inboxes._POSTS):
        post_outcome(inbox, large)
    assert inbox.full_for(large.ledger)
    for _ in range(inboxes._FEW):
        assert not inbox.full_for(small.ledger)
        post_outcome(inbox, small)
    assert inbox.full_for(small.ledger)
    for _ in range(inboxes._POSTS):
        post_outcome(inbox, large)
    assert inbox.full_for(new_run(3).ledger)


def test_those_with_little_to_say_are_taken_first() -> None:
    inbox, large, small = new_inbox(), new_run(1), new_run(2)
    for _ in range(10):
        post_outcome(inbox, large)
    post_outcome(inbox, small)
    with bounded(5):
        take(inbox, [large, small])
    assert small.taken == 1
    assert large.taken == 4


def test_each_of_many_alike_runs_gets_its_share_of_each_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inboxes, "_BATCH", 40)
    inbox, runs = new_inbox(), [new_run(number) for number in range(20)]
    for _ in range(3):
        for run in runs:
            for _ in range(10):
                post_outcome(inbox, run)
        before = [run.taken for run in runs]
        take(inbox, runs)
        assert [run.taken - was for run, was in zip(runs, before, strict=True)] == [2] * 20


def test_more_runs_than_a_commit_has_room_for_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "_BATCH", 4)
    inbox, runs = new_inbox(), [new_run(number) for number in range(10)]
    for run in runs:
        for _ in range(50):
            post_outcome(inbox, run)
    for _ in range(15):
        take(inbox, runs)
    assert min(run.taken for run in runs) >= 4


def test_a_run_without_messages_does_not_wait_behind_those_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inboxes, "_BATCH", 40)
    inbox, plain, others = new_inbox(), new_run(0), [new_run(number) for number in range(1, 9)]
    runs = [plain, *others]
    post_outcome(inbox, plain)
    take(inbox, runs)
    for _ in range(5):
        for run in others:
            for _ in range(10):
                post_other(inbox, run)
        post_outcome(inbox, plain)
    take(inbox, runs)
    assert sum(run.taken for run in others) < sum(run.posted for run in others)
    # Its first one announces itself in the queue, behind what came before it.
    for _ in range(3):
        post_outcome(inbox, plain)
        take(inbox, runs)
    assert plain.taken >= 2


def test_there_is_something_in_a_draft_while_anything_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inboxes, "_BATCH", 4)
    inbox, runs = new_inbox(), [new_run(number) for number in range(30)]
    for run in runs:
        post_outcome(inbox, run)
    while not inbox.empty:
        assert take(inbox, runs).tickets
    assert [run.taken for run in runs] == [1] * 30
