"""Schedules in virtual time: each slot is decided once, and nothing hangs behind a run."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from stagerun import Pipeline, Runtime, Schedule, UsageError, open_runtime, stage
from stagerun.store.inline import InlineStore
from tests.conftest import EPOCH, Bench, virtual_env


@stage
async def quick(item: int) -> int:
    return item


@stage(deadline=50)
async def hangs(_item: int) -> None:
    await trio.sleep_forever()


def quick_pipeline(name: str = "quick", **options: Any) -> Pipeline:
    return Pipeline(name, [quick], source=[1, 2], **options)


@asynccontextmanager
async def serving(
    *schedules: Schedule, store: InlineStore | None = None, **world: Any
) -> AsyncIterator[Bench]:
    store = store or InlineStore(":memory:")
    async with open_runtime(store=store, env=virtual_env(**world), schedules=schedules) as runtime:
        yield Bench(runtime, store)


def slots(bench: Bench, name: str) -> list[tuple[Any, ...]]:
    """Seconds since the beginning, decision, missed and status, by slot."""
    return [
        (at / 1e6 - EPOCH, decision, missed, status)
        for at, decision, missed, status in bench.sql(
            "SELECT k.at, k.decision, k.missed, g.status FROM slots k JOIN schedules s"
            " USING (schedule) LEFT JOIN runs r ON r.id = k.run LEFT JOIN generations g"
            " ON g.run = r.run AND g.generation = r.generation WHERE s.name = ? ORDER BY k.slot",
            name,
        )
    ]


async def only(runtime: Runtime) -> dict[str, Any]:
    (document,) = await runtime.schedules()
    return document


async def test_a_schedule_fires_at_each_of_its_slots(bench: Bench) -> None:
    async with serving(Schedule("often", quick_pipeline(), every=60)) as here:
        await trio.sleep(200)
        assert slots(here, "often") == [
            (60, "fired", 0, "succeeded"),
            (120, "fired", 0, "succeeded"),
            (180, "fired", 0, "succeeded"),
        ]
        document = await only(here.runtime)
        assert document["fired"] == 3
        assert document["state"] == "waiting"
        assert document["next_at"] == "2023-11-14T22:17:20.000+00:00"
        assert document["last"]["status"] == "succeeded"
        labels = here.sql("SELECT DISTINCT name, value FROM labels")
        assert labels == [("schedule", "often")]


async def test_a_cron_fires_at_the_times_of_its_zone(bench: Bench) -> None:
    # The world begins at 23:13:20 in Berlin.
    nightly = Schedule("nightly", quick_pipeline(), cron="30 23 * * *", zone="Europe/Berlin")
    async with serving(nightly) as here:
        assert (await only(here.runtime))["next_at"] == "2023-11-14T22:30:00.000+00:00"
        await trio.sleep(1200)
        assert slots(here, "nightly") == [(1000, "fired", 0, "succeeded")]
        assert (await only(here.runtime))["next_at"] == "2023-11-15T22:30:00.000+00:00"


async def test_what_was_missed_becomes_one_run_and_is_counted(bench: Bench) -> None:
    asleep = 0.0

    def wall() -> float:
        return EPOCH + trio.current_time() + asleep

    async with serving(Schedule("often", quick_pipeline(), every=60), wall=wall) as here:
        await trio.sleep(90)
        asleep = 3600.0  # the machine's clock goes on while nothing else does
        await trio.sleep(100)
        assert slots(here, "often") == [
            (60, "fired", 0, "succeeded"),
            (3660, "fired", 59, "succeeded"),
            (3720, "fired", 0, "succeeded"),
            (3780, "fired", 0, "succeeded"),
        ]
        assert (await only(here.runtime))["missed"] == 59


async def test_downtime_is_missed_time_as_well(bench: Bench, tmp_path: Path) -> None:
    schedule = Schedule("often", quick_pipeline(), every=60)
    async with serving(schedule, store=InlineStore(str(tmp_path / "a.db"))):
        await trio.sleep(70)
    await trio.sleep(250)
    async with serving(schedule, store=InlineStore(str(tmp_path / "a.db"))) as here:
        await trio.sleep(60)
        assert slots(here, "often") == [
            (60, "fired", 0, "succeeded"),
            (300, "fired", 3, "succeeded"),
            (360, "fired", 0, "succeeded"),
        ]


async def test_other_times_begin_anew(bench: Bench, tmp_path: Path) -> None:
    async with serving(
        Schedule("often", quick_pipeline(), every=60), store=InlineStore(str(tmp_path / "a.db"))
    ):
        await trio.sleep(70)
    await trio.sleep(530)
    changed = Schedule("often", quick_pipeline(), every=100)
    async with serving(changed, store=InlineStore(str(tmp_path / "a.db"))) as here:
        await trio.sleep(110)
        assert slots(here, "often") == [
            (60, "fired", 0, "succeeded"),
            (700, "fired", 0, "succeeded"),
        ]


async def test_runs_that_end_before_the_next_slot_keep_none_from_coming(bench: Bench) -> None:
    stuck = Pipeline("stuck", [hangs], source=[1], deadline=150, grace=1)
    async with serving(Schedule("stuck", stuck, every=60)) as here:
        await trio.sleep(130)
        # The item's own deadline, 50 s, lets each run end before the next slot.
        assert [slot[1] for slot in slots(here, "stuck")] == ["fired", "fired"]


async def test_a_run_that_hangs_blocks_no_slot_beyond_its_deadline(bench: Bench) -> None:
    longer = Pipeline("stuck", [hangs.with_options(deadline=None)], source=[1], deadline=150)
    async with serving(Schedule("stuck", longer, every=60)) as here:
        await trio.sleep(310)
        decisions = [(at, decision) for at, decision, _, _ in slots(here, "stuck")]
        # Hung as it is, it ends at its deadline (60 + 150), and the next slot comes through.
        assert decisions == [
            (60, "fired"),
            (120, "skipped"),
            (180, "skipped"),
            (240, "fired"),
            (300, "skipped"),
        ]
        assert (await only(here.runtime))["skipped"] == 3
        (reason,) = here.sql("SELECT DISTINCT reason FROM slots WHERE at = ?", at_us(120))[0]
        assert "has not ended yet" in reason


def at_us(seconds: float) -> int:
    return int((EPOCH + seconds) * 1e6)


async def test_queued_runs_wait_in_line_and_no_more_than_allowed_are_active(bench: Bench) -> None:
    slow = Pipeline("slow", [hangs.with_options(deadline=100)], source=[1], deadline=3000)
    async with serving(Schedule("slow", slow, every=60, overlap="queue", active=2)) as here:
        most = 0
        for _ in range(600):
            await trio.sleep(1)
            ((active,),) = here.sql("SELECT count(*) FROM generations WHERE status = 'running'")
            most = max(most, active)
        assert most == 2
        assert {slot[1] for slot in slots(here, "slow")} == {"fired"}


async def test_the_previous_run_is_cancelled_for_the_next_one(bench: Bench) -> None:
    stuck = Pipeline("stuck", [hangs.with_options(deadline=None)], source=[1], deadline=1500)
    schedule = Schedule("stuck", stuck, every=60, overlap="cancel_previous")
    async with serving(schedule) as here:
        await trio.sleep(250)
        assert [slot[1:] for slot in slots(here, "stuck")] == [
            ("fired", 0, "cancelled"),
            ("fired", 0, "cancelled"),
            ("fired", 0, "cancelled"),
            ("fired", 0, "running"),
        ]
        (message,) = here.sql("SELECT message FROM generations WHERE status = 'cancelled'")[0]
        assert "schedule stuck has started its next run" in message


async def test_paused_no_slot_comes_and_none_is_made_up_for(bench: Bench) -> None:
    async with serving(Schedule("often", quick_pipeline(), every=60)) as here:
        await trio.sleep(70)
        assert (await here.runtime.pause_schedule("often"))["state"] == "paused"
        await trio.sleep(600)
        document = await here.runtime.resume_schedule("often")
        assert document["state"] == "waiting"
        await trio.sleep(65)
        assert slots(here, "often") == [
            (60, "fired", 0, "succeeded"),
            (730, "fired", 0, "succeeded"),
        ]


async def test_a_schedule_can_be_triggered_at_any_time(bench: Bench) -> None:
    async with serving(Schedule("often", quick_pipeline(), every=3600)) as here:
        await trio.sleep(5)
        slot = await here.runtime.trigger_schedule("often")
        assert slot["decision"] == "fired"
        assert slot["asked_by"] == "a program"
        run = await here.runtime.find(slot["run"])
        assert (await run.wait()).status == "succeeded"
        await here.runtime.pause_schedule("often")
        assert (await here.runtime.trigger_schedule("often"))["decision"] == "fired"


async def test_of_slots_and_triggers_alike_only_the_last_are_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagerun.store.slots._KEPT", 3)
    async with serving(Schedule("often", quick_pipeline(), every=3600)) as here:
        await here.runtime.pause_schedule("often")
        for _ in range(5):
            await here.runtime.trigger_schedule("often")
        assert here.sql("SELECT slot FROM slots ORDER BY slot") == [(3,), (4,), (5,)]
        assert (await only(here.runtime))["fired"] + (await only(here.runtime))["skipped"] == 5


async def test_a_trigger_obeys_the_overlap(bench: Bench) -> None:
    stuck = Pipeline("stuck", [hangs], source=[1])
    async with serving(Schedule("stuck", stuck, every=3600)) as here:
        assert (await here.runtime.trigger_schedule("stuck"))["decision"] == "fired"
        slot = await here.runtime.trigger_schedule("stuck")
        assert slot["decision"] == "skipped"
        assert "has not ended yet" in slot["reason"]


async def test_what_nobody_serves_cannot_be_triggered(bench: Bench, tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    async with serving(
        Schedule("often", quick_pipeline(), every=60), store=InlineStore(path)
    ) as here:
        with pytest.raises(UsageError, match="there is no schedule 'oftn': there is often"):
            await here.runtime.trigger_schedule("oftn")
    async with serving(store=InlineStore(path)) as here:
        assert (await only(here.runtime))["state"] == "unserved"
        with pytest.raises(UsageError, match="no process serves schedule 'often'"):
            await here.runtime.trigger_schedule("often")


async def test_several_processes_fire_each_slot_once(bench: Bench, tmp_path: Path) -> None:
    schedule = Schedule("often", quick_pipeline(), every=10, active=3)
    path = str(tmp_path / "a.db")
    async with (
        serving(schedule, store=InlineStore(path)) as first,
        serving(schedule, store=InlineStore(path)),
        serving(schedule, store=InlineStore(path)),
    ):
        await trio.sleep(1005)
        found = slots(first, "often")
        assert [slot[0] for slot in found] == [10.0 * n for n in range(1, 101)]
        assert {slot[1:] for slot in found} == {("fired", 0, "succeeded")}
        assert first.sql("SELECT count(*) FROM runs") == [(100,)]
        assert (await only(first.runtime))["served_by"] == 3


async def test_a_run_whose_items_cannot_be_stored_is_told_and_the_next_slot_comes(
    bench: Bench,
) -> None:
    schedule = Schedule("often", quick_pipeline(), every=60, items=[1, object()])
    async with serving(schedule) as here:
        await trio.sleep(130)
        assert [slot[1:] for slot in slots(here, "often")] == [("fired", 0, "failed")] * 2
        assert here.sql("SELECT DISTINCT cause FROM generations") == [("source_error",)]


async def test_a_clock_that_was_far_ahead_does_not_stop_a_schedule(bench: Bench) -> None:
    ahead = 365 * 86400.0

    def wall() -> float:
        return EPOCH + trio.current_time() + ahead

    async with serving(Schedule("often", quick_pipeline(), every=60), wall=wall) as here:
        await trio.sleep(70)
        ahead = 0.0
        await trio.sleep(130)
        assert [slot[1] for slot in slots(here, "often")] == ["fired"] * 3


async def test_resumed_after_a_clock_was_set_back_no_slot_comes_twice(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    back = 0.0

    def wall() -> float:
        return EPOCH + trio.current_time() - back

    async with serving(Schedule("often", quick_pipeline(), cron="* * * * *"), wall=wall) as here:
        await trio.sleep(170)
        back = 150.0
        await here.runtime.pause_schedule("often")
        await here.runtime.resume_schedule("often")
        await trio.sleep(210)
        assert slots(here, "often") == [(at, "fired", 0, "succeeded") for at in (40, 100, 160, 220)]
        assert "looked at again" not in caplog.text


async def test_a_setting_cannot_take_away_what_ends_a_run(bench: Bench) -> None:
    schedule = Schedule("often", quick_pipeline(), every=60)
    with pytest.raises(UsageError, match="has switched the deadline of pipeline 'quick' off"):
        async with serving(schedule, environ={"STAGERUN_QUICK_DEADLINE": "off"}):
            pass


async def test_a_schedule_that_cannot_be_stored_is_refused_at_once(bench: Bench) -> None:
    bad = Schedule("bad", quick_pipeline(), every=60, params=object())
    with pytest.raises(UsageError, match="params cannot be stored"):
        async with serving(bad):
            pass
    twice = Schedule("often", quick_pipeline(), every=60)
    with pytest.raises(UsageError, match="two schedules are named 'often'"):
        async with serving(twice, twice):
            pass


async def test_a_clock_that_was_hours_ahead_silences_nothing(bench: Bench) -> None:
    ahead = 8 * 3600.0

    def wall() -> float:
        return EPOCH + trio.current_time() + ahead

    async with serving(Schedule("often", quick_pipeline(), every=60), wall=wall) as here:
        await trio.sleep(90)
        ahead = 0.0
        await trio.sleep(130)
        assert [slot[1] for slot in slots(here, "often")] == ["fired"] * 3


async def test_a_deployment_that_is_taken_back_leaves_the_schedule_served(
    bench: Bench, tmp_path: Path
) -> None:
    path = str(tmp_path / "a.db")
    old, new = (Schedule("often", quick_pipeline(), every=seconds) for seconds in (60, 90))
    async with serving(old, store=InlineStore(path)) as here:
        await trio.sleep(70)
        async with serving(new, store=InlineStore(path)) as there:
            await trio.sleep(10)
            assert (await only(here.runtime))["served_by"] == 1
            await trio.sleep(90)
            assert slots(there, "often")[-1][:2] == (160, "fired")
        await trio.sleep(100)
        document = await only(here.runtime)
        assert (document["every"], document["served_by"]) == (60, 1)
        assert (await here.runtime.trigger_schedule("often"))["decision"] == "fired"
        times = [slot[0] for slot in slots(here, "often")]
        assert len(times) == 4


async def test_items_that_raise_cost_their_slot_and_nothing_else(bench: Bench) -> None:
    class Folder(Sequence[int]):
        gone = False

        def __len__(self) -> int:
            if self.gone:
                raise OSError("the network drive is gone")
            return 1

        def __getitem__(self, index: Any) -> Any:
            return [1][index]

    folder = Folder()
    schedule = Schedule("often", quick_pipeline(), every=60, items=folder)
    async with serving(schedule) as here:
        other = await here.runtime.start(Pipeline("other", [hangs]), [1])
        folder.gone = True
        await trio.sleep(70)
        folder.gone = False
        await trio.sleep(60)
        assert [slot[1] for slot in slots(here, "often")] == ["skipped", "fired"]
        reasons = here.sql("SELECT reason FROM slots WHERE reason IS NOT NULL")
        assert reasons == [("it could not be started: the network drive is gone",)]
        assert (await other.wait()).status == "failed"  # by its own deadline
