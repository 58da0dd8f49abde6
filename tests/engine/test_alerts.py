"""Alerts in virtual time: from the end of a run to the one who is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio

from stagerun import Pipeline, RunInterrupted, SettingError, UsageError, open_runtime, stage
from stagerun.alerts import Alert, Alerts, Rule, ended, older, running
from stagerun.engine.alerting import Alerting
from stagerun.engine.culprit import Culprit
from stagerun.engine.health import Health
from stagerun.engine.sighting import Eyes
from stagerun.engine.watch import Block
from stagerun.model.sights import RunSeen, Sights
from stagerun.rules.liveness import Thresholds
from stagerun.store.inline import InlineStore
from tests.conftest import EPOCH, Bench, virtual_env


@stage(workers=4)
async def work(seconds: float) -> float:
    if seconds < 0:
        raise ValueError("api_key=abcdefghij0123 was wrong")
    await trio.sleep(seconds)
    return seconds


PIPELINE = Pipeline("work", [work], grace=1.0)


class Mailbox:
    """A sink that remembers, and fails as often as it is told to."""

    def __init__(self, name: str = "mailbox", *, fails: int = 0, hangs: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.hangs = hangs
        self.got: list[Alert] = []
        self.tried: list[float] = []
        self.changed = trio.Event()

    async def deliver(self, alert: Alert) -> None:
        self.tried.append(trio.current_time())
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            self.fails -= 1
            raise OSError("token=0123456789abcdef: nobody is there")
        self.got.append(alert)
        self.changed.set()

    async def holds(self, count: int, within: float = 60.0) -> list[Alert]:
        with trio.fail_after(within):
            while len(self.got) < count:
                await self.changed.wait()
                self.changed = trio.Event()
        return self.got


@asynccontextmanager
async def opened(
    *sinks: Any,
    rules: tuple[Rule, ...] = (ended(),),
    store: InlineStore | None = None,
    environ: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Bench]:
    store = store or InlineStore(":memory:")
    alerts = Alerts(sinks, rules=rules, **options)
    env = virtual_env(environ=environ or {})
    async with open_runtime(store=store, env=env, alerts=alerts) as runtime:
        yield Bench(runtime, store)


pytestmark = pytest.mark.usefixtures("new_bench")  # so that time is virtual


async def test_an_ending_is_told_with_its_run_and_without_its_secrets() -> None:
    box = Mailbox()
    async with opened(box) as bench:
        run = await bench.runtime.start(PIPELINE, [-1], labels={"customer": "a", "token": "s3"})
        await run.wait()
        (alert,) = await box.holds(1, within=3)
        document = await run.document()
    assert alert.rule == "ended"
    assert alert.summary.startswith(f"run {run.id[:8]} of pipeline work ended failed")
    assert alert.run is not None
    shared = ("id", "pipeline", "generation", "status", "verdict", "cause", "message", "step",
              "percent", "created_at", "started_at", "finished_at")  # fmt: skip
    assert {name: alert.run[name] for name in shared} == {name: document[name] for name in shared}
    assert alert.run["labels"] == {"customer": "a", "token": "[redacted]"}
    assert "abcdefghij0123" not in str(alert.document())


async def test_every_way_to_end_a_run_stands_in_line() -> None:
    box = Mailbox()

    @stage(deadline=1e6)
    async def never(item: int) -> None:
        await trio.sleep_forever()

    slow = Pipeline("slow", [never], grace=1.0, deadline=10.0)
    variable = "STAGERUN_WORK_WORK_WORKERS"
    async with opened(box, environ={variable: "none"}) as bench:
        with pytest.raises(SettingError):
            await bench.runtime.start(PIPELINE, [1])
        cancelled = await bench.runtime.start(slow, [1])
        await cancelled.cancel("enough")
        late = await bench.runtime.start(slow, [1])
        await late.wait()
        interrupted = await bench.runtime.start(slow, [1])
    (end,) = [each async for each in _one(interrupted.wait())]
    with pytest.raises(RunInterrupted):
        end.raise_for_status()
    told = sorted(alert.run["status"] for alert in box.got if alert.run)
    assert told == ["cancelled", "failed", "interrupted", "timed_out"]


async def _one(awaitable: Any) -> AsyncIterator[Any]:
    yield await awaitable


async def test_what_ended_before_somebody_listened_is_not_told(tmp_path: Any) -> None:
    box, path = Mailbox(), str(tmp_path / "runs.db")
    store = InlineStore(path)
    async with open_runtime(store=store, env=virtual_env()) as runtime:
        bench = Bench(runtime, store)
        await bench.finish(PIPELINE, [-1])
        assert bench.sql("SELECT count(*) FROM endings") == [(0,)]
    async with opened(box, store=InlineStore(path)) as bench:
        await bench.finish(PIPELINE, [1])
        (alert,) = await box.holds(1)
        await trio.sleep(10)
        assert len(box.got) == 1
        assert alert.run is not None
        assert alert.run["status"] == "succeeded"
        assert bench.sql("SELECT count(*) FROM endings") == [(0,)]


async def test_what_ends_while_nobody_tells_is_told_later(tmp_path: Any) -> None:
    box, path = Mailbox(), str(tmp_path / "runs.db")
    async with opened(box, store=InlineStore(path)):
        pass
    store = InlineStore(path)
    async with open_runtime(store=store, env=virtual_env()) as runtime:
        result = await Bench(runtime, store).finish(PIPELINE, [-1])
    async with opened(box, store=InlineStore(path)):
        (alert,) = await box.holds(1)
    assert alert.run is not None
    assert alert.run["id"] == result.id


async def test_a_sink_that_fails_is_tried_again_with_growing_pauses() -> None:
    good, bad = Mailbox("good"), Mailbox("bad", fails=3)
    async with opened(good, bad) as bench:
        await bench.finish(PIPELINE, [1])
        await bad.holds(1)
        assert len(good.got) == len(bad.got) == 1
        pauses = [after - before for before, after in pairwise(bad.tried)]
        assert pauses[0] < pauses[1] < pauses[2]
        await trio.sleep(2)
        rows = bench.sql("SELECT sink, tries, error, delivered_at > 0 FROM alerts ORDER BY sink")
        assert rows == [("bad", 4, None, 1), ("good", 1, None, 1)]


async def test_a_delivery_is_given_up_at_its_end_and_said_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = Mailbox("bad", fails=10**6)
    async with opened(bad, give_up_after=100.0) as bench:
        await bench.finish(PIPELINE, [1])
        await trio.sleep(200)
        ((tries, error, done),) = bench.sql("SELECT tries, error, given_up_at > 0 FROM alerts")
        tried = len(bad.tried)
        await trio.sleep(200)
    assert (tries, done) == (tried, 1)
    assert len(bad.tried) == tried
    assert "nobody is there" in error
    assert "0123456789abcdef" not in error + caplog.text
    said = [each.getMessage() for each in caplog.records if "given up" in each.getMessage()]
    assert len(said) == 1


async def test_a_sink_that_hangs_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    hung, good = Mailbox("hung", hangs=True), Mailbox("good")
    async with opened(hung, good, deadline=5.0) as bench:
        for _ in range(5):
            await bench.finish(PIPELINE, [1])
        await good.holds(5, within=4)
        await trio.sleep(30)
        assert len(hung.tried) > 3
        left = trio.current_time()
    assert trio.current_time() - left <= 6.0


async def test_a_flood_is_held_back_and_told_of_as_a_number() -> None:
    box = Mailbox()
    async with opened(box, per_minute=3) as bench:
        for _ in range(10):
            await bench.finish(PIPELINE, [-1])
        await trio.sleep(5)
        assert len(box.got) == 3
        digest = (await box.holds(4, within=90))[-1]
    assert digest.rule == "digest"
    assert digest.facts == {"held": 7, "by": {"pipeline work ended failed": 7}}


async def test_runs_that_are_many_or_old_are_told_of_once() -> None:
    box = Mailbox()
    async with opened(box, rules=(running(more_than=2), older(than=120))) as bench:
        runs = [await bench.runtime.start(PIPELINE, [600]) for _ in range(3)]
        (many,) = await box.holds(1)
        assert many.facts == {"running": 3, "limit": 2, "by_pipeline": {"work": 3}}
        await trio.sleep(110)
        assert len(box.got) == 1
        await trio.sleep(20)
        old = {alert.run["id"] for alert in box.got[1:] if alert.run}
        assert old == {run.id for run in runs}
        await trio.sleep(300)
        assert len(box.got) == 4


async def test_nothing_is_done_and_nothing_stands_there_without_alerts() -> None:
    store = InlineStore(":memory:")
    async with open_runtime(store=store, env=virtual_env()) as runtime:
        assert "alerts" not in runtime.tree()
        bench = Bench(runtime, store)
        await bench.finish(PIPELINE, [-1])
        for table in ("endings", "alerts", "alert_books", "alert_episodes"):
            assert bench.sql(f"SELECT count(*) FROM {table}") == [(0,)]


async def test_old_alerts_and_endings_of_pruned_runs_go() -> None:
    box, store = Mailbox(), InlineStore(":memory:")
    async with opened(box, store=store) as bench:
        for _ in range(3):
            await bench.finish(PIPELINE, [1])
        await box.holds(3)
        await trio.sleep(2)
        connection = store._connection
        assert connection is not None
        # Somebody who has listened, and never comes back.
        connection.execute(
            "INSERT INTO alert_books (name, ending, window, looked_at)"
            f" VALUES ('gone', 0, '{{}}', {int(EPOCH * 1e6)})"
        )
        for _ in range(3):
            await bench.finish(PIPELINE, [1])
        await box.holds(6)
        await trio.sleep(2)
        connection.execute("UPDATE alerts SET raised_at = raised_at - 2 * 86400000000")
        assert bench.sql("SELECT count(*) FROM endings") == [(3,)]
        await bench.runtime.prune(runs=1, days=1)
        assert bench.sql("SELECT count(*) FROM endings") == [(1,)]
        assert bench.sql("SELECT count(*) FROM alerts") == [(0,)]


async def test_a_defect_of_a_sink_or_a_row_written_by_hand_stops_nothing() -> None:
    box, store = Mailbox(), InlineStore(":memory:")

    def broken(alert: Alert) -> None:
        raise SystemError(alert)

    async with opened(box, broken, store=store) as bench:
        connection = store._connection
        assert connection is not None
        connection.execute(
            "INSERT INTO alerts (id, name, sink, rule, body, raised_at, next_try_at)"
            " VALUES ('0123', 'alerts', 'mailbox', 'ended', 'no json', 5, 5)"
        )
        await bench.finish(PIPELINE, [1])
        first, second = await box.holds(2)
        assert first.summary == "alert 0123 cannot be read any more; its rule was ended"
        assert second.run is not None


class World:
    """A process that sleeps: its wall clock goes on, and for a moment all seems stuck."""

    def __init__(self) -> None:
        self.now = 0.0
        self.trouble = self.blocked = False
        env = virtual_env(wall=lambda: EPOCH + self.now, monotonic=lambda: self.now)
        self.eyes = Eyes(self, self, env, owner=lambda: 1, limits=Thresholds())  # type: ignore[arg-type]

    def health(self) -> Health:
        return Health("degraded", "slow") if self.trouble else Health("ok")

    @property
    def current(self) -> Block | None:
        return Block(-10.0, Culprit("jobs.py:3", "work"), 10.0) if self.blocked else None

    def sees(self, after: float, *runs: RunSeen) -> Sights:
        self.now += after
        return self.eyes.corrected(Sights(now=int((EPOCH + self.now) * 1e6), under_way=runs))


async def test_what_is_stuck_must_be_seen_twice_with_no_sleep_in_between() -> None:
    world = World()
    world.sees(1)
    world.trouble = world.blocked = True
    assert not world.sees(3600).degraded
    assert world.eyes.in_doubt
    world.trouble = world.blocked = False
    world.sees(1)
    world.trouble = world.blocked = True
    assert not world.sees(10).blocked
    seen = world.sees(0.5)
    assert not world.eyes.in_doubt
    assert seen.degraded
    (blocked,) = seen.blocked
    assert blocked.by == "code outside of any run at jobs.py:3 in work"


async def test_the_time_slept_is_nobody_s() -> None:
    world = World()
    began = int(EPOCH * 1e6)

    def stands() -> RunSeen:
        """As its row says it: the wall clock has gone on."""
        return RunSeen(
            number=1,
            generation=1,
            id="1",
            pipeline="work",
            status="running",
            verdict="stalled" if world.now > 300 else "alive",
            created_at=began,
            age=world.now,
            unmoved=world.now,
        )

    for _ in range(100):
        world.sees(1)
    world.now += 3600
    (run,) = world.sees(0, stands()).under_way
    assert (run.age, run.unmoved, run.verdict) == (100, 100, "alive")
    for _ in range(200):
        world.sees(1)
    (run,) = world.sees(0, stands()).under_way
    assert (run.age, run.verdict) == (300, "alive")
    world.sees(1)
    (run,) = world.sees(0, stands()).under_way
    assert (run.age, run.verdict) == (301, "stalled")


async def test_something_else_than_alerts_is_refused() -> None:
    with pytest.raises(UsageError, match=r"takes Alerts"):
        async with open_runtime(
            store=InlineStore(":memory:"),
            env=virtual_env(),
            alerts=print,  # type: ignore[arg-type]
        ):
            pass


async def test_a_name_cannot_be_used_by_others_with_other_rules_while_it_is_served(
    tmp_path: Any,
) -> None:
    box, path = Mailbox(), str(tmp_path / "runs.db")
    async with opened(box, store=InlineStore(path)):
        async with opened(box, store=InlineStore(path)):
            pass  # the same may serve it, too
        for sink, rules in ((box, (running(3),)), (Mailbox("other"), (ended(),))):
            with pytest.raises(UsageError, match=r"Alerts\(\.\.\., name=\.\.\.\)"):
                async with opened(sink, rules=rules, store=InlineStore(path)):
                    pass
        async with opened(Mailbox("other"), name="other", store=InlineStore(path)):
            pass
    async with opened(Mailbox("other"), store=InlineStore(path)):
        pass  # nobody serves it any more: it is taken over


async def test_several_alerts_tell_each_their_own() -> None:
    failed, all_of_them = Mailbox("a"), Mailbox("b")
    several = (
        Alerts([failed], rules=[ended("failed")], name="a"),
        Alerts([all_of_them], rules=[ended()], name="b"),
    )
    store = InlineStore(":memory:")
    async with open_runtime(store=store, env=virtual_env(), alerts=several) as runtime:
        bench = Bench(runtime, store)
        await bench.finish(PIPELINE, [1])
        await bench.finish(PIPELINE, [-1])
        await all_of_them.holds(2)
        await failed.holds(1)
    assert len(failed.got) == 1
    with pytest.raises(UsageError, match="two Alerts are named 'a'"):
        async with open_runtime(store=store, env=virtual_env(), alerts=[several[0]] * 2):
            pass


async def test_an_error_whose_text_raises_is_a_try_that_has_failed() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

        @property
        def retry_after(self) -> float:
            raise ValueError

    def bad(alert: Alert) -> None:
        raise OddError

    box = Mailbox()
    async with opened(bad, box) as bench:
        for count in (1, 2):
            await bench.finish(PIPELINE, [1])
            await box.holds(count)
        await trio.sleep(1)
        ((error,),) = bench.sql("SELECT DISTINCT error FROM alerts WHERE sink = 'bad'")
        assert "whose text raises ValueError" in error


async def test_alerts_go_on_after_a_defect_has_ended_their_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Mailbox()
    async with opened(box) as bench:
        await bench.finish(PIPELINE, [1])
        await box.holds(1)

        def broken(self: Alerting, *_: Any) -> list[str]:
            monkeypatch.undo()
            raise RuntimeError("a defect")

        monkeypatch.setattr(Alerting, "_goes_on", broken)
        await trio.sleep(3)
        await bench.finish(PIPELINE, [1])
        await box.holds(2, within=20)


async def test_what_waits_for_a_sink_that_is_no_more_is_given_up_in_time(tmp_path: Any) -> None:
    path, caught = str(tmp_path / "runs.db"), Mailbox("old", fails=1000)
    async with opened(caught, store=InlineStore(path)) as bench:
        await bench.finish(PIPELINE, [1])
        await trio.sleep(2)
    async with opened(Mailbox("new"), store=InlineStore(path), give_up_after=100.0) as bench:
        await trio.sleep(110)
        (row,) = bench.sql("SELECT given_up_at IS NOT NULL FROM alerts WHERE sink = 'old'")
        assert row == (1,)


async def test_old_news_is_not_told_and_a_name_that_nobody_serves_is_forgotten(
    tmp_path: Any,
) -> None:
    box, other, path = Mailbox(), Mailbox(), str(tmp_path / "runs.db")
    async with opened(box, store=InlineStore(path)):
        pass
    async with opened(other, name="other", store=InlineStore(path)) as bench:
        await bench.finish(PIPELINE, [1])
        await other.holds(1)
        connection = bench.store._connection
        assert connection is not None
        connection.execute("UPDATE generations SET finished_at = finished_at - 86400000000 * 2")
    async with opened(box, store=InlineStore(path)) as bench:
        await trio.sleep(10)
        assert not box.got
    async with opened(other, name="other", store=InlineStore(path)) as bench:
        connection = bench.store._connection
        assert connection is not None
        connection.execute("UPDATE alert_books SET looked_at = 0")
        await bench.runtime.prune(runs=None, days=1)
        assert bench.sql("SELECT name FROM alert_books") == [("other",)]
        assert bench.sql("SELECT count(*) FROM endings") == [(0,)]
