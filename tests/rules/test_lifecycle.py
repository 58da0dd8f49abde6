"""How a run ends, and how far it is, from counts alone."""

from hypothesis import given
from hypothesis import strategies as st

from stagerun import Pipeline, Status, batch, collect, stage
from stagerun.model.status import Cause, Counts, Ending
from stagerun.rules.lifecycle import conclude, enough, stage_status
from stagerun.rules.progress import percent

outcomes = st.fixed_dictionaries(
    {
        name: st.integers(0, 50)
        for name in ("ok", "failed", "timed_out", "cancelled", "skipped", "crashed", "in_flight")
    }
)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    sums = draw(outcomes)
    return Counts(name="s", accepted=sum(sums.values()) + draw(st.integers(0, 50)), **sums)


@stage(least_ok=0.5)
async def half(item: object) -> object:
    return item


@stage
async def any_(item: object) -> object:
    return item


@given(counts())
def test_the_sums_of_a_stage_hold(sums: Counts) -> None:
    assert sums.accepted == sums.settled + sums.in_flight + sums.waiting
    assert sums.waiting >= 0


@given(counts())
def test_a_stage_with_work_and_no_success_never_suffices(sums: Counts) -> None:
    if sums.settled > sums.skipped and sums.ok == 0:
        assert not enough(any_, sums)
        assert not enough(half, sums)
    if enough(half, sums):
        assert enough(any_, sums), "a smaller share is easier to reach"


def test_skipped_items_are_not_judged() -> None:
    assert enough(half, Counts(name="s", accepted=10, skipped=10))
    assert enough(half, Counts(name="s", accepted=10, skipped=8, ok=1, failed=1))
    assert not enough(half, Counts(name="s", accepted=10, skipped=7, ok=1, failed=2))


def test_a_run_without_items_succeeds() -> None:
    ending = conclude(Pipeline("p", [any_]), [Counts(name="any_")], None)
    assert (ending.status, ending.cause) == (Status.SUCCEEDED, Cause.COMPLETED)


def test_too_few_successes_name_the_stage_and_its_sums() -> None:
    sums = Counts(name="half", accepted=40, ok=19, timed_out=20, failed=1)
    ending = conclude(Pipeline("p", [half]), [sums], None)
    assert (ending.status, ending.cause) == (Status.FAILED, Cause.LEAST_OK)
    assert ending.message == (
        "stage half: 19 of 40 items ok (1 failed, 20 timed out), wanted: least_ok 50%"
    )


def test_the_share_of_a_pipeline_counts_what_was_lost_on_the_way() -> None:
    pipeline = Pipeline("p", [any_, half.with_options(least_ok=0.0)], least_ok=0.9)
    first = Counts(name="any_", accepted=10, ok=8, failed=2)
    second = Counts(name="half", accepted=8, ok=8)
    assert conclude(pipeline, [first, second], None).cause is Cause.LEAST_OK
    assert conclude(pipeline.with_options(least_ok=0.8), [first, second], None).status is (
        Status.SUCCEEDED
    )


def test_a_broken_source_comes_first() -> None:
    broken = Ending(Status.FAILED, Cause.SOURCE_ERROR, "gone")
    assert conclude(Pipeline("p", [half]), [Counts(name="half", accepted=1, failed=1)], broken) is (
        broken
    )


@given(counts(), st.none() | st.sampled_from([s for s in Status if s.terminal]))
def test_a_stage_has_a_word_for_every_state(sums: Counts, status: Status | None) -> None:
    ending = None if status is None else Ending(status, Cause.COMPLETED, "")
    word = stage_status(half, sums, ending)
    assert word in {"skipped", "running", *(s.value for s in Status)}
    assert (word == "skipped") == (sums.accepted == 0)


@given(st.lists(counts(), min_size=1, max_size=5), st.none() | st.integers(0, 100))
def test_a_percentage_is_a_percentage(stages: list[Counts], length: int | None) -> None:
    estimate = percent([1.0] * len(stages), stages, length)
    if length is None:
        assert estimate is None
    else:
        assert estimate is not None
        assert 0.0 <= estimate <= 99.9


def test_the_percentage_moves_inside_a_stage_item_by_item() -> None:
    seen = [
        percent([25, 15, 60], [Counts(name="a", accepted=10, ok=10),
                               Counts(name="b", accepted=10, ok=n), Counts(name="c")], 10)
        for n in range(10)
    ]  # fmt: skip
    assert seen == [25 + 1.5 * n for n in range(10)]


def test_batch_and_collect_are_stages_too() -> None:
    @batch(size=2)
    async def two(items: list[int]) -> list[int]:
        return items

    @collect(least_ok=0.9)
    async def all_(members: object) -> int:
        return 1

    pipeline = Pipeline("p", [two, all_])
    sums = [Counts(name="two", accepted=2, ok=2), Counts(name="all_", accepted=2, ok=1, failed=1)]
    assert conclude(pipeline, sums, None).status is Status.SUCCEEDED, "a group's share is its own"
